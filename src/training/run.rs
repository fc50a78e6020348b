//! The training loop.

use super::average;
use super::checkpoint::{self, CheckpointHeader, identity};
use super::config::Config;
use super::loss;
use super::optimizer::{OptimizerState, Stride};
use super::progress::{Progress, line};
#[cfg(feature = "cuda")]
use super::replay::Replay;
use super::scores::{Scores, Sums, evaluate};
use crate::checked_file::peek;
use crate::data::Dataset;
use crate::files::{project_dir, shown};
use crate::networks::Network;
use crate::{Result, Rng, bail, files, kernels};
use candle_core::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// What one epoch gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Means over the epoch's steps, while the weights moved.
    pub train: Scores,
    /// On the validation split, after the epoch.
    pub validation: Scores,
    /// What trained it: `CPU`, or the GPU's name. Empty where an earlier version did not say.
    #[serde(default)]
    pub device: String,
    /// Training images per second, validation not counted.
    pub images_per_second: f64,
    /// Seconds the epoch took, validation and checkpoint included.
    pub seconds: f64,
}

/// A finished training run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Run {
    /// All epochs, also those of earlier starts of the same run.
    pub history: Vec<Epoch>,
    /// The checkpoint that holds the weights.
    pub checkpoint: PathBuf,
    /// Epochs found in that checkpoint at the start: 0 for a new run, all for one that was
    /// finished before.
    pub found: usize,
}

/// Where a run is kept, and whether an earlier start of it counts.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// The checkpoint, of these settings with this number of epochs alone; `None` for one in `datasets/runs/`, named after
    /// the network and a checksum of everything that decides the result.
    pub checkpoint: Option<PathBuf>,
    /// Train anew although the same run is there.
    pub anew: bool,
}

const RUNS: &str = "datasets/runs";

/// Where the run of these settings is kept by default.
fn run_path(network: &Network, identity: &str) -> PathBuf {
    project_dir().join(RUNS).join(format!("{}{identity}.safetensors", beginning(network.name())))
}

/// How the names of a network's runs begin.
fn beginning(network: &str) -> String {
    format!("{}-", network.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

/// Whether `datasets/runs/` has runs, finished or not, of a network of this name. Whether they are of certain settings
/// can be told from the data set only.
pub fn any_of(network: &str) -> bool {
    !runs_of(network).is_empty()
}

fn runs_of(network: &str) -> Vec<PathBuf> {
    let beginning = beginning(network);
    let of_network =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning));
    let mut runs = files::listed(RUNS, ".safetensors");
    runs.retain(of_network);
    runs
}

/// Trains `network` on `data.train` from the weights it has, and evaluates it on `data.validation` after
/// every epoch. It says nothing; [`train_with`] does.
///
/// The run is kept in `datasets/runs/`. If the same run is there already, it is continued, or taken
/// as it is when it was finished; one with fewer epochs goes on, where step sizes do not depend on the number of epochs. Same
/// weights, same seed, same data: same result, bit for bit, on the
/// same device. Where it was trained is no part of what a run is: one begun on a GPU may be continued on
/// a CPU.
///
/// ```no_run
/// use branchynet::prelude::*;
///
/// # fn on(data: Dataset) -> Result<()> {
/// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
/// let config = Config { epochs: 3, exit_weights: vec![1.0, 0.3], ..Config::default() };
/// let run = train(&network, &data, &config)?;
/// assert!(run.history[2].validation.accuracy[1] > 0.9);
/// # Ok(())
/// # }
/// ```
///
/// Fails on settings that make no sense, and when a loss is no longer finite: the message names
/// epoch, step and exit, and the last good checkpoint stays.
pub fn train(network: &Network, data: &Dataset, config: &Config) -> Result<Run> {
    train_with(network, data, config, &Keep::default(), &mut |_| ())
}

/// The finished run of these settings in `datasets/runs/`, its weights loaded into `network`; `None`,
/// and the network as it was, where there is none or it is not finished.
pub fn find(network: &Network, data: &Dataset, config: &Config) -> Result<Option<Run>> {
    network.fit(&data.train)?;
    let path = run_path(network, &identity(network, data, config)?);
    if !path.exists() {
        return Ok(None);
    }
    let contents = checkpoint::read(&path)?;
    let found = contents.about.history.len();
    if found < config.epochs {
        return Ok(None);
    }
    network.load(&contents)?;
    Ok(Some(Run { found, history: contents.about.history, checkpoint: path }))
}

/// The longest of the finished runs in `datasets/runs/` that differ in having fewer epochs, and what it says of itself.
fn shorter(
    network: &Network,
    data: &Dataset,
    config: &Config,
) -> Result<Option<(PathBuf, CheckpointHeader)>> {
    let mut longest: Option<(PathBuf, CheckpointHeader)> = None;
    for path in runs_of(network.name()) {
        let Ok(file) = std::fs::File::open(&path) else { continue };
        let Some(there) = peek::<CheckpointHeader>(file) else { continue };
        let epochs = there.config.epochs;
        let ours = Config { epochs, ..config.clone() };
        let more = longest.as_ref().is_none_or(|(_, longest)| longest.config.epochs < epochs);
        if more
            && epochs < config.epochs
            && there.history.len() == epochs
            && ours.normalised() == there.config.normalised()
            && identity(network, data, &ours)? == there.identity
        {
            longest = Some((path, there));
        }
    }
    Ok(longest)
}

