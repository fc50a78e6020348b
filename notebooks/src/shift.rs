//! Notebook 11: what early exit does on images that are not like those it was made for.

pub use crate::corruption::Corruption;
use crate::figures::style::{GREY, axis, colour, framed, line, measured, stroke};
use branchynet::Result;
use branchynet::data::Test;
use branchynet::exits::{ExitRecord, Loss};
use plotly::Plot;
use plotly::common::{DashType, MarkerSymbol};
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
        rows!(all, s =>
            "images" => s.what.clone(),
            "severity" => s.severity as u64,
            "accuracy" => s.accuracy,
            "accuracy of the last exit" => s.last_exit,
            "leave early" => s.early,
            "answers that differ" => s.different,
            "mean cost" => s.cost,
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
    for (i, alike) in all.chunk_by(|a, b| a.what == b.what).enumerate() {
        let severities: Vec<usize> = alike.iter().map(|shifted| shifted.severity).collect();
        let symbol = SYMBOLS[i % SYMBOLS.len()].clone();
        let values = alike.iter().map(of).collect();
        plot.add_trace(measured(&alike[0].what, severities, values, colour(i), symbol));
    }
    if let Some(promised) = promised {
        let dashed = stroke(GREY, 1.0).dash(DashType::Dash);
        let name = "promised for images like those that chose";
        plot.add_trace(line(name, vec![0, 5], vec![promised; 2], dashed));
    }
    plot.set_layout(framed(axis("severity of the corruption"), axis(title)));
    plot
}
