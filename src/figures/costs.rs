//! What leaving at each exit costs, in multiply-accumulates and in time.

use super::style::{GREY, axis, colour, layout, legend, log_axis};
use crate::exits::BatchTime;
use crate::experiments::{Paper, Speedup};
use crate::networks::Network;
use plotly::common::{DashType, HoverInfo, Line, Marker, MarkerSymbol, Mode, Pattern, PatternShape};
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

/// How the gain at one mix of exits shrinks from what the paper's timer shows to what a user sees. Lines:
/// what arithmetic allows at this mix, the most that there could be, and the paper's claims.
pub fn speedup(speedup: &Speedup, paper: Option<&Paper>) -> Plot {
    let s = speedup;
    let batches = format!("batches of {},<br>all threads", Speedup::BATCH);
    // From where to where each bar goes.
    let bars = [
        ("the paper's timer:<br>trunk only", 0.0, s.trunk_only),
        ("branches", s.trunk_only, s.with_branches),
        ("softmax, criterion,<br>decision", s.with_branches, s.end_to_end),
        ("end to end,<br>one at a time", 0.0, s.end_to_end),
        (batches.as_str(), 0.0, s.in_batches),
    ];
    // Beneath the bars, where no line crosses them.
    let label = |(name, from, to): &(&str, f64, f64)| match *from == 0.0 {
        true => format!("{name}<br><b>{to:.2}x</b>"),
        false => format!("{name}<br><b>{:+.2}</b>", to - from),
    };
    let names: Vec<String> = bars.iter().map(label).collect();
    let mut plot = Plot::new();
    let below = bars.iter().map(|(_, from, to)| from.min(*to)).collect();
    plot.add_trace(
        Bar::new(names.clone(), below).show_legend(false).opacity(0.0).hover_info(HoverInfo::Skip),
    );
    let kind = |from: f64, to: f64| if from == 0.0 { 0 } else { 1 + usize::from(to >= from) };
    for (i, name) in ["gain over the baseline", "taken away", "added"].into_iter().enumerate() {
        let height =
            |&(_, from, to): &(&str, f64, f64)| if kind(from, to) == i { (to - from).abs() } else { 0.0 };
        let heights: Vec<f64> = bars.iter().map(height).collect();
        if heights.iter().any(|height| *height > 0.0) {
            plot.add_trace(
                Bar::new(names.clone(), heights).name(name).marker(Marker::new().color(colour(i))),
            );
        }
    }
    let mut line = |name: String, at: f64, colour: &'static str, dash: DashType| {
        plot.add_trace(
            Scatter::new(names.clone(), vec![at; names.len()])
                .name(format!("{name}: {at:.2}x"))
                .mode(Mode::Lines)
                .line(Line::new().color(colour).dash(dash).width(2.0)),
        );
    };
    line("arithmetic, all that runs".to_string(), s.macs, "#000000", DashType::Dot);
    line("time, if all left at exit 1".to_string(), s.time_at_exit_1, colour(3), DashType::Dash);
    if let Some(paper) = paper {
        line("paper, CPU".to_string(), paper.cpu.gain, GREY, DashType::Dash);
        line("paper, GPU".to_string(), paper.gpu.gain, GREY, DashType::DashDot);
    }
    plot.set_layout(
        layout()
            .bar_mode(BarMode::Stack)
            .x_axis(axis(""))
            .y_axis(axis("times faster than the baseline"))
            .legend(legend().y(-0.3)),
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