/// [`train`], the run kept where `keep` says, with progress given to `say`.
///
/// ```
/// use branchynet::prelude::*;
/// use branchynet::training::{Keep, train_with};
///
/// // Images that are dark or bright, in two classes.
/// let part = |n: usize| {
///     let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
///     (labels.iter().flat_map(|&label| [label as u8 * 200; 16]).collect(), labels)
/// };
/// let raw = Raw { image: [1, 4, 4], train: part(100), test: part(20) };
/// let data = Dataset::from_arrays("brightness", raw, 10, &["dark", "bright"])?;
/// let layers = [branch([linear(16, 2)]), linear(16, 8), relu(), linear(8, 2)];
/// let network = Network::new("small", [1, 4, 4], layers, 0, &Device::Cpu)?;
/// let keep = Keep {
///     checkpoint: Some(std::env::temp_dir().join(format!("doc-{}.safetensors", std::process::id()))),
///     anew: true,
/// };
/// let config = Config { epochs: 2, batch_size: 10, ..Config::default() };
/// let run = train_with(&network, &data, &config, &keep, &mut |_| ())?;
/// assert_eq!(evaluate(&network, &data.test)?.accuracy.len(), 2);
/// // The checkpoint restores the weights.
/// assert_eq!(load_checkpoint(&network, &run.checkpoint)?.len(), 2);
/// # std::fs::remove_file(&run.checkpoint)?;
/// # Ok::<(), branchynet::Error>(())
/// ```
pub fn train_with(
    network: &Network,
    data: &Dataset,
    config: &Config,
    keep: &Keep,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Run> {
    let weights = config.check(network.exits())?;
    let network = &network.with_precision(config.precision)?;
    if data.train.is_empty() {
        bail!(Setting, "the training split is empty")
    }
    if data.train.image_shape() != network.image {
        let ([c, h, w], [channels, height, width]) = (data.train.image_shape(), network.image);
        bail!(
            Shape,
            "{} takes images of {channels}×{height}×{width}, and those of {} are of {c}×{h}×{w}; build the network for these",
            network.name(),
            data.name
        )
    }
    data.train.check_labels(network.classes())?;
    data.validation.check_labels(network.classes())?;
    data.test.check_labels(network.classes())?;
    network.fit(&data.train)?;
    let identity = identity(network, data, config)?;
    let path = keep.checkpoint.clone().unwrap_or_else(|| run_path(network, &identity));
    let mut about = CheckpointHeader {
        network: network.name().to_string(),
        layers: network.layers().to_vec(),
        dataset: data.name.clone(),
        config: config.clone(),
        identity,
        commit: files::commit(),
        steps: 0,
        history: Vec::new(),
    };
    let mut optimizer = OptimizerState::new(config.optimizer()?, network.parameters())?;
    if config.lookahead {
        optimizer.average = Some(average::begin(network)?);
    }
    let mut state = State {
        optimizer,
        #[cfg(feature = "cuda")]
        replay: Replay::default(),
    };
    if !keep.anew && path.exists() {
        let contents = checkpoint::read(&path)?;
        checkpoint::restore(&contents, network, &mut state.optimizer)?;
        let there = contents.about;
        if there.identity != about.identity {
            bail!(
                Setting,
                "{} holds another run: {}; train to another path, or anew with `anew: true`, which replaces it",
                path.display(),
                about.difference(&there)?
            )
        }
        about.history = there.history;
        say(Progress::Line(&format!(
            "{}: found {} of {} epochs in {}",
            network.name(),
            about.history.len(),
            config.epochs,
            shown(&path)
        )));
    } else if !keep.anew
        && keep.checkpoint.is_none()
        && let Some((shorter, there)) = shorter(network, data, config)?
    {
        let (name, done, all) = (network.name(), there.history.len(), config.epochs);
        if config.any_length() {
            checkpoint::restore(&checkpoint::read(&shorter)?, network, &mut state.optimizer)?;
            about.history = there.history;
            say(Progress::Line(&format!("{name}: goes on from the {done} epochs in {}", shown(&shorter))));
        } else {
            let why = "its step sizes depend on the number of epochs";
            say(Progress::Line(&format!(
                "{name}: begins anew: the run of {done} epochs in {} cannot go on to {all}, as {why} (FINAL_RATE=1 keeps them constant)",
                shown(&shorter)
            )));
        }
    }
    let found = about.history.len();
    let started = Instant::now();
    for epoch in found + 1..=config.epochs {
        let weights =
            config.objective.weights(&weights, about.history.last().map(|epoch| &epoch.train.loss[..]));
        let trainer = Trainer { network, data, config, weights, epoch };
        about.history.push(trainer.epoch(&mut state, say, &path)?);
        about.steps = state.optimizer.steps;
        checkpoint::write(&path, network, &about, &state.optimizer)?;
        let per_epoch = started.elapsed().as_secs_f64() / (epoch - found) as f64;
        let done = &about.history[epoch - 1];
        let line = line(network.name(), done, config.epochs, per_epoch);
        say(Progress::Line(&line));
    }
    Ok(Run { history: about.history, checkpoint: path, found })
}

/// What steps change beside the weights.
struct State {
    optimizer: OptimizerState,
    #[cfg(feature = "cuda")]
    replay: Replay,
}

/// One epoch of a run.
struct Trainer<'a> {
    network: &'a Network,
    data: &'a Dataset,
    config: &'a Config,
    /// The exits'.
    weights: Vec<f64>,
    epoch: usize,
}

