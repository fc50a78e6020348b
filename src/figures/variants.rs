//! Experiments of many runs: variants side by side, several seeds each.

use super::style::{self, axis, bar, beaten, colour, layout, legend};
use crate::experiments::{Spread, Variant};
use plotly::common::{ErrorData, ErrorType, Font, Line, Marker, MarkerSymbol, Mode, Position};
use plotly::layout::AxisType;
use plotly::{Plot, Scatter};

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
    paper: &[(&str, f64)],
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
