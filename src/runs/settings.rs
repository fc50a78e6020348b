//! All that decides what an experiment gives.

use crate::Result;
use crate::data::Preprocessing;
use crate::kernels::Precision;
use crate::networks::Layer;
use crate::training::{Config, Epoch};
use serde::{Deserialize, Serialize};

/// All that decides what an experiment gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `B-AlexNet`.
    pub network: String,
    /// The list of layers.
    pub layers: Vec<Layer>,
    /// The data set's name: `cifar10`.
    pub data: String,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// Images trained on, where not all.
    pub train_images: Option<usize>,
    /// Images validated and tested on, where not all.
    pub test_images: Option<usize>,
    /// Epochs of the baseline.
    pub baseline_epochs: usize,
    /// The joint training; exit weights are left out where they are 1 each.
    pub config: Config,
}

impl Settings {
    /// For the subtitle of a figure: `CIFAR-10, 20 + 40 epochs, augmented, seeds 0 to 2`, and what it was trained on if
    /// not on the CPU alone. `data` is the data set's name with its sizes where they are others, `runs` are the seeds
    /// and the epochs of the joint training of runs that differ in nothing else, in order.
    pub(super) fn caption(&self, data: &str, runs: &[(u64, &[Epoch])]) -> String {
        let epochs = match self.baseline_epochs {
            0 => self.config.epochs.to_string(),
            baseline => format!("{baseline} + {}", self.config.epochs),
        };
        let augmented = if self.config.augment { "augmented" } else { "not augmented" };
        let alone = if self.config.frozen { ", branches alone" } else { "" };
        let seeds = match runs {
            [(first, _), .., (last, _)] => format!("seeds {first} to {last}"),
            _ => format!("seed {}", self.config.seed),
        };
        let precision = match self.config.precision {
            Precision::F32 => String::new(),
            precision => format!(" in {precision}"),
        };
        let trained = match &devices(runs.iter().flat_map(|(_, epochs)| *epochs))[..] {
            [] | ["CPU"] => String::new(),
            on => format!(", trained on {}{precision}", on.join(" and ")),
        };
        format!("{data}, {epochs} epochs, {augmented}{alone}, {seeds}{trained}")
    }

    /// All settings but the layers as text: name, value.
    pub fn rows(&self) -> Result<Vec<(String, String)>> {
        let mut rows = Vec::new();
        let serde_json::Value::Object(mut fields) = serde_json::to_value(self)? else {
            unreachable!("settings are a struct")
        };
        fields.remove("layers");
        if let Some(serde_json::Value::Object(config)) = fields.remove("config") {
            fields.extend(config);
        }
        for (name, value) in fields {
            let text = match value {
                serde_json::Value::Null => "all".to_string(),
                serde_json::Value::String(text) => text,
                serde_json::Value::Array(values) if values.is_empty() => "1 each".to_string(),
                value => value.to_string(),
            };
            rows.push((name.replace('_', " "), text));
        }
        Ok(rows)
    }
}

/// What these epochs ran on: `CPU`, or the GPU's name; empty where that was not recorded.
pub(super) fn devices<'a>(epochs: impl IntoIterator<Item = &'a Epoch>) -> Vec<&'a str> {
    let mut on = Vec::new();
    for epoch in epochs {
        let device = epoch.device.as_str();
        if !device.is_empty() && !on.contains(&device) {
            on.push(device);
        }
    }
    on
}
