//! Checkpoints: weights, the optimizer's state and the history, one file per run.

use super::Epoch;
use super::config::Config;
use super::optimizer::OptimizerState;
use crate::checked_file::{self, Contents, Kind, Tensors};
use crate::data::Dataset;
use crate::networks::{Layer, Network};
use crate::{Error, Result, files};
use candle_core::{Tensor, Var};
use safetensors::View;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a checkpoint says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CheckpointHeader {
    pub network: String,
    pub layers: Vec<Layer>,
    pub dataset: String,
    pub config: Config,
    pub identity: String,
    /// Of the working tree, when the last epoch was trained.
    pub commit: String,
    /// The optimizer's steps so far.
    pub steps: usize,
    pub history: Vec<Epoch>,
}

impl CheckpointHeader {
    /// In what the run of another checkpoint differs from this one, the first of it.
    pub(super) fn difference(&self, other: &Self) -> Result<String> {
        let of = |header: &Self| {
            let mut all = serde_json::to_value(header.config.normalised())?;
            all["data"] = header.dataset.clone().into();
            all["network"] = header.network.clone().into();
            Ok::<_, Error>(all)
        };
        let (ours, theirs) = (of(self)?, of(other)?);
        let mut fields = ours.as_object().into_iter().flatten();
        Ok(match fields.find(|(name, value)| theirs[name] != **value) {
            Some((name, value)) => format!("its {name} is {}, and {value} is asked for", theirs[name]),
            None if self.layers != other.layers => "its layers are others".to_string(),
            None => "its images, or its initial weights, are others".to_string(),
        })
    }
}

const KIND: Kind = Kind { kind: "checkpoint", noun: "checkpoint", remedy: "remove it to start anew" };

/// What makes two runs the same: network, initial weights, data, and settings.
pub(super) fn identity(network: &Network, data: &Dataset, config: &Config) -> Result<String> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(serde_json::to_string(network.layers())?.as_bytes());
    for (name, var) in network.state() {
        hasher.update(name.as_bytes());
        hasher.update(&var.as_tensor().data());
    }
    hasher.update(&data.checksum.to_le_bytes());
    hasher.update(&(data.train.len() as u64).to_le_bytes());
    let settings = checked_file::identity(&config.normalised(), &Config::default())?;
    hasher.update(settings.as_bytes());
    Ok(format!("{:08x}", hasher.finalize()))
}

pub(super) fn write(
    path: &Path,
    network: &Network,
    about: &CheckpointHeader,
    state: &OptimizerState,
) -> Result<()> {
    let mut tensors: Tensors =
        network.state().into_iter().map(|(name, var)| (name, var.into_inner())).collect();
    for (i, mean) in state.optimizer.means().iter().enumerate() {
        for (name, means) in &state.means {
            tensors.insert(format!("{mean}/{name}"), means.get(i)?);
        }
    }
    for (name, average) in state.average.iter().flatten() {
        tensors.insert(format!("average/{name}"), average.clone());
    }
    files::write_atomically(path, &KIND.seal(about, &tensors)?)
}

/// Reads the checkpoint at `path`.
pub(super) fn read(path: &Path) -> Result<Contents<CheckpointHeader>> {
    let mut contents: Contents<CheckpointHeader> = KIND.read(path)?;
    contents.origin += &format!(" (a checkpoint of {})", contents.about.network);
    Ok(contents)
}

/// Gives `state` and `network` what a checkpoint holds of them. What does not fit changes no weights.
pub(super) fn restore(
    contents: &Contents<CheckpointHeader>,
    network: &Network,
    state: &mut OptimizerState,
) -> Result<()> {
    let get = |name: String, like: &Var| {
        let tensor = contents.tensor(&name, like.dims(), network.name())?;
        Ok::<_, Error>(tensor.to_device(network.device())?)
    };
    let kept = state.optimizer.means();
    for (name, var) in network.parameters() {
        let of = |mean: &&str| get(format!("{mean}/{name}"), &var);
        let means = kept.iter().map(of).collect::<Result<Vec<_>>>()?;
        state.means.insert(name, Tensor::stack(&means, 0)?);
    }
    if let Some(average) = &mut state.average {
        for (name, var) in network.state() {
            let of_name = get(format!("average/{name}"), &var)?;
            average.insert(name, of_name);
        }
    }
    state.steps = contents.about.steps;
    network.load(contents)
}

/// Loads the weights of a checkpoint that [`super::train`] wrote into a network with the same parameters,
/// and returns the history of the run. Fails, and changes nothing, where the file is damaged or a
/// parameter is missing or of another shape.
pub fn load_checkpoint(network: &Network, path: &Path) -> Result<Vec<Epoch>> {
    let contents = read(path)?;
    network.load(&contents)?;
    Ok(contents.about.history)
}
