//! Cache misses, and what there is to cache.

use super::style::{self, axis, colour, layout, legend, log_axis};
use crate::exits::Outcome;
use crate::experiments::{Cache, CacheMisses, Misses, Paper};
use crate::networks::WorkingSet;
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::BarMode;
use plotly::{Bar, Plot, Scatter};

type Level = (&'static str, fn(&Misses) -> f64, MarkerSymbol);
const LEVELS: [Level; 2] = [
    ("first level", |misses| misses.first, MarkerSymbol::Circle),
    ("second or last level", |misses| misses.second, MarkerSymbol::Square),
];

/// Misses per sample against the threshold T, the same at every exit, of outcomes in ascending order of T;
/// dotted lines are the baseline's.
pub fn misses_by_threshold(misses: &CacheMisses, outcomes: &[Outcome]) -> Plot {
    let label = |outcome: &Outcome| match outcome.thresholds[0] {
        t if t.is_infinite() => "∞".to_string(),
        t => t.to_string(),
    };
    let names: Vec<String> = outcomes.iter().map(label).collect();
    let mut plot = Plot::new();
    let mut drawn = Vec::new();
    for (i, (level, of, symbol)) in LEVELS.into_iter().enumerate() {
        let mean = |outcome: &Outcome| of(&misses.mean(&outcome.shares())).max(1.0);
        let y: Vec<f64> = outcomes.iter().map(mean).collect();
        let baseline = of(&misses.baseline).max(1.0);
        drawn.extend(y.iter().copied().chain([baseline]));
        plot.add_trace(
            Scatter::new(names.clone(), y)
                .name(format!("{level}, early exit"))
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(9).symbol(symbol))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
        plot.add_trace(
            Scatter::new(names.clone(), vec![baseline; names.len()])
                .name(format!("{level}, baseline"))
                .mode(Mode::Lines)
                .line(Line::new().color(colour(i)).dash(DashType::Dot).width(2.0)),
        );
    }
    plot.set_layout(
        layout()
            .x_axis(axis("threshold T, the same at every exit").type_(plotly::layout::AxisType::Category))
            .y_axis(log_axis("misses per sample (logarithmic)", drawn.into_iter()))
            .legend(legend()),
    );
    plot
}

/// Misses per sample against time per sample, both relative to the baseline's (paper, figure 6). The costs
/// of the outcomes are milliseconds, as is `baseline`.
pub fn misses_against_time(
    misses: &CacheMisses,
    outcomes: &[Outcome],
    baseline: f64,
    paper: Option<&Paper>,
) -> Plot {
    let mut plot = Plot::new();
    let times: Vec<f64> = outcomes.iter().map(|outcome| outcome.cost / baseline).collect();
    if let Some(paper) = paper.filter(|paper| !paper.misses_by_time.is_empty()) {
        let (x, y) = paper.misses_by_time.iter().copied().unzip();
        plot.add_trace(style::paper::<f64, f64>("paper (miss rate, read off its figure)", x, y));
    }
    for (i, (level, of, symbol)) in LEVELS.into_iter().enumerate() {
        let ratio = |outcome: &Outcome| of(&misses.mean(&outcome.shares())) / of(&misses.baseline);
        plot.add_trace(
            Scatter::new(times.clone(), outcomes.iter().map(ratio).collect())
                .name(level)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(9).symbol(symbol))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
    }
    plot.add_trace(
        Scatter::new(vec![1.0], vec![1.0])
            .name("baseline")
            .mode(Mode::Markers)
            .marker(Marker::new().color("#000000").size(12).symbol(MarkerSymbol::Diamond)),
    );
    plot.set_layout(
        layout()
            .x_axis(axis("time per sample relative to the baseline"))
            .y_axis(axis("misses relative to the baseline"))
            .legend(legend()),
    );
    plot
}

/// What each part of a network works on, beside the sizes of the caches.
pub fn working_sets(sets: &[WorkingSet], caches: &[Cache]) -> Plot {
    let names: Vec<String> = sets.iter().map(|set| set.name.clone()).collect();
    let kibibytes = |bytes: usize| bytes as f64 / 1024.0;
    let mut plot = Plot::new();
    let weights: Vec<usize> = sets.iter().map(|set| set.weights).collect();
    let activations: Vec<usize> = sets.iter().map(|set| set.activations).collect();
    let parts = [("weights", weights), ("largest input and output of a layer", activations)];
    let mut drawn = Vec::new();
    for (i, (name, sizes)) in parts.into_iter().enumerate() {
        let sizes: Vec<f64> = sizes.into_iter().map(kibibytes).collect();
        drawn.extend_from_slice(&sizes);
        plot.add_trace(Bar::new(names.clone(), sizes).name(name).marker(Marker::new().color(colour(i))));
    }
    for (cache, dash) in caches.iter().zip([DashType::Dot, DashType::Dash, DashType::DashDot]) {
        let size = kibibytes(cache.bytes);
        drawn.push(size);
        plot.add_trace(
            Scatter::new(names.clone(), vec![size; names.len()])
                .name(format!("{} of this core: {size} KiB", cache.name))
                .mode(Mode::Lines)
                .line(Line::new().color("#000000").dash(dash).width(1.5)),
        );
    }
    plot.set_layout(
        layout()
            .bar_mode(BarMode::Group)
            .x_axis(axis(""))
            .y_axis(log_axis("KiB (logarithmic)", drawn.into_iter()))
            .legend(legend()),
    );
    plot
}
