//! Notebooks 5, 6 and 14: variants of an experiment side by side, several seeds each.

use crate::figures::style::{
    self, axis, bar, bars, beaten, colour, dot, framed, line, points, stroke, symbol,
};
use crate::tables::known;
use branchynet::Result;
use branchynet_runs::{Accuracy, Quantity, Seeds, Spread, Summary};
use plotly::Plot;
use plotly::common::{Font, Mode, Position};
use plotly::layout::AxisType;
use polars::prelude::DataFrame;
use std::collections::HashSet;

/// What the runs of a variant gave, each asked by `ask` for quantities with their names. `name` is the variant's, for axes
/// and tables: `1.0 : 0.3`.
pub fn variant(
    name: &str,
    runs: &Seeds<Summary>,
    ask: impl Fn(&Summary) -> Vec<(String, f64)>,
) -> Result<Vec<Quantity>> {
    let of = |(quantity, value)| (name.to_string(), quantity, value);
    runs.quantities(|run| Ok(ask(run).into_iter().map(of).collect()))
}

/// A table of variants: for each quantity mean, standard deviation and 95 % interval over the seeds, and
/// the difference from the variant called `reference`, taken seed by seed, with its interval.
pub fn variants_table(variants: &[Quantity], reference: &str) -> Result<DataFrame> {
    let compared = |quantity: &Quantity| {
        let of_reference =
            |other: &&Quantity| (other.of.as_str(), &other.name) == (reference, &quantity.name);
        let difference = variants.iter().find(of_reference).map(|other| quantity.less(other));
        (quantity.clone(), quantity.spread(), difference)
    };
    let rows: Vec<_> = variants.iter().map(compared).collect();
    rows!(rows, (quantity, spread, difference) =>
        "variant" => quantity.of.clone(),
        "of" => quantity.name.clone(),
        "runs" => spread.runs as u64,
        "mean" => known(spread.mean),
        "standard deviation" => known(spread.deviation),
        "95 % ±" => known(spread.half_width),
        "difference" => difference.and_then(|difference| known(difference.mean)),
        "difference, 95 % ±" => difference.and_then(|difference| known(difference.half_width)),
    )
}

/// The name of an exit (from 0) as quantities have it.
fn exit_name(run: &Summary, exit: usize) -> String {
    match exit + 1 == run.exits.len() {
        true => "last exit".to_string(),
        false => format!("exit {}", exit + 1),
    }
}

/// The exits with their names.
fn exits(run: &Summary) -> impl Iterator<Item = (String, Accuracy)> {
    run.exits.iter().enumerate().map(|(i, exit)| (exit_name(run, i), *exit))
}

/// For [`variant`]: the accuracy of each exit on Test (0..=1).
pub fn on_test(run: &Summary) -> Vec<(String, f64)> {
    exits(run).map(|(name, of)| (name, of.test)).collect()
}

/// For [`variant`]: the accuracy of each exit on Validation (0..=1).
pub fn on_validation(run: &Summary) -> Vec<(String, f64)> {
    exits(run).map(|(name, of)| (name, of.validation)).collect()
}

/// For [`variant`]: at the thresholds that change at most 1 % of the answers on Validation, what they give on Test: the gain
/// in multiply-accumulates over the trunk alone. Nothing where the summary is from before it had that choice.
pub fn with_few_changed(run: &Summary) -> Vec<(String, f64)> {
    let chosen = run.choices.iter().find(|choice| choice.name == "1 % changed");
    chosen.map(|choice| ("gain".to_string(), 1.0 / choice.cost)).into_iter().collect()
}

/// For [`variant`]: by how much each exit is more accurate on Train than on Test (0..=1), and the
/// baselines'.
pub fn train_less_test(run: &Summary) -> Vec<(String, f64)> {
    let baselines = [("baseline", run.baseline), ("matched baseline", run.matched)];
    let named = baselines.into_iter().filter_map(|(name, of)| Some((name.to_string(), of?)));
    exits(run).chain(named).map(|(name, of)| (name, of.train - of.test)).collect()
}

/// For [`variant`]: what a branch (from 0) gives as the network's only one, on Test: its accuracy
/// (0..=1); and at the threshold without loss on Validation the share that leaves there (0..=1), and the
/// gain in multiply-accumulates. Panics where there is no such branch.
pub fn by_branch(run: &Summary, branch: usize) -> Vec<(String, f64)> {
    let (exit, alone) = (&run.exits[branch], &run.alone[branch]);
    [("the branch", exit.test), ("leave early", alone.shares[0]), ("gain", 1.0 / alone.cost)]
        .map(|(name, value)| (name.to_string(), value))
        .into()
}

