//! What a run gave without its logits, in some kilobytes of JSON: for experiments of many runs, whose exit
//! records would be too large to keep.

use crate::choices::Choice;
use crate::experiment::{Experiment, Trained};
use crate::results::Results;
use crate::run_info::RunInfo;
use crate::settings::Settings;
use branchynet::data::{Dataset, Split, Train};
use branchynet::exits::Loss;
use branchynet::networks::Network;
use branchynet::training::evaluate;
use branchynet::{Result, error, files};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a run gave, without its logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// How it was made.
    #[serde(flatten)]
    pub run: RunInfo,
    /// At each exit, if all images left there.
    pub exits: Vec<Accuracy>,
    /// Of the trunk alone, from which the joint training started.
    pub baseline: Option<Accuracy>,
    /// Of the trunk alone with as many epochs as the network.
    pub matched: Option<Accuracy>,
    /// Thresholds chosen on Validation, cheapest in multiply-accumulates: see [`Results::choices`]; and *1 % changed*, those
    /// at which so many answers there are others than the last exit's.
    pub choices: Vec<Choice>,
    /// For each branch the threshold without loss on Validation if there were no other branch.
    #[serde(default)]
    pub alone: Vec<Choice>,
}

impl AsRef<RunInfo> for Summary {
    fn as_ref(&self) -> &RunInfo {
        &self.run
    }
}

/// Shares of right answers, in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// On the first 10,000 training images, as they are.
    pub train: f64,
    /// On the validation images.
    pub validation: f64,
    /// On the test images.
    pub test: f64,
}

/// Training images that accuracy is measured on.
const TRAIN_IMAGES: usize = 10_000;

/// The share of answers that the choice *1 % changed* changes on Validation at most.
const CHANGED: f64 = 0.01;

impl Summary {
    /// Runs the trained networks once over a part of the training images and the other splits of `data`.
    pub fn collect(experiment: &Experiment, trained: &Trained, data: &Dataset) -> Result<Self> {
        let results = Results::collect(experiment, trained, data)?;
        let train = data.train.take(TRAIN_IMAGES);
        let accuracies = |network: &Network, train: &Split<Train>, validation: &[f64], test: &[f64]| {
            let train = evaluate(network, train)?.accuracy.into_iter();
            let rest = validation.iter().zip(test);
            let one = |(train, (&validation, &test))| Accuracy { train, validation, test };
            Ok::<Vec<Accuracy>, branchynet::Error>(train.zip(rest).map(one).collect())
        };
        let baseline = |trained: &Option<(Network, _)>, result: &Option<crate::Baseline>| {
            let (Some((network, _)), Some(result)) = (trained, result) else {
                return Ok::<_, branchynet::Error>(None);
            };
            let all = accuracies(network, &train, &[result.validation_accuracy()], &[result.accuracy()])?;
            Ok(all.first().copied())
        };
        let costs = trained.network.costs();
        let last = costs.len() - 1;
        let trunk = costs[last].trunk_macs as f64;
        let in_trunks = |choice: Choice| Choice { cost: choice.cost / trunk, ..choice };
        let macs = trained.network.macs();
        let mut choices = results.choices(&macs)?;
        let changed = results.validation.choose_without_guarantee(Loss::Different, CHANGED, &macs)?;
        choices.push(results.choice("1 % changed", &changed.thresholds, &macs)?);
        let alone = |branch: usize| {
            let cost = costs[branch];
            let macs = [cost.trunk_macs as f64, trunk].map(|macs| macs + cost.branch_macs as f64);
            let validation = results.validation.only(&[branch, last])?;
            let without_loss = validation.choose_for_accuracy(validation.last_accuracy(), &macs)?;
            let test =
                results.test.only(&[branch, last])?.operating_point(&without_loss.thresholds, &macs)?;
            Ok(in_trunks(Choice::new("no loss", &test)))
        };
        Ok(Self {
            exits: accuracies(
                &trained.network,
                &train,
                &results.validation.exit_accuracy(),
                &results.test.exit_accuracy(),
            )?,
            baseline: baseline(&trained.baseline, &results.baseline)?,
            matched: baseline(&trained.matched, &results.matched)?,
            choices: choices.into_iter().map(in_trunks).collect(),
            alone: (0..last).map(alone).collect::<Result<_>>()?,
            run: results.run,
        })
    }

    /// Where [`Self::write`] puts the summary of these settings by default.
    pub fn default_path(settings: &Settings) -> Result<PathBuf> {
        let record = Results::default_path(settings)?;
        Ok(record.with_extension("").with_extension("json"))
    }

    /// Writes it to a file: JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomically(path, format!("{}\n", serde_json::to_string(self)?).as_bytes())
    }

    /// Reads a file that [`Self::write`] wrote. Fails, naming it, where it is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&files::read(path)?).map_err(|cause| {
            let name = path.display();
            error!(File, "{name} is no summary of a run ({cause}); remove it, or make it anew with `branchynet evaluate --summary`")
        })
    }

    /// The recorded summaries whose settings are as wanted, of `datasets/reference/summaries/` and
    /// `datasets/records/`, in the order of their names.
    pub fn recorded(wanted: impl Fn(&Settings) -> bool) -> Result<Vec<Self>> {
        let mut found: Vec<Self> = Vec::new();
        for folder in ["datasets/reference/summaries", "datasets/records"] {
            for path in files::listed(folder, ".json") {
                let summary = Self::read(&path)?;
                let settings = &summary.run.settings;
                if wanted(settings) && found.iter().all(|seen| seen.run.settings != *settings) {
                    found.push(summary);
                }
            }
        }
        Ok(found)
    }
}
