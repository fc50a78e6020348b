//! Checkpoints: weights, the optimizer's state and the history, one file per run.

use super::Epoch;
use super::config::Config;
use super::optimizer::OptimizerState;
use crate::checked_file::{self, TensorBytes, bytes_of, values_of};
use crate::data::Dataset;
use crate::error::{bail, error};
use crate::networks::{Layer, Network};
use crate::{Error, Result, files};
use candle_core::{DType, Tensor, Var};
use safetensors::{Dtype, SafeTensors};
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

const KIND: &str = "checkpoint";

/// What makes two runs the same: network, initial weights, data, and settings.
pub(super) fn identity(network: &Network, data: &Dataset, config: &Config) -> Result<String> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(serde_json::to_string(network.layers())?.as_bytes());
    for (name, var) in network.state() {
        hasher.update(name.as_bytes());
        hasher.update(&bytes(var.as_tensor())?);
    }
    hasher.update(&data.checksum.to_le_bytes());
    hasher.update(&(data.train.len() as u64).to_le_bytes());
    let settings = checked_file::identity(&config.normalised(), &Config::default())?;
    hasher.update(settings.as_bytes());
    Ok(format!("{:08x}", hasher.finalize()))
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values = tensor.flatten_all()?.to_dtype(DType::F32)?;
    Ok(bytes_of(values.to_vec1::<f32>()?))
}

pub(super) fn write(
    path: &Path,
    network: &Network,
    about: &CheckpointHeader,
    state: &OptimizerState,
) -> Result<()> {
    let part = |name: String, tensor: &Tensor| -> Result<TensorBytes> {
        Ok((name, Dtype::F32, tensor.dims().to_vec(), bytes(tensor)?))
    };
    let mut parts = Vec::new();
    for (name, var) in network.state() {
        parts.push(part(name, var.as_tensor())?);
    }
    for (i, mean) in state.optimizer.means().iter().enumerate() {
        for (name, means) in &state.means {
            parts.push(part(format!("{mean}/{name}"), &means.get(i)?)?);
        }
    }
    for (name, average) in state.average.iter().flatten() {
        parts.push(part(format!("average/{name}"), average)?);
    }
    files::write_atomically(path, &checked_file::seal(KIND, about, parts)?)
}

fn broken(path: &Path, what: &str) -> Error {
    error!(File, "{} is not a whole checkpoint ({what}); remove it to start anew", path.display())
}

/// The epochs that the checkpoint at `path` holds.
pub(super) fn history(path: &Path) -> Result<Vec<Epoch>> {
    let bytes = files::read(path)?;
    let (about, _) =
        checked_file::open::<CheckpointHeader>(KIND, &bytes).map_err(|what| broken(path, &what))?;
    Ok(about.history)
}

/// Loads the weights, and the optimizer's state if asked for, after everything was checked: a file that does
/// not fit changes nothing.
pub(super) fn read(
    path: &Path,
    network: &Network,
    optimizer: Option<&mut OptimizerState>,
) -> Result<CheckpointHeader> {
    let bytes = files::read(path)?;
    let (about, file) =
        checked_file::open::<CheckpointHeader>(KIND, &bytes).map_err(|what| broken(path, &what))?;
    let get = |name: String, like: &Var| tensor(path, &file, name, like, network, &about);
    let state = network.state();
    let weights = state.iter().map(|(name, var)| get(name.clone(), var)).collect::<Result<Vec<_>>>()?;
    if let Some(optimizer) = optimizer {
        let kept = optimizer.optimizer.means();
        let means = |(name, var): (&String, &Var)| -> Result<_> {
            let of = |mean: &&str| get(format!("{mean}/{name}"), var);
            let means = kept.iter().map(of).collect::<Result<Vec<_>>>()?;
            Ok((name.clone(), Tensor::stack(&means, 0)?))
        };
        let parameters = network.parameters();
        optimizer.means = parameters.iter().map(means).collect::<Result<_>>()?;
        optimizer.steps = about.steps;
        if let Some(average) = &mut optimizer.average {
            for (name, var) in &state {
                average.insert(name.clone(), get(format!("average/{name}"), var)?);
            }
        }
    }
    for (var, weight) in state.values().zip(&weights) {
        var.set(weight)?;
    }
    Ok(about)
}

/// A tensor of a checkpoint, which must have the shape of `like`.
fn tensor(
    path: &Path,
    file: &SafeTensors<'_>,
    name: String,
    like: &Var,
    network: &Network,
    about: &CheckpointHeader,
) -> Result<Tensor> {
    let origin = path.display();
    match file.tensor(&name) {
        Ok(view) if view.shape() == like.dims() => {
            Ok(Tensor::from_vec(values_of(view.data()), like.shape(), network.device())?)
        }
        Ok(view) => bail!(
            Shape,
            "{origin}: {name} is {:?}, but {} needs {:?}",
            view.shape(),
            network.name(),
            like.shape()
        ),
        Err(_) => bail!(
            Shape,
            "{origin} has no {name}, which {} needs; it is a checkpoint of {}",
            network.name(),
            about.network
        ),
    }
}

/// Loads the weights of a checkpoint that [`super::train`] wrote into a network with the same parameters,
/// and returns the history of the run. Fails, and changes nothing, where the file is damaged or a
/// parameter is missing or of another shape.
pub fn load_checkpoint(network: &Network, path: &Path) -> Result<Vec<Epoch>> {
    Ok(read(path, network, None)?.history)
}
