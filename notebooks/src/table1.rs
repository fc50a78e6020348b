//! Table I of the paper: its own rows, and ours beside them. Accuracies and shares are in 0..=1, times in
//! milliseconds.

use crate::paper::{self, Paper};
use crate::tables::add;
use branchynet::exits::{BatchTime, Mix, Timer};
use branchynet::{Result, error};
use branchynet_runs::{Choice, Results, Session, Settings};
use polars::prelude::DataFrame;

/// Runs of one network with their choices of thresholds, and what it takes to answer at each: all choices of all runs took
/// turns on the same images, so that their gains can be compared.
#[derive(Debug, Clone)]
pub struct TimedChoices(Vec<(Settings, Vec<(Choice, Mix)>)>);

impl TimedChoices {
    /// Times the choices of these runs, those of the paper among them, given what it costs to leave at each exit.
    pub fn measure<'a>(
        timer: &Timer,
        runs: impl IntoIterator<Item = &'a Results>,
        costs: &[f64],
        paper: Option<&Paper>,
    ) -> Result<Self> {
        let of_run = |run: &Results| Ok((run.run.settings.clone(), paper::choices(run, costs, paper)?));
        let runs = runs.into_iter().map(of_run).collect::<Result<Vec<_>>>()?;
        let shares: Vec<&Vec<f64>> =
            runs.iter().flat_map(|(_, choices)| choices).map(|choice| &choice.shares).collect();
        let mut mixes = timer.mixes(&shares)?.into_iter();
        let timed =
            |(settings, choices): (_, Vec<Choice>)| (settings, choices.into_iter().zip(&mut mixes).collect());
        Ok(Self(runs.into_iter().map(timed).collect()))
    }

    /// The choices of a run that was timed.
    pub fn of(&self, results: &Results) -> Result<&[(Choice, Mix)]> {
        let found = self.0.iter().find(|(settings, _)| *settings == results.run.settings);
        let name = &results.run.settings.network;
        let missing = || error!(Missing, "this run of {name} is not among those timed");
        found.map(|(_, choices)| &choices[..]).ok_or_else(missing)
    }
}

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
