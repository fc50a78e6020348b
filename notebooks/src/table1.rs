//! Table I of the paper: its own rows, and ours beside them. Accuracies and shares are in 0..=1, times in
//! milliseconds.

use crate::paper::Paper;
use crate::tables::{Shared, columns};
use branchynet::exits::{BatchTime, Timer};
use branchynet::runs::{Choice, Results};
use branchynet::{Error, Result};
use polars::prelude::{Column, DataFrame};

/// One row; what does not apply is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    source: String,
    network: String,
    choice: String,
    thresholds: Vec<f64>,
    accuracy: Option<f64>,
    shares: Vec<f64>,
    milliseconds: f64,
    gain: Option<f64>,
    gain_trunk_only: Option<f64>,
}

impl Row {
    /// What a choice gives, without its times.
    fn early_exit(results: &Results, source: &str, choice: &Choice) -> Self {
        Self {
            source: source.to_string(),
            network: results.settings.network.clone(),
            choice: choice.label(),
            thresholds: choice.test.thresholds.clone(),
            accuracy: Some(choice.test.accuracy()),
            shares: choice.test.shares(),
            ..Self::default()
        }
    }
}

/// Rows for one network, with and without branches.
#[derive(Debug, Clone, Default)]
pub struct TableOne(Vec<Row>);

impl TableOne {
    /// The paper's rows. Its gain is that of its timer, which covered the trunk alone.
    pub fn new(paper: Option<&Paper>) -> Self {
        let mut table = Self::default();
        let Some(paper) = paper else { return table };
        for row in &paper.table1 {
            let source = format!("paper, {}", row.device);
            table.0.push(Row {
                source: source.clone(),
                network: paper.network.trim_start_matches("B-").to_string(),
                accuracy: Some(row.baseline_accuracy),
                milliseconds: row.baseline_ms,
                ..Row::default()
            });
            table.0.push(Row {
                source,
                network: paper.network.clone(),
                choice: "screened on test".to_string(),
                thresholds: row.thresholds.clone(),
                accuracy: Some(row.accuracy),
                shares: row.shares.clone(),
                milliseconds: row.ms,
                gain: None,
                gain_trunk_only: Some(row.gain),
            });
        }
        table
    }

    /// Adds the baselines of `results` and each choice, timed now. `source` is for the first column.
    pub fn add(&mut self, source: &str, results: &Results, choices: &[Choice], timer: &Timer) -> Result<()> {
        let shares: Vec<_> = choices.iter().map(|choice| choice.test.shares()).collect();
        let mixes = timer.mixes(&shares)?;
        if let Some(mix) = mixes.first() {
            self.baselines(results, source, mix.baseline.mean);
        }
        for (choice, mix) in choices.iter().zip(mixes) {
            self.0.push(Row {
                milliseconds: mix.mix.mean,
                gain: Some(mix.speedup()),
                gain_trunk_only: Some(mix.speedup_trunk_only()),
                ..Row::early_exit(results, source, choice)
            });
        }
        Ok(())
    }

    /// The baselines, which all take the same time.
    fn baselines(&mut self, results: &Results, source: &str, milliseconds: f64) {
        let network = results.settings.network.trim_start_matches("B-");
        for (name, baseline) in results.baselines() {
            self.0.push(Row {
                source: source.to_string(),
                network: network.to_string(),
                choice: name,
                accuracy: Some(baseline.accuracy()),
                milliseconds,
                ..Row::default()
            });
        }
    }

    /// Adds baseline and early exits on a GPU, in batches of one, at whose shares of exits, those of
    /// `choice`, `time` was measured.
    pub fn on_gpu(&mut self, results: &Results, choice: &Choice, time: &BatchTime) {
        let source = "ours, GPU";
        self.baselines(results, source, time.baseline);
        self.0.push(Row {
            milliseconds: time.early_exit,
            gain: Some(time.speedup()),
            ..Row::early_exit(results, source, choice)
        });
    }

    /// The table as a data frame of numbers. Times are means over the mix of exits, batch 1.
    pub fn table(&self) -> Result<DataFrame> {
        let rows = &self.0;
        let text = |of: fn(&Row) -> &String| rows.iter().map(move |row| of(row).clone());
        let mut frame = df!(
            "source" => text(|row| &row.source).collect::<Vec<_>>(),
            "network" => text(|row| &row.network).collect::<Vec<_>>(),
            "threshold" => text(|row| &row.choice).collect::<Vec<_>>(),
        )?;
        let shared = |row: &Row| Shared {
            thresholds: row.thresholds.clone(),
            accuracy: row.accuracy,
            shares: row.shares.clone(),
        };
        for column in columns(rows.iter().map(shared).collect()) {
            frame.with_column(column).map_err(Error::other)?;
        }
        let mut add = |name: &str, of: fn(&Row) -> Option<f64>| -> Result<()> {
            frame
                .with_column(Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>()))
                .map_err(Error::other)?;
            Ok(())
        };
        add("ms/sample", |row| Some(row.milliseconds))?;
        add("gain, end to end", |row| row.gain)?;
        add("gain, trunk only", |row| row.gain_trunk_only)?;
        Ok(frame)
    }
}
