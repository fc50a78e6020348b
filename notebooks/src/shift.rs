//! Notebook 11: what early exit does on images that are not like those it was made for.

pub use crate::corruption::Corruption;
use crate::figures::style::{GREY, axis, colour, layout, legend};
use branchynet::Result;
use branchynet::data::Test;
use branchynet::exits::{ExitRecord, Loss};
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::{Plot, Scatter};
use polars::prelude::DataFrame;

/// What early exit did at fixed thresholds on other images.
#[derive(Debug, Clone, PartialEq)]
pub struct Shifted {
    /// `noise`.
    pub what: String,
    /// 0 for the images as they are, 1 to 5 for corrupted ones.
    pub severity: usize,
    /// Accuracy (0..=1) at the thresholds.
    pub accuracy: f64,
    /// Accuracy of the last exit, were all to go there.
    pub last_exit: f64,
    /// The share (0..=1) that leaves before the last exit.
    pub early: f64,
    /// The share (0..=1) of answers that are not the last exit's.
    pub different: f64,
    /// The mean cost.
    pub cost: f64,
}

impl Shifted {
    /// What happens at these thresholds to the images of a record, given what it costs to leave at each exit.
    pub fn new(
        what: &str,
        severity: usize,
        record: &ExitRecord<Test>,
        thresholds: &[f64],
        costs: &[f64],
    ) -> Result<Self> {
        let outcome = record.operating_point(thresholds, costs)?;
        Ok(Self {
            what: what.to_string(),
            severity,
            accuracy: outcome.accuracy(),
            last_exit: record.last_accuracy(),
            early: 1.0 - outcome.shares().last().copied().unwrap_or(f64::NAN),
            different: record.lost(Loss::Different, thresholds)? as f64 / record.len() as f64,
            cost: outcome.cost,
        })
    }

    /// A table of all of them.
    pub fn table(all: &[Self]) -> Result<DataFrame> {
        let column = |of: fn(&Self) -> f64| all.iter().map(of).collect::<Vec<_>>();
        df!(
            "images" => all.iter().map(|s| s.what.clone()).collect::<Vec<_>>(),
            "severity" => all.iter().map(|s| s.severity as u64).collect::<Vec<_>>(),
            "accuracy" => column(|s| s.accuracy),
            "accuracy of the last exit" => column(|s| s.last_exit),
            "leave early" => column(|s| s.early),
            "answers that differ" => column(|s| s.different),
            "mean cost" => column(|s| s.cost),
        )
    }
}

/// A quantity of corrupted images against the severity, a line for each corruption, and a grey line at `promised`, if
/// there is one.
pub fn by_severity(all: &[Shifted], title: &str, promised: Option<f64>, of: fn(&Shifted) -> f64) -> Plot {
    const SYMBOLS: [MarkerSymbol; 6] = [
        MarkerSymbol::Circle,
        MarkerSymbol::Square,
        MarkerSymbol::Diamond,
        MarkerSymbol::TriangleUp,
        MarkerSymbol::Cross,
        MarkerSymbol::X,
    ];
    let mut plot = Plot::new();
    for (i, line) in all.chunk_by(|a, b| a.what == b.what).enumerate() {
        let severities = line.iter().map(|shifted| shifted.severity).collect();
        plot.add_trace(
            Scatter::new(severities, line.iter().map(of).collect())
                .name(&line[0].what)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(8).symbol(SYMBOLS[i % SYMBOLS.len()].clone()))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
    }
    if let Some(promised) = promised {
        plot.add_trace(
            Scatter::new(vec![0, 5], vec![promised; 2])
                .name("promised for images like those that chose")
                .mode(Mode::Lines)
                .line(Line::new().color(GREY).width(1.0).dash(DashType::Dash)),
        );
    }
    plot.set_layout(layout().x_axis(axis("severity of the corruption")).y_axis(axis(title)).legend(legend()));
    plot
}
