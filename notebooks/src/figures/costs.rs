//! What leaving at each exit costs, in multiply-accumulates and in time.

use super::style::{axis, colour, framed, line, log_axis, measured, stroke};
use branchynet::exits::BatchTime;
use branchynet::networks::Network;
use plotly::common::{DashType, Marker, MarkerSymbol, Pattern, PatternShape};
use plotly::layout::{AxisType, BarMode};
use plotly::{Bar, Plot};

/// Where the multiply-accumulates of a network go: for every exit what a sample that leaves there has
/// cost, by segments of the trunk and branches passed on the way. The dotted line is the trunk
/// alone, the baseline.
pub fn costs(network: &Network) -> Plot {
    let exits = network.exits();
    let names: Vec<String> = (1..=exits).map(|exit| format!("exit {exit}")).collect();
    let mut plot = Plot::new();
    let mut before = 0;
    for (i, cost) in network.costs().iter().enumerate() {
        let parts = [
            (format!("trunk, segment {}", i + 1), cost.trunk_macs - before, PatternShape::None),
            (format!("branch {}", i + 1), cost.branch_macs, PatternShape::LeftDiagonalLine),
        ];
        before = cost.trunk_macs;
        for (name, macs, shape) in parts.into_iter().filter(|(_, macs, _)| *macs > 0) {
            let bars = (0..exits).map(|exit| if exit >= i { macs as f64 / 1e6 } else { 0.0 });
            let marker = Marker::new().color(colour(i)).pattern(Pattern::new().shape(shape));
            plot.add_trace(Bar::new(names.clone(), bars.collect()).name(name).marker(marker));
        }
    }
    let dotted = stroke("#000000", 2.0).dash(DashType::Dot);
    plot.add_trace(line("baseline", names, vec![before as f64 / 1e6; exits], dotted));
    let layout = framed(axis("a sample leaves at"), axis("million multiply-accumulates"));
    plot.set_layout(layout.bar_mode(BarMode::Stack));
    plot
}

/// Milliseconds per image against the size of a batch, with early exits and without.
pub fn time_by_batch(times: &[BatchTime]) -> Plot {
    let sizes: Vec<f64> = times.iter().map(|time| time.batch as f64).collect();
    let baseline: Vec<f64> = times.iter().map(|time| time.baseline).collect();
    let early_exit: Vec<f64> = times.iter().map(|time| time.early_exit).collect();
    let each = baseline.iter().chain(&early_exit).copied();
    let y_axis = log_axis("ms per image (logarithmic)", each);
    let ticks = sizes.iter().map(f64::to_string).collect();
    let title = match times.iter().map(|time| time.threads).max() {
        Some(threads @ 2..) => format!("images per batch, on {threads} threads (a single image on one)"),
        _ => "images per batch, on one thread".to_string(),
    };
    let mut plot = Plot::new();
    plot.add_trace(measured("baseline", sizes.clone(), baseline, "#000000", MarkerSymbol::Diamond));
    plot.add_trace(measured("early exit", sizes.clone(), early_exit, colour(0), MarkerSymbol::Circle));
    let x_axis = axis(&title).type_(AxisType::Log).tick_values(sizes).tick_text(ticks);
    plot.set_layout(framed(x_axis, y_axis));
    plot
}