impl Trainer<'_> {
    fn epoch(
        &self,
        state: &mut State,
        say: &mut dyn FnMut(Progress<'_>),
        path: &std::path::Path,
    ) -> Result<Epoch> {
        let started = Instant::now();
        let (network, config, epoch) = (self.network, self.config, self.epoch);
        // A golden-ratio stride keeps the streams of neighbouring seeds and epochs apart.
        let stream = (epoch as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = Rng::seed_from_u64(config.seed ^ stream);
        let samples = self.data.train.len();
        let mut order: Vec<usize> = (0..samples).collect();
        order.shuffle(&mut rng);
        let mut sums = Sums::new(network.exits());
        let steps = samples.div_ceil(config.batch_size);
        for (step, batch) in order.chunks(config.batch_size).enumerate() {
            let rate = config.rate(epoch, step as f64 / steps as f64);
            let mut work = || self.step(state, rate, batch, &mut rng);
            // On a thread of the pool: from another one each operation waits until its thread is woken up.
            let losses = if network.device().is_cpu() { rayon::scope(|_| work()) } else { work() }?;
            let OptimizerState { average, steps: done, .. } = &mut state.optimizer;
            if let Some(average) = average {
                average::update(average, network, *done, steps * config.epochs)?;
            }
            // Read last: a GPU has all of the step's work by then.
            let means = sums.add(&losses, batch.len())?;
            if let Some(exit) = means.iter().position(|loss| !loss.is_finite()) {
                let kept = match epoch {
                    1 => "no checkpoint was written yet".to_string(),
                    _ => format!("the checkpoint of epoch {} is kept in {}", epoch - 1, path.display()),
                };
                let (step, at, loss, rate) = (step + 1, exit + 1, means[exit], config.learning_rate);
                bail!(
                    Diverged,
                    "epoch {epoch}, step {step}: the loss of exit {at} is {loss}; {kept}. Try a smaller learning rate than {rate}"
                )
            }
            say(Progress::Step {
                epoch,
                epochs: config.epochs,
                images: (sums.samples, samples),
                loss: sums.means().loss[network.exits() - 1],
                images_per_second: sums.samples as f64 / started.elapsed().as_secs_f64(),
            });
        }
        let train_seconds = started.elapsed().as_secs_f64();
        Ok(Epoch {
            epoch,
            train: sums.means(),
            validation: evaluate(network, &self.data.validation)?,
            device: crate::device_name(network.device()),
            images_per_second: samples as f64 / train_seconds,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// One step on the joint loss of all exits: what each exit lost.
    fn step(
        &self,
        state: &mut State,
        rate: f64,
        batch: &[usize],
        rng: &mut Rng,
    ) -> Result<Vec<kernels::Losses>> {
        let (network, train) = (self.network, &self.data.train);
        let images = if self.config.augment {
            let augmentation = self.config.augmentation;
            train.augmented_batch(batch, augmentation, self.epoch, rng, network.device())?
        } else {
            train.batch(batch, network.device())?
        };
        let labels = train.batch_labels(batch, network.device())?;
        let stride = state.optimizer.begin(rate)?;
        let learn = |optimizer: &mut OptimizerState, rng: &mut Rng| {
            self.learn(optimizer, &images, &labels, stride, rng)
        };
        #[cfg(feature = "cuda")]
        if network.device().is_cuda() && batch.len() == self.config.batch_size {
            let State { optimizer, replay } = state;
            return replay.step(optimizer, &images, &labels, rng, learn, OptimizerState::before_replay);
        }
        learn(&mut state.optimizer, rng)
    }

    /// A step on these images and labels.
    fn learn(
        &self,
        optimizer: &mut OptimizerState,
        images: &Tensor,
        labels: &Tensor,
        stride: Stride,
        rng: &mut Rng,
    ) -> Result<Vec<kernels::Losses>> {
        let (logits, mut tape) = self.network.pass_with_tape(images, rng, self.config.frozen)?;
        let (losses, of_logits) = loss::gradients(&logits, labels, &self.weights, self.config)?;
        tape.equilibrium = self.config.objective.equilibrium;
        optimizer.apply(&tape.backward(of_logits)?, stride)?;
        Ok(losses)
    }
}