/// Quantities of variants ([`variant`]): mean and standard deviation over the seeds, and each seed as a faint point.
/// `unit` is what quantities are shown in, as in 0.01 for percent. The paper's points, by the variants' names, are grey. A
/// line connects the means where the axis has a title; variants that have nothing in common to name have no order.
pub fn variants(
    x_title: &str,
    y_title: &str,
    unit: f64,
    variants: &[Quantity],
    paper: &[(String, f64)],
) -> Plot {
    let mut plot = Plot::new();
    if !paper.is_empty() {
        let (x, y): (Vec<_>, Vec<_>) = paper.iter().map(|(name, value)| (name.clone(), value / unit)).unzip();
        plot.add_trace(style::paper("paper, last exit (read off its figure)", x, y));
    }
    let mut names: Vec<&String> = variants.iter().map(|quantity| &quantity.name).collect();
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(*name));
    for (i, name) in names.into_iter().enumerate() {
        let here = || variants.iter().filter(|quantity| quantity.name == *name);
        let means = here().map(|quantity| quantity.spread().mean / unit).collect();
        let labels = here().map(|quantity| quantity.of.clone()).collect();
        let deviations = here().map(|quantity| bar(&quantity.spread()) / unit).collect();
        let mode = if x_title.is_empty() { Mode::Markers } else { Mode::LinesMarkers };
        let trace = line(name, labels, means, stroke(colour(i), 1.5)).mode(mode);
        plot.add_trace(trace.marker(dot(colour(i), 11, symbol(i))).error_y(bars(deviations)));
        let of_seeds =
            |of: &Quantity| of.values.iter().map(|(_, x)| (of.of.clone(), x / unit)).collect::<Vec<_>>();
        let (at, seeds): (Vec<String>, Vec<f64>) = here().flat_map(of_seeds).unzip();
        let faint = dot(colour(i), 6, symbol(i)).opacity(0.35);
        plot.add_trace(points(name, at, seeds, faint).show_legend(false));
    }
    plot.set_layout(framed(axis(x_title).type_(AxisType::Category), axis(y_title)));
    plot
}

/// What it costs to leave at a branch, and how accurate it is there: one point for each variant, with its
/// name, as (cost, accuracy) pairs. Those that no other beats in both are filled.
pub fn cost_against_accuracy(x_title: &str, variants: &[(f64, Quantity)]) -> Plot {
    let mut variants: Vec<_> = variants.iter().map(|(cost, of)| (*cost, of, of.spread())).collect();
    variants.sort_by(|a, b| a.0.total_cmp(&b.0));
    let means: Vec<(f64, f64)> = variants.iter().map(|(cost, _, spread)| (*cost, spread.mean)).collect();
    let (least, most) = (means.first().map_or(0.0, |mean| mean.0), means.last().map_or(1.0, |mean| mean.0));
    let mut plot = Plot::new();
    let kinds = [("no other is cheaper and as accurate", true), ("beaten", false)];
    for (i, (name, useful)) in kinds.into_iter().enumerate() {
        let is_here = |(cost, _, spread): &&(f64, _, Spread)| beaten(&means, (*cost, spread.mean)) != useful;
        let here: Vec<_> = variants.iter().filter(is_here).collect();
        // The useful rise to the right, with free space above them; the others lie below them. Of useful ones whose
        // names would lie on each other every other one goes below.
        let (mut positions, mut before, mut above) = (Vec::new(), f64::NEG_INFINITY, false);
        for (cost, ..) in &here {
            above = useful && (cost - before > 0.08 * (most - least) || !above);
            positions.push(if above { Position::TopLeft } else { Position::BottomRight });
            before = *cost;
        }
        let costs = here.iter().map(|(cost, ..)| *cost).collect();
        let right = here.iter().map(|(_, _, spread)| spread.mean * 100.0).collect();
        let deviations = here.iter().map(|(_, _, spread)| bar(spread) * 100.0).collect();
        plot.add_trace(
            points(name, costs, right, dot(colour(i), 11, symbol(i)))
                .mode(Mode::MarkersText)
                .text_array(here.iter().map(|(_, of, _)| of.of.clone()).collect::<Vec<_>>())
                .text_font(Font::new().size(11))
                .text_position_array(positions)
                .error_y(bars(deviations)),
        );
    }
    let room = 0.18 * (most - least);
    let y_title =
        variants.first().map_or_else(String::new, |(_, of, _)| format!("accuracy of {} on test, %", of.name));
    plot.set_layout(framed(axis(x_title).range(vec![least - room, most + room]), axis(&y_title)));
    plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_taken_seed_by_seed() -> Result<()> {
        let variant = |of: &str, values: &[(u64, f64)]| Quantity {
            of: of.to_string(),
            name: "exit 1".to_string(),
            values: values.to_vec(),
        };
        // What seeds have in common is larger than what the variants differ in.
        let plain = variant("plain", &[(0, 0.5), (1, 0.7), (2, 0.9)]);
        let better = variant("better", &[(2, 0.92), (0, 0.51), (1, 0.715)]);
        let frame = variants_table(&[plain, better], "plain")?;
        let cell = |column: &str| {
            let column = frame.column(column).expect("a column");
            column.f64().expect("numbers").get(1).expect("two rows")
        };
        assert!((cell("difference") - 0.015).abs() < 1e-12);
        assert!(cell("difference, 95 % ±") < 0.02 && cell("95 % ±") > 0.4);
        Ok(())
    }
}
