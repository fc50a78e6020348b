//! What early exit does on images that are not like those it was made for.

use crate::Result;
use crate::data::{Corruption, Split, Test};
use crate::exits::{ExitRecord, Loss};
use crate::networks::Network;
use polars::prelude::{DataFrame, df};

/// What early exit did at fixed thresholds on other images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
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
        let outcome = record.outcome(thresholds, costs)?;
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

    /// The same for every corruption at every severity, those of severity 0 first: one pass of `network` over `split`
    /// for each, and a line when a corruption is done, as all of it takes minutes.
    pub fn corrupted(
        network: &Network,
        split: &Split<Test>,
        thresholds: &[f64],
        costs: &[f64],
    ) -> Result<Vec<Self>> {
        let clean = ExitRecord::collect(network, split)?;
        let mut all = Vec::new();
        for (done, corruption) in Corruption::ALL.into_iter().enumerate() {
            let name = corruption.to_string();
            all.push(Self::new(&name, 0, &clean, thresholds, costs)?);
            for severity in 1..=5 {
                let record = ExitRecord::collect(network, &split.corrupted(corruption, severity, 0)?)?;
                all.push(Self::new(&name, severity, &record, thresholds, costs)?);
            }
            println!("evaluated on {name}, {} of {}", done + 1, Corruption::ALL.len());
        }
        Ok(all)
    }

    /// A table of all of them.
    pub fn frame(all: &[Self]) -> Result<DataFrame> {
        let column = |of: fn(&Self) -> f64| all.iter().map(of).collect::<Vec<_>>();
        Ok(df!(
            "images" => all.iter().map(|s| s.what.clone()).collect::<Vec<_>>(),
            "severity" => all.iter().map(|s| s.severity as u64).collect::<Vec<_>>(),
            "accuracy" => column(|s| s.accuracy),
            "accuracy of the last exit" => column(|s| s.last_exit),
            "leave early" => column(|s| s.early),
            "answers that differ" => column(|s| s.different),
            "mean cost" => column(|s| s.cost),
        )?)
    }
}
