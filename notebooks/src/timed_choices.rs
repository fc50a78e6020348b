//! Choices of thresholds, timed side by side.

use crate::paper::{self, Paper};
use branchynet::exits::{Mix, Timer};
use branchynet::{Result, error};
use branchynet_runs::{Choice, Results, Settings};

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
