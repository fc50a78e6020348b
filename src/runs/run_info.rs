//! What a record and a summary of a run have in common.

use crate::settings::Settings;
use branchynet::kernels::Precision;
use branchynet::training::Epoch;
use serde::{Deserialize, Serialize};

/// How a run was made, and how its training went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// How it was made.
    pub settings: Settings,
    /// The data set's name: `CIFAR-10`.
    pub data: String,
    /// The commit that evaluated it.
    pub commit: String,
    /// The joint training's epochs.
    pub history: Vec<Epoch>,
}

impl RunInfo {
    /// How runs that differ in nothing but their seed were made, in their order, for the subtitle of a figure: `CIFAR-10,
    /// 20 + 40 epochs, augmented, seeds 0 to 2`, and what they were trained on if not on the CPU alone; nothing for none.
    pub(super) fn caption(runs: &[&Self]) -> String {
        let (Some(Self { settings, data, .. }), Some(last)) = (runs.first(), runs.last()) else {
            return String::new();
        };
        let config = &settings.config;
        let epochs = match settings.baseline_epochs {
            0 => config.epochs.to_string(),
            baseline => format!("{baseline} + {}", config.epochs),
        };
        let augmented = if config.augment { "augmented" } else { "not augmented" };
        let alone = if config.frozen { ", branches alone" } else { "" };
        let seeds = match runs.len() {
            1 => format!("seed {}", config.seed),
            _ => format!("seeds {} to {}", config.seed, last.settings.config.seed),
        };
        let precision = match config.precision {
            Precision::F32 => String::new(),
            precision => format!(" in {precision}"),
        };
        let trained = match &devices(runs.iter().flat_map(|run| &run.history))[..] {
            [] | ["CPU"] => String::new(),
            on => format!(", trained on {}{precision}", on.join(" and ")),
        };
        format!("{data}, {epochs} epochs, {augmented}{alone}, {seeds}{trained}")
    }

    /// What the joint training ran on: `CPU`, or the GPU's name; empty where that was not recorded.
    pub fn devices(&self) -> Vec<&str> {
        devices(&self.history)
    }
}

fn devices<'a>(epochs: impl IntoIterator<Item = &'a Epoch>) -> Vec<&'a str> {
    let mut on = Vec::new();
    for epoch in epochs {
        let device = epoch.device.as_str();
        if !device.is_empty() && !on.contains(&device) {
            on.push(device);
        }
    }
    on
}
