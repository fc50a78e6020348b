//! Notebooks 5 and 6: variants of an experiment side by side, several seeds each.

use crate::figures::style::{self, axis, bar, beaten, colour, layout, legend};
use crate::tables::known;
use branchynet::Result;
use branchynet::runs::{Spread, Summary};
use plotly::common::{ErrorData, ErrorType, Font, Line, Marker, MarkerSymbol, Mode, Position};
use plotly::layout::AxisType;
use plotly::{Plot, Scatter};
use polars::prelude::DataFrame;

/// One variant of an experiment: its name, and for each seed the quantities that its runs were asked for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Variant {
    /// For axes and tables: `1.0 : 0.3`.
    pub name: String,
    /// How its runs were made ([`Summary::caption`]).
    pub caption: String,
    /// Seed, and quantities by name.
    runs: Vec<(u64, Vec<(String, f64)>)>,
}

impl Variant {
    /// What `runs` gave, each asked by `ask` for quantities with their names, the same ones for every run.
    pub fn new(name: &str, runs: &[Summary], ask: impl Fn(&Summary) -> Vec<(String, f64)>) -> Self {
        let caption = Summary::caption(runs);
        let runs = runs.iter().map(|run| (run.settings.config.seed, ask(run))).collect();
        Self { name: name.to_string(), caption, runs }
    }

