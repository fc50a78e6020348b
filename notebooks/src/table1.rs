//! Table I of the paper: its own rows, and ours beside them. Accuracies and shares are in 0..=1, times in
//! milliseconds.

use crate::paper::Paper;
use crate::tables::add;
use crate::timed_choices::TimedChoices;
use branchynet::Result;
use branchynet::exits::BatchTime;
use branchynet_runs::{Choice, Results, Session};
use polars::prelude::DataFrame;

#[derive(Debug, Clone)]
struct Row {
    source: String,
    network: String,
    /// Its cost is the measured time; a baseline has no thresholds and no shares.
    choice: Choice,
    /// End to end, and of the trunk only.
    gains: [Option<f64>; 2],
}

/// Rows for one network, with and without branches.
#[derive(Debug, Clone, Default)]
pub struct TableOne(Vec<Row>);

impl TableOne {
    /// The paper's rows. Its gain is that of its timer, which covered the trunk alone.
    pub fn new(paper: Option<&Paper>) -> Self {
        let mut table = Self::default();
        for (paper, row) in paper.iter().flat_map(|paper| paper.table1.iter().map(move |row| (paper, row))) {
            let source = format!("paper, {}", row.device);
            table.baseline(&source, &paper.network, "", row.baseline_accuracy, row.baseline_ms);
            let choice = Choice {
                name: "screened on test".to_string(),
                thresholds: row.thresholds.clone(),
                accuracy: row.accuracy,
                shares: row.shares.clone(),
                cost: row.ms,
                ..Choice::default()
            };
            table.row(&source, &paper.network, choice, [None, Some(row.gain)]);
        }
        table
    }

    /// Adds the baselines of these runs and each of their choices, with their times. `source` is for the first column.
    pub fn add<'a>(
        &mut self,
        source: &str,
        runs: impl IntoIterator<Item = &'a Results>,
        timed: &TimedChoices,
    ) -> Result<()> {
        for results in runs {
            let choices = timed.of(results)?;
            if let Some((_, mix)) = choices.first() {
                self.baselines(source, results, mix.baseline.mean);
            }
            for (choice, mix) in choices {
                let choice = Choice { cost: mix.mix.mean, ..choice.clone() };
                let gains = [Some(mix.speedup()), Some(mix.speedup_trunk_only())];
                self.row(source, &results.run.settings.network, choice, gains);
            }
        }
        Ok(())
    }

    /// Where the session works on a GPU: adds baseline and early exits there, in batches of one, at whose shares of exits,
    /// those of `choice`, `time` was measured.
    pub fn on_gpu(&mut self, session: &Session, results: &Results, choice: &Choice, time: &BatchTime) {
        if session.device.is_cuda() {
            self.baselines("ours, GPU", results, time.baseline);
            let choice = Choice { cost: time.early_exit, ..choice.clone() };
            self.row("ours, GPU", &results.run.settings.network, choice, [Some(time.speedup()), None]);
        }
    }

    /// The baselines, which all take the same time.
    fn baselines(&mut self, source: &str, results: &Results, ms: f64) {
        for (name, baseline) in results.baselines() {
            self.baseline(source, &results.run.settings.network, &name, baseline.accuracy(), ms);
        }
    }

    fn baseline(&mut self, source: &str, network: &str, name: &str, accuracy: f64, ms: f64) {
        let choice = Choice { name: name.to_string(), accuracy, cost: ms, ..Choice::default() };
        self.row(source, network.trim_start_matches("B-"), choice, [None, None]);
    }

    fn row(&mut self, source: &str, network: &str, choice: Choice, gains: [Option<f64>; 2]) {
        self.0.push(Row { source: source.to_string(), network: network.to_string(), choice, gains });
    }

    /// The table as a data frame of numbers. Times are means over the mix of exits, batch 1.
    pub fn table(&self) -> Result<DataFrame> {
        let mut table = rows!(self.0, row =>
            "source" => row.source.clone(),
            "network" => row.network.clone(),
            "threshold" => row.choice.label(),
        )?;
        add(&mut table, Choice::columns(&self.0.iter().map(|row| &row.choice).collect::<Vec<_>>()))?;
        let column = |name: &str, of: fn(&Row) -> Option<f64>| {
            (name.to_string(), self.0.iter().map(of).collect::<Vec<_>>())
        };
        let times = column("ms/sample", |row| Some(row.choice.cost));
        let gain = column("gain, end to end", |row| row.gains[0]);
        add(&mut table, [times, gain, column("gain, trunk only", |row| row.gains[1])])?;
        Ok(table)
    }
}
