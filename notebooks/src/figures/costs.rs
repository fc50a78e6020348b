//! What leaving at each exit costs, in multiply-accumulates and in time.

use super::style::{axis, colour, layout, legend, log_axis};
use branchynet::exits::BatchTime;
use branchynet::networks::Network;
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode, Pattern, PatternShape};
use plotly::layout::{AxisType, BarMode};
use plotly::{Bar, Plot, Scatter};

/// Where the multiply-accumulates of a network go: for every exit what a sample that leaves there has
/// cost, by segments of the trunk and branches passed on the way. The dotted line is the trunk
/// alone, the baseline.
pub fn costs(network: &Network) -> Plot {
    let (costs, exits) = (network.costs(), network.exits());
    let names: Vec<String> = (1..=exits).map(|exit| format!("exit {exit}")).collect();
    let mut plot = Plot::new();
    let mut add = |name: String, from: usize, macs: usize, colour: &str, branch: bool| {
        let bars = (0..exits).map(|exit| if exit >= from { macs as f64 / 1e6 } else { 0.0 });
        let pattern = if branch { PatternShape::LeftDiagonalLine } else { PatternShape::None };
        plot.add_trace(
            Bar::new(names.clone(), bars.collect())
                .name(name)
                .marker(Marker::new().color(colour.to_string()).pattern(Pattern::new().shape(pattern))),
        );
    };
    let mut before = 0;
    for (i, cost) in costs.iter().enumerate() {
        let colour = colour(i);
        add(format!("trunk, segment {}", i + 1), i, cost.trunk_macs - before, colour, false);
        if cost.branch_macs > 0 {
            add(format!("branch {}", i + 1), i, cost.branch_macs, colour, true);
        }
        before = cost.trunk_macs;
    }
    let baseline = before as f64 / 1e6;
    plot.add_trace(
        Scatter::new(names.clone(), vec![baseline; exits])
            .name("baseline")
            .mode(Mode::Lines)
            .line(Line::new().color("#000000").dash(DashType::Dot).width(2.0)),
    );
    plot.set_layout(
        layout()
            .bar_mode(BarMode::Stack)
            .x_axis(axis("a sample leaves at"))
            .y_axis(axis("million multiply-accumulates"))
            .legend(legend()),
    );
    plot
}

/// Milliseconds per image against the size of a batch, with early exits and without.
pub fn time_by_batch(times: &[BatchTime]) -> Plot {
    let sizes: Vec<f64> = times.iter().map(|time| time.batch as f64).collect();
    let mut plot = Plot::new();
    let mut add = |name: &str, colour: &'static str, symbol, of: fn(&BatchTime) -> f64| {
        let each = times.iter().map(of);
        plot.add_trace(
            Scatter::new(sizes.clone(), each.collect())
                .name(name)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour).size(9).symbol(symbol))
                .line(Line::new().color(colour).width(2.0)),
        );
    };
    add("baseline", "#000000", MarkerSymbol::Diamond, |time| time.baseline);
    add("early exit", colour(0), MarkerSymbol::Circle, |time| time.early_exit);
    let ticks = sizes.iter().map(f64::to_string).collect();
    let title = match times.iter().map(|time| time.threads).max() {
        Some(threads @ 2..) => format!("images per batch, on {threads} threads (a single image on one)"),
        _ => "images per batch, on one thread".to_string(),
    };
    let each = times.iter().flat_map(|time| [time.baseline, time.early_exit]);
    plot.set_layout(
        layout()
            .x_axis(axis(&title).type_(AxisType::Log).tick_values(sizes).tick_text(ticks))
            .y_axis(log_axis("ms per image (logarithmic)", each))
            .legend(legend()),
    );
    plot
}
