//! All that decides what an experiment gives.

use branchynet::Result;
use branchynet::data::Preprocessing;
use branchynet::networks::Layer;
use branchynet::training::{Config, OptimizerName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Whether residual blocks begin as their skip.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub zero_start: bool,
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
    /// The same with the first seed.
    pub(super) fn seedless(&self) -> Self {
        let mut settings = self.clone();
        settings.config.seed = 0;
        settings
    }

    /// All settings but the layers, and but those of another optimizer, as text: name, value.
    pub fn rows(&self) -> Result<Vec<(String, String)>> {
        let Value::Object(mut fields) = serde_json::to_value(self)? else {
            unreachable!("settings are a struct")
        };
        fields.remove("layers");
        if let Some(Value::Object(config)) = fields.remove("config") {
            fields.extend(config);
        }
        let others = match self.config.optimizer {
            OptimizerName::Adam => serde_json::to_value(self.config.sgd)?,
            OptimizerName::Sgd => serde_json::to_value(self.config.adam)?,
        };
        fields.retain(|name, _| others.get(name).is_none());
        let row = |(name, value): (String, Value)| {
            // JSON keeps the names that identify recorded runs.
            let name = match name.as_str() {
                "average" => "lookahead",
                "keeps" => "cascade fraction",
                "smoothing" => "label smoothing",
                name => name,
            };
            let text = match value {
                Value::Null => "all".to_string(),
                Value::String(text) => text,
                Value::Array(values) if values.is_empty() => "1 each".to_string(),
                value => value.to_string(),
            };
            (name.replace('_', " "), text)
        };
        Ok(fields.into_iter().map(row).collect())
    }
}
