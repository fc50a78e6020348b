//! Table I of the paper: its own rows, and ours beside them.

use crate::Result;
use crate::latency::Timing;
use crate::record::Outcome;
use polars::prelude::{DataFrame, df};

/// One row; what does not apply is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    source: String,
    network: String,
    choice: String,
    thresholds: Vec<f64>,
    accuracy: f64,
    shares: Vec<f64>,
    milliseconds: f64,
    gain: Option<f64>,
    gain_trunk_only: Option<f64>,
}

/// Rows for one network, with and without branches.
#[derive(Debug, Clone, Default)]
pub struct TableOne(Vec<Row>);

impl TableOne {
    /// The paper's rows for LeNet. Its gain is that of its timer, which covered the trunk alone.
    pub fn lenet() -> Self {
        let mut table = Self::default();
        for (source, baseline, branchy, gain) in [
            ("paper, CPU", 3.37, 0.62, 5.4),
            ("paper, GPU", 1.58, 0.34, 4.7),
        ] {
            let row = |network: &str| Row {
                source: source.to_string(),
                network: network.to_string(),
                ..Row::default()
            };
            table.0.push(Row {
                accuracy: 99.20,
                milliseconds: baseline,
                ..row("LeNet")
            });
            table.0.push(Row {
                choice: "screened on test".to_string(),
                thresholds: vec![0.025],
                accuracy: 99.25,
                shares: vec![94.3, 5.63],
                milliseconds: branchy,
                gain_trunk_only: Some(gain),
                ..row("B-LeNet")
            });
        }
        table
    }

    /// Adds our baseline: its test accuracy (0..=1) and its time.
    pub fn baseline(&mut self, network: &str, accuracy: f64, timing: &Timing) {
        self.0.push(Row {
            source: "ours, CPU".to_string(),
            network: network.to_string(),
            accuracy: accuracy * 100.0,
            milliseconds: timing.baseline.mean,
            ..Row::default()
        });
    }

    /// Adds our network with early exits: how its thresholds were chosen, what they give, and the
    /// times measured at them.
    pub fn branchy(&mut self, network: &str, choice: &str, outcome: &Outcome, timing: &Timing) {
        self.0.push(Row {
            source: "ours, CPU".to_string(),
            network: network.to_string(),
            choice: choice.to_string(),
            thresholds: outcome.thresholds.clone(),
            accuracy: outcome.accuracy() * 100.0,
            shares: outcome.shares().iter().map(|share| share * 100.0).collect(),
            milliseconds: timing.mix.mean,
            gain: Some(timing.gain()),
            gain_trunk_only: Some(timing.gain_trunk_only()),
        });
    }

    /// The table as a data frame. Times are means over the mix of exits, batch 1.
    pub fn frame(&self) -> Result<DataFrame> {
        let text = |column: &dyn Fn(&Row) -> String| self.0.iter().map(column).collect::<Vec<_>>();
        let list = |values: &[f64], digits: usize| {
            values
                .iter()
                .map(|x| format!("{x:.digits$}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let gain = |gain: Option<f64>| gain.map(|gain| format!("{gain:.2}x")).unwrap_or_default();
        Ok(df!(
            "source" => text(&|row| row.source.clone()),
            "network" => text(&|row| row.network.clone()),
            "threshold" => text(&|row| row.choice.clone()),
            "T" => text(&|row| list(&row.thresholds, 4)),
            "accuracy, %" => text(&|row| format!("{:.2}", row.accuracy)),
            "leave at each exit, %" => text(&|row| list(&row.shares, 1)),
            "ms/sample" => text(&|row| format!("{:.4}", row.milliseconds)),
            "gain, end to end" => text(&|row| gain(row.gain)),
            "gain, trunk only" => text(&|row| gain(row.gain_trunk_only)),
        )?)
    }
}
