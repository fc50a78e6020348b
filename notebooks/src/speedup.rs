//! Notebook 8: where the gain of early exit comes from, and where it goes: from what the paper's timer shows down to what
//! a user sees, for one mix of exits.

use crate::figures::style::{self, GREY, axis, colour, framed, legend, stroke};
use crate::paper::Paper;
use branchynet::Result;
use plotly::common::{DashType, HoverInfo, Marker};
use plotly::layout::BarMode;
use plotly::{Bar, Plot};
use polars::prelude::DataFrame;

/// Gains over the baseline at one mix of exits, each a ratio of times or of multiply-accumulates.
#[derive(Debug, Clone, PartialEq)]
pub struct Speedup {
    /// Whose mix it is.
    pub name: String,
    /// Shares of samples that leave at each exit (0..=1).
    pub shares: Vec<f64>,
    /// The arithmetic of what the paper's timer covered: the trunk up to each exit.
    pub macs_trunk_only: f64,
    /// The arithmetic of everything that runs: the most that this mix can gain where time follows it.
    pub macs: f64,
    /// Timed as the authors did: the trunk alone.
    pub trunk_only: f64,
    /// With the branches.
    pub with_branches: f64,
    /// With softmax, criterion and decision too: end to end.
    pub end_to_end: f64,
    /// End to end as well, in batches of [`Self::BATCH`] images on all threads instead of one image at a time on one.
    pub in_batches: f64,
    /// If every sample left at exit 1, in multiply-accumulates.
    pub macs_at_exit_1: f64,
    /// If every sample left at exit 1, in time.
    pub time_at_exit_1: f64,
}

impl Speedup {
    /// Images of a batch for [`Self::in_batches`].
    pub const BATCH: usize = 64;

    /// A table of such gains.
    pub fn table(speedups: &[Self]) -> Result<DataFrame> {
        let shares = |s: &Self| {
            let each: Vec<String> = s.shares.iter().map(|share| format!("{:.1}", share * 100.0)).collect();
            format!("{} %", each.join(", "))
        };
        rows!(speedups, s =>
            "mix of exits" => s.name.clone(),
            "leave at each exit" => shares(s),
            "MACs, trunk only" => s.macs_trunk_only,
            "MACs, all that runs" => s.macs,
            "time, trunk only (the paper's timer)" => s.trunk_only,
            "time, with branches" => s.with_branches,
            "time, end to end" => s.end_to_end,
            format!("time, in batches of {}", Self::BATCH) => s.in_batches,
            "MACs, all leave at exit 1" => s.macs_at_exit_1,
            "time, all leave at exit 1" => s.time_at_exit_1,
        )
    }
}

/// How the gain at one mix of exits shrinks from what the paper's timer shows to what a user sees. Lines:
/// what arithmetic allows at this mix, the most that there could be, and the paper's claims.
pub fn steps(speedup: &Speedup, paper: Option<&Paper>) -> Plot {
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
    let hidden = Bar::new(names.clone(), below).show_legend(false).opacity(0.0);
    plot.add_trace(hidden.hover_info(HoverInfo::Skip));
    let kind = |from: f64, to: f64| if from == 0.0 { 0 } else { 1 + usize::from(to >= from) };
    for (i, name) in ["gain over the baseline", "taken away", "added"].into_iter().enumerate() {
        let height =
            |&(_, from, to): &(&str, f64, f64)| if kind(from, to) == i { (to - from).abs() } else { 0.0 };
        let heights: Vec<f64> = bars.iter().map(height).collect();
        if heights.iter().any(|height| *height > 0.0) {
            let marker = Marker::new().color(colour(i));
            plot.add_trace(Bar::new(names.clone(), heights).name(name).marker(marker));
        }
    }
    let mut line = |name: String, at: f64, colour: &'static str, dash: DashType| {
        let (name, stroke) = (format!("{name}: {at:.2}x"), stroke(colour, 2.0).dash(dash));
        plot.add_trace(style::line(&name, names.clone(), vec![at; names.len()], stroke));
    };
    line("arithmetic, all that runs".to_string(), s.macs, "#000000", DashType::Dot);
    line("time, if all left at exit 1".to_string(), s.time_at_exit_1, colour(3), DashType::Dash);
    let dashes = [DashType::Dash, DashType::DashDot];
    for (row, dash) in paper.iter().flat_map(|paper| &paper.table1).zip(dashes) {
        line(format!("paper, {}", row.device), row.gain, GREY, dash);
    }
    let layout = framed(axis(""), axis("times faster than the baseline"));
    plot.set_layout(layout.bar_mode(BarMode::Stack).legend(legend().y(-0.3)));
    plot
}