    /// The names of the quantities.
    pub fn quantities(&self) -> Vec<String> {
        let first = self.runs.first().map(|(_, quantities)| quantities);
        first.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// A quantity of each run, in the order of the seeds; empty where there is none of this name.
    pub fn values(&self, quantity: &str) -> Vec<f64> {
        self.by_seed(quantity).into_iter().map(|(_, value)| value).collect()
    }

    fn by_seed(&self, quantity: &str) -> Vec<(u64, f64)> {
        let find = |(seed, quantities): &(u64, Vec<(String, f64)>)| {
            let (_, value) = quantities.iter().find(|(name, _)| name == quantity)?;
            Some((*seed, *value))
        };
        self.runs.iter().filter_map(find).collect()
    }

    /// A table of variants: for each quantity mean, standard deviation and 95 % interval over the seeds, and
    /// the difference from the variant called `reference`, taken seed by seed, with its interval.
    pub fn table(variants: &[Self], reference: &str) -> Result<DataFrame> {
        let mut rows = Vec::new();
        let reference = variants.iter().find(|variant| variant.name == reference);
        for variant in variants {
            for quantity in variant.quantities() {
                let paired: Vec<f64> = variant
                    .by_seed(&quantity)
                    .into_iter()
                    .filter_map(|(seed, value)| {
                        let theirs = reference?.by_seed(&quantity).into_iter().find(|(s, _)| *s == seed)?;
                        Some(value - theirs.1)
                    })
                    .collect();
                let spread = Spread::of(&variant.values(&quantity));
                rows.push((variant.name.clone(), quantity, spread, Spread::of(&paired)));
            }
        }
        let column = |of: &dyn Fn(&Spread, &Spread) -> f64| -> Vec<Option<f64>> {
            rows.iter().map(|(_, _, spread, paired)| known(of(spread, paired))).collect()
        };
        df!(
            "variant" => rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>(),
            "of" => rows.iter().map(|row| row.1.clone()).collect::<Vec<_>>(),
            "runs" => rows.iter().map(|row| row.2.runs as u64).collect::<Vec<_>>(),
            "mean" => column(&|s, _| s.mean),
            "standard deviation" => column(&|s, _| s.deviation),
            "95 % ±" => column(&|s, _| s.half_width),
            "difference" => column(&|_, paired| paired.mean),
            "difference, 95 % ±" => column(&|_, paired| paired.half_width),
        )
    }
}

/// The name of an exit (from 0) as quantities have it.
fn exit_name(run: &Summary, exit: usize) -> String {
    match exit + 1 == run.exits.len() {
        true => "last exit".to_string(),
        false => format!("exit {}", exit + 1),
    }
}

/// For [`Variant::new`]: the accuracy of each exit on Test (0..=1).
pub fn on_test(run: &Summary) -> Vec<(String, f64)> {
    run.exits.iter().enumerate().map(|(i, exit)| (exit_name(run, i), exit.test)).collect()
}

/// For [`Variant::new`]: by how much each exit is more accurate on Train than on Test (0..=1), and the
/// baselines'.
pub fn train_less_test(run: &Summary) -> Vec<(String, f64)> {
    let exits = run.exits.iter().enumerate().map(|(i, exit)| (exit_name(run, i), *exit));
    let baselines = [("baseline", run.baseline), ("matched baseline", run.matched)];
    let named = baselines.into_iter().filter_map(|(name, of)| Some((name.to_string(), of?)));
    exits.chain(named).map(|(name, of)| (name, of.train - of.test)).collect()
}

/// For [`Variant::new`]: what a branch (from 0) gives as the network's only one, on Test: its accuracy
/// (0..=1); and at the threshold without loss on Validation the share that leaves there (0..=1), and the
/// gain in multiply-accumulates. Panics where there is no such branch.
pub fn by_branch(run: &Summary, branch: usize) -> Vec<(String, f64)> {
    let (exit, alone) = (&run.exits[branch], &run.alone[branch]);
    [("the branch", exit.test), ("leave early", alone.shares[0]), ("gain", alone.speedup)]
        .map(|(name, value)| (name.to_string(), value))
        .into()
}

const SYMBOLS: [MarkerSymbol; 4] =
    [MarkerSymbol::Circle, MarkerSymbol::Square, MarkerSymbol::Diamond, MarkerSymbol::TriangleUp];

/// A quantity of each variant that its runs were asked for (see [`Variant::new`]): mean and standard
/// deviation over the seeds, and each seed as a faint point. `unit` is what quantities are shown in, as in
/// 0.01 for percent. The paper's points, by the variants' names, are grey. A line connects the means where
/// the axis has a title; variants that have nothing in common to name have no order.
pub fn variants(
    x_title: &str,
    y_title: &str,
    unit: f64,
    variants: &[Variant],
    paper: &[(String, f64)],
) -> Plot {
    let mut plot = Plot::new();
    if !paper.is_empty() {
        let (x, y): (Vec<_>, Vec<_>) =
            paper.iter().map(|(name, value)| (name.to_string(), value / unit)).unzip();
        plot.add_trace(style::paper("paper, last exit (read off its figure)", x, y));
    }
    let names: Vec<String> = variants.first().map_or_else(Vec::new, Variant::quantities);
    for (i, name) in names.iter().enumerate() {
        let symbol = SYMBOLS[i % SYMBOLS.len()].clone();
        let (mut at, mut seeds) = (Vec::new(), Vec::new());
        let (mut labels, mut means, mut deviations) = (Vec::new(), Vec::new(), Vec::new());
        for variant in variants {
            let values: Vec<f64> = variant.values(name).into_iter().map(|value| value / unit).collect();
            let spread = Spread::of(&values);
            labels.push(variant.name.clone());
            means.push(spread.mean);
            deviations.push(bar(&spread));
            at.extend(vec![variant.name.clone(); values.len()]);
            seeds.extend(values);
        }
        plot.add_trace(
            Scatter::new(labels, means)
                .name(name)
                .mode(if x_title.is_empty() { Mode::Markers } else { Mode::LinesMarkers })
                .marker(Marker::new().color(colour(i)).size(11).symbol(symbol.clone()))
                .line(Line::new().color(colour(i)).width(1.5))
                .error_y(ErrorData::new(ErrorType::Data).array(deviations)),
        );
        plot.add_trace(
            Scatter::new(at, seeds)
                .show_legend(false)
                .mode(Mode::Markers)
                .marker(Marker::new().color(colour(i)).size(6).symbol(symbol).opacity(0.35)),
        );
    }
    plot.set_layout(
        layout().x_axis(axis(x_title).type_(AxisType::Category)).y_axis(axis(y_title)).legend(legend()),
    );
    plot
}

/// What it costs to leave at a branch, and how accurate it is there: one point for each variant, with its
/// name, as (cost, variant) pairs. The `quantity` is one that the variants' runs were asked for. Those that
/// no other beats in both are filled.
pub fn cost_against_accuracy(x_title: &str, quantity: &str, points: &[(f64, Variant)]) -> Plot {
    let accuracy = |variant: &Variant| Spread::of(&variant.values(quantity));
    let mut points: Vec<&(f64, Variant)> = points.iter().collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let means: Vec<(f64, f64)> =
        points.iter().map(|(cost, variant)| (*cost, accuracy(variant).mean)).collect();
    let (least, most) = (means.first().map_or(0.0, |mean| mean.0), means.last().map_or(1.0, |mean| mean.0));
    let mut plot = Plot::new();
    for (i, (name, useful)) in
        [("no other is cheaper and as accurate", true), ("beaten", false)].into_iter().enumerate()
    {
        let here = || points.iter().zip(&means).filter(|(_, mean)| beaten(&means, **mean) != useful);
        // The useful rise to the right, with free space above them; the others lie below them. Of useful ones whose
        // names would lie on each other every other one goes below.
        let (mut positions, mut before, mut above) = (Vec::new(), f64::NEG_INFINITY, false);
        for (_, &(cost, _)) in here() {
            above = useful && (cost - before > 0.08 * (most - least) || !above);
            positions.push(if above { Position::TopLeft } else { Position::BottomRight });
            before = cost;
        }
        let deviation = |variant: &Variant| bar(&accuracy(variant));
        plot.add_trace(
            Scatter::new(
                here().map(|(_, mean)| mean.0).collect(),
                here().map(|(_, mean)| mean.1 * 100.0).collect(),
            )
            .name(name)
            .mode(Mode::MarkersText)
            .text_array(here().map(|((_, variant), _)| variant.name.clone()).collect::<Vec<_>>())
            .text_font(Font::new().size(11))
            .text_position_array(positions)
            .marker(Marker::new().color(colour(i)).size(11).symbol(SYMBOLS[i].clone()))
            .error_y(
                ErrorData::new(ErrorType::Data)
                    .array(here().map(|((_, variant), _)| deviation(variant) * 100.0).collect()),
            ),
        );
    }
    let room = 0.18 * (most - least);
    plot.set_layout(
        layout()
            .x_axis(axis(x_title).range(vec![least - room, most + room]))
            .y_axis(axis(&format!("accuracy of {quantity} on test, %")))
            .legend(legend()),
    );
    plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_taken_seed_by_seed() -> Result<()> {
        let variant = |name: &str, runs: &[(u64, f64)]| Variant {
            name: name.to_string(),
            caption: String::new(),
            runs: runs.iter().map(|&(seed, value)| (seed, vec![("exit 1".to_string(), value)])).collect(),
        };
        // What seeds have in common is larger than what the variants differ in.
        let plain = variant("plain", &[(0, 0.5), (1, 0.7), (2, 0.9)]);
        let better = variant("better", &[(2, 0.92), (0, 0.51), (1, 0.715)]);
        let frame = Variant::table(&[plain, better], "plain")?;
        let cell = |column: &str| {
            let column = frame.column(column).expect("a column");
            column.f64().expect("numbers").get(1).expect("two rows")
        };
        assert!((cell("difference") - 0.015).abs() < 1e-12);
        assert!(cell("difference, 95 % ±") < 0.02 && cell("95 % ±") > 0.4);
        Ok(())
    }
}
