//! Training: all exits jointly, or a network with its last exit only, which is the baseline.
//!
//! The loss is `L = Σ_n w_n · CE(softmax(z_n), y)` over the exits (paper, equation 1), minimised by
//! Adam. After every epoch a checkpoint is written atomically; a run that was killed goes on from
//! the last one and ends with the weights, bit for bit, that it would have had. For that every
//! epoch has a random generator of its own, derived from the seed and the epoch's number: nothing
//! but the number needs to be stored.

use crate::data::{Dataset, Role, Split, write_atomically};
use crate::error::bail;
use crate::precision::Precision;
use crate::tape::Gradients;
use crate::{Error, Network, Pass, Result, Rng, ops};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Passes over the training split.
    pub epochs: usize,
    /// Images a step; the last step of an epoch takes what is left.
    pub batch_size: usize,
    /// Adam's step size in the first epoch.
    pub learning_rate: f64,
    /// The step size falls along half a cosine to this share of the first over the run; 1 keeps it
    /// constant, as the paper does.
    pub final_learning_rate: f64,
    /// Adam's decay of the gradient's mean. The paper says 0.99, its code uses 0.9.
    pub beta1: f64,
    /// Adam's decay of the squared gradient's mean.
    pub beta2: f64,
    /// The weight of each exit's loss; empty for 1 each.
    pub exit_weights: Vec<f64>,
    /// Shift and flip training images at random ([`Split::augmented_batch`]); the paper does not.
    pub augment: bool,
    /// What convolutions and linear layers compute in, on a GPU.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// Of shuffling, augmentation and dropout. (Initial weights have their own, in [`Network::new`].)
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            learning_rate: 1e-3,
            final_learning_rate: 1.0,
            beta1: 0.9,
            beta2: 0.999,
            exit_weights: Vec::new(),
            augment: false,
            precision: Precision::F32,
            seed: 0,
        }
    }
}

impl Config {
    /// The exits' weights. Fails on settings that make no sense, naming them.
    pub fn check(&self, exits: usize) -> Result<Vec<f64>> {
        if self.epochs == 0 || self.batch_size == 0 {
            bail!(
                "epochs and batch_size must be at least 1, got {} and {}",
                self.epochs,
                self.batch_size
            )
        }
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !positive(self.learning_rate) || !(0.0..=1.0).contains(&self.final_learning_rate) {
            bail!(
                "learning_rate must be above 0 and final_learning_rate in 0..=1, got {} and {}",
                self.learning_rate,
                self.final_learning_rate
            )
        }
        if ![self.beta1, self.beta2]
            .iter()
            .all(|beta| (0.0..1.0).contains(beta))
        {
            bail!(
                "beta1 and beta2 must be in 0..1, got {} and {}",
                self.beta1,
                self.beta2
            )
        }
        if self.exit_weights.is_empty() {
            return Ok(vec![1.0; exits]);
        }
        if self.exit_weights.len() != exits
            || self.exit_weights.iter().any(|w| !w.is_finite() || *w < 0.0)
        {
            bail!(
                "exit_weights must be {exits} numbers of at least 0, one for each exit (or empty for 1 each), got {:?}",
                self.exit_weights
            )
        }
        Ok(self.exit_weights.clone())
    }

    fn rate(&self, epoch: usize) -> f64 {
        let progress = (epoch - 1) as f64 / self.epochs.max(2) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.learning_rate * (self.final_learning_rate + (1.0 - self.final_learning_rate) * cosine)
    }
}

/// Loss and accuracy at every exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean cross-entropy in nats, one for each exit.
    pub loss: Vec<f64>,
    /// Share of right answers in 0..=1, one for each exit.
    pub accuracy: Vec<f64>,
}

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
    /// Training images a second, validation not counted.
    pub images_per_second: f64,
    /// Seconds the epoch took, validation and checkpoint included.
    pub seconds: f64,
}

/// A finished training run.
#[derive(Debug, Clone)]
pub struct Run {
    /// All epochs, also those of earlier starts of the same run.
    pub history: Vec<Epoch>,
    /// The checkpoint that holds the weights.
    pub checkpoint: PathBuf,
    /// Epochs found in that checkpoint at the start: 0 for a new run, all for one that was
    /// finished before.
    pub found: usize,
}

/// What a checkpoint says about itself, as JSON in its header.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    network: String,
    layers: String,
    dataset: String,
    config: Config,
    identity: String,
    /// Of the working tree, when the last epoch was trained.
    #[serde(default)]
    commit: String,
    epoch: usize,
    history: Vec<Epoch>,
}

const ABOUT: &str = "branchynet";

/// Adam, whose state can be stored.
struct Adam {
    parameters: BTreeMap<String, Var>,
    /// (2, …): running means of gradient and squared gradient.
    moments: BTreeMap<String, Tensor>,
    steps: usize,
}

impl Adam {
    fn new(parameters: BTreeMap<String, Var>) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|(name, var)| Ok((name.clone(), pair(&var.zeros_like()?, &var.zeros_like()?)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            parameters,
            moments,
            steps: 0,
        })
    }

    fn step(&mut self, gradients: &Gradients, config: &Config, rate: f64) -> Result<()> {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        // Both bias corrections, folded into the step size and epsilon as in the paper's section 2.
        let (beta1, beta2) = (config.beta1, config.beta2);
        let correction = (1.0 - beta2.powi(steps)).sqrt();
        let adam = ops::Adam {
            beta1,
            beta2,
            rate: rate * correction / (1.0 - beta1.powi(steps)),
            epsilon: 1e-8 * correction,
        };
        let update = |(name, moments): (&String, &Tensor)| -> Result<()> {
            match gradients.get(name) {
                Some(grad) => Ok(adam.step(&self.parameters[name], moments, grad)?),
                None => Ok(()),
            }
        };
        if self.parameters.values().any(|var| var.device().is_cuda()) {
            return self.moments.iter().try_for_each(update);
        }
        // Parameters are many and small: side by side they fill the cores.
        self.moments.par_iter().try_for_each(update)
    }
}

/// Two tensors of one shape as one, in storage of its own.
fn pair(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    Ok(Tensor::stack(&[first, second], 0)?)
}

/// Where runs are kept.
fn runs_dir() -> PathBuf {
    crate::data::project_dir().join("datasets/runs")
}

/// What makes two runs the same: network, initial weights, data, and settings.
fn identity(network: &Network, data: &Dataset, config: &Config) -> Result<String> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{:?}", network.layers()).as_bytes());
    for (name, var) in network.state() {
        hasher.update(name.as_bytes());
        for x in var.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()? {
            hasher.update(&x.to_le_bytes());
        }
    }
    hasher.update(&data.checksum.to_le_bytes());
    hasher.update(&(data.train.len() as u64).to_le_bytes());
    hasher.update(serde_json::to_string(config)?.as_bytes());
    Ok(format!("{:08x}", hasher.finalize()))
}

/// News from a training run.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A line for the log: an epoch's result, or a run that was found.
    Line(&'a str),
    /// Somewhere inside an epoch.
    Step {
        /// From 1.
        epoch: usize,
        /// Of how many.
        epochs: usize,
        /// Images of this epoch trained on so far, and of how many.
        images: (usize, usize),
        /// Mean loss of the last exit in this epoch.
        loss: f64,
        /// Since the epoch began.
        images_per_second: f64,
    },
}

impl Progress<'_> {
    /// A step as text.
    pub fn text(&self) -> String {
        match self {
            Self::Line(line) => line.to_string(),
            Self::Step {
                epoch,
                epochs,
                images: (done, all),
                loss,
                images_per_second,
            } => format!(
                "epoch {epoch:>3}/{epochs}  {:>3} %  loss of the last exit {loss:.4}  {images_per_second:.0} images/s  epoch done in {:.0} s",
                100 * done / all,
                (all - done) as f64 / images_per_second
            ),
        }
    }
}

/// Prints lines, and a step every half minute: for notebooks and logs, which cannot redraw a bar.
pub fn plain() -> impl FnMut(Progress<'_>) {
    let mut last = Instant::now();
    move |progress| {
        if matches!(progress, Progress::Line(_)) || last.elapsed().as_secs() >= 30 {
            println!("{}", progress.text());
            last = Instant::now();
        }
    }
}

/// Where the run of these settings is kept.
fn run_path(network: &Network, data: &Dataset, config: &Config) -> Result<PathBuf> {
    let slug = network
        .name()
        .to_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let identity = identity(network, data, config)?;
    Ok(runs_dir().join(format!("{slug}-{identity}.safetensors")))
}

/// Trains `network` on `data.train` from the weights it has, and reports on `data.validation` after
/// every epoch, one line each.
///
/// The run is kept in `datasets/runs/`, under a name made of the network's and of a checksum of
/// everything that decides the result. If the same run is there already, it is continued, or taken
/// as it is when it was finished; with RETRAIN=1 in the environment it is made anew. Same weights,
/// same seed, same data: same result, bit for bit, on the same device. Where it was trained is no part
/// of what a run is: one begun on a GPU may be looked at, or gone on with, on a CPU.
///
/// Fails on settings that make no sense, and when a loss is no longer finite: the message names
/// epoch, step and exit, and the last good checkpoint stays.
pub fn train(network: &Network, data: &Dataset, config: &Config) -> Result<Run> {
    train_with(network, data, config, &mut plain())
}

/// [`train`] with progress given to `say`.
pub fn train_with(
    network: &Network,
    data: &Dataset,
    config: &Config,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Run> {
    let path = run_path(network, data, config)?;
    let resume = !crate::notebook::switch("RETRAIN");
    go_on(network, data, config, &path, resume, say)
}

/// [`train`] with a checkpoint at `path`, continued if it is there.
pub fn train_at(
    network: &Network,
    data: &Dataset,
    config: &Config,
    path: &Path,
    mut say: impl FnMut(Progress<'_>),
) -> Result<Run> {
    go_on(network, data, config, path, true, &mut say)
}

/// The finished run of these settings in `datasets/runs/`, its weights loaded into `network`; `None`,
/// and the network as it was, where there is none or it is not finished.
pub fn find(network: &Network, data: &Dataset, config: &Config) -> Result<Option<Run>> {
    let path = run_path(network, data, config)?;
    if !path.exists() || read_about(&path, &std::fs::read(&path)?)?.0.history.len() < config.epochs
    {
        return Ok(None);
    }
    let history = load_checkpoint(network, &path)?;
    Ok(Some(Run {
        found: history.len(),
        history,
        checkpoint: path,
    }))
}

fn go_on(
    network: &Network,
    data: &Dataset,
    config: &Config,
    path: &Path,
    resume: bool,
    say: &mut dyn FnMut(Progress<'_>),
) -> Result<Run> {
    let weights = config.check(network.exits())?;
    config.precision.check(network.device())?;
    config.precision.apply();
    crate::settle();
    let identity = identity(network, data, config)?;
    let mut adam = Adam::new(network.parameters())?;
    let mut history = Vec::new();
    if resume && path.exists() {
        let about = read_checkpoint(path, network, Some(&mut adam))?;
        if about.identity != identity {
            bail!(
                "{} holds another run ({} with {:?}); remove it or train to another path",
                path.display(),
                about.network,
                about.config
            )
        }
        history = about.history;
        say(Progress::Line(&format!(
            "{}: found {} of {} epochs in {}",
            network.name(),
            history.len(),
            config.epochs,
            path.strip_prefix(crate::data::project_dir())
                .unwrap_or(path)
                .display()
        )));
    }
    let found = history.len();
    let samples = data.train.len();
    if samples == 0 {
        bail!("the training split is empty")
    }
    let commit = crate::notebook::commit();
    let started = Instant::now();
    for epoch in found + 1..=config.epochs {
        let epoch_started = Instant::now();
        // A golden-ratio stride keeps the streams of neighbouring seeds and epochs apart.
        let mut rng =
            Rng::seed_from_u64(config.seed ^ (epoch as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut order: Vec<usize> = (0..samples).collect();
        order.shuffle(&mut rng);
        let rate = config.rate(epoch);
        let mut sums = Sums::new(network.exits());
        for (step, batch) in order.chunks(config.batch_size).enumerate() {
            let images = if config.augment {
                data.train
                    .augmented_batch(batch, &mut rng, network.device())?
            } else {
                data.train.batch(batch, network.device())?
            };
            let (logits, tape) = network.forward_with_tape(&images, &mut rng)?;
            let labels = labels_of(&data.train, batch, network.device())?;
            let losses = logits
                .iter()
                .zip(&weights)
                .map(|(logits, weight)| {
                    ops::cross_entropy(logits, &labels, weight / batch.len() as f64)
                })
                .collect::<candle_core::Result<Vec<_>>>()?;
            let of_logits = losses.iter().map(|loss| loss.gradient.clone()).collect();
            adam.step(&tape.backward(of_logits)?, config, rate)?;
            // Read last: a GPU has all of the step's work by then.
            for (exit, loss) in sums.add(&losses, batch.len())?.into_iter().enumerate() {
                if !loss.is_finite() {
                    let kept = if epoch == 1 {
                        "no checkpoint was written yet".to_string()
                    } else {
                        format!(
                            "the checkpoint of epoch {} is kept in {}",
                            epoch - 1,
                            path.display()
                        )
                    };
                    bail!(
                        "epoch {epoch}, step {}: the loss of exit {} is {loss}; {kept}. Try a smaller learning rate than {}",
                        step + 1,
                        exit + 1,
                        config.learning_rate
                    )
                }
            }
            say(Progress::Step {
                epoch,
                epochs: config.epochs,
                images: (sums.samples, samples),
                loss: sums.means().loss[network.exits() - 1],
                images_per_second: sums.samples as f64 / epoch_started.elapsed().as_secs_f64(),
            });
        }
        let train_seconds = epoch_started.elapsed().as_secs_f64();
        let validation = evaluate(network, &data.validation)?;
        history.push(Epoch {
            epoch,
            train: sums.means(),
            validation,
            device: crate::device_name(network.device()),
            images_per_second: samples as f64 / train_seconds,
            seconds: epoch_started.elapsed().as_secs_f64(),
        });
        let about = About {
            network: network.name().to_string(),
            layers: format!("{:?}", network.layers()),
            dataset: data.name.clone(),
            config: config.clone(),
            identity: identity.clone(),
            commit: commit.clone(),
            epoch,
            history: history.clone(),
        };
        write_checkpoint(path, network, &about, &adam)?;
        let per_epoch = started.elapsed().as_secs_f64() / (epoch - found) as f64;
        let line = line(
            network.name(),
            &history[epoch - 1],
            config.epochs,
            per_epoch,
        );
        say(Progress::Line(&line));
    }
    Ok(Run {
        history,
        checkpoint: path.to_path_buf(),
        found,
    })
}

/// The progress line of one epoch.
fn line(name: &str, epoch: &Epoch, epochs: usize, seconds_per_epoch: f64) -> String {
    let list = |values: &[f64], scale: f64, digits: usize| {
        let values: Vec<String> = values
            .iter()
            .map(|x| format!("{:.digits$}", x * scale))
            .collect();
        values.join(" / ")
    };
    format!(
        "{name}, epoch {:>3}/{epochs}  train loss {} acc {} %  validation loss {} acc {} %  {:.0} images/s  {:.0} s left",
        epoch.epoch,
        list(&epoch.train.loss, 1.0, 4),
        list(&epoch.train.accuracy, 100.0, 2),
        list(&epoch.validation.loss, 1.0, 4),
        list(&epoch.validation.accuracy, 100.0, 2),
        epoch.images_per_second,
        seconds_per_epoch * (epochs - epoch.epoch) as f64,
    )
}

/// Running sums of loss and right answers for each exit.
struct Sums {
    samples: usize,
    loss: Vec<f64>,
    right: Vec<usize>,
}

impl Sums {
    fn new(exits: usize) -> Self {
        Self {
            samples: 0,
            loss: vec![0.0; exits],
            right: vec![0; exits],
        }
    }

    /// Adds a batch and returns its mean loss for each exit.
    fn add(&mut self, losses: &[ops::Losses], samples: usize) -> Result<Vec<f64>> {
        let mut means = Vec::new();
        for (exit, losses) in losses.iter().enumerate() {
            let (loss, right) = losses.sums()?;
            self.loss[exit] += loss;
            self.right[exit] += right;
            means.push(loss / samples as f64);
        }
        self.samples += samples;
        Ok(means)
    }

    fn means(&self) -> Scores {
        let n = self.samples as f64;
        Scores {
            loss: self.loss.iter().map(|sum| sum / n).collect(),
            accuracy: self.right.iter().map(|&right| right as f64 / n).collect(),
        }
    }
}

/// The classes of these samples: u32 (samples).
fn labels_of<R: Role>(split: &Split<R>, samples: &[usize], device: &Device) -> Result<Tensor> {
    let labels: Vec<u32> = samples
        .iter()
        .map(|&i| u32::from(split.labels()[i]))
        .collect();
    Ok(Tensor::new(labels, device)?)
}

/// Images that one pass takes when nothing is trained.
pub(crate) const EVALUATION_BATCH: usize = 250;

/// Loss and accuracy of every exit on a whole split.
pub fn evaluate<R: Role>(network: &Network, split: &Split<R>) -> Result<Scores> {
    if split.is_empty() {
        bail!("the {} split is empty", R::NAME)
    }
    let mut sums = Sums::new(network.exits());
    let samples: Vec<usize> = (0..split.len()).collect();
    for batch in samples.chunks(EVALUATION_BATCH) {
        let logits =
            network.forward(&split.batch(batch, network.device())?, &mut Pass::Evaluate)?;
        let labels = labels_of(split, batch, network.device())?;
        let losses = logits
            .iter()
            .map(|logits| ops::cross_entropy(logits, &labels, 1.0))
            .collect::<candle_core::Result<Vec<_>>>()?;
        sums.add(&losses, batch.len())?;
    }
    Ok(sums.means())
}

fn write_checkpoint(path: &Path, network: &Network, about: &About, adam: &Adam) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (name, var) in network.state() {
        tensors.insert(name, var.as_tensor().clone());
    }
    for (name, moments) in &adam.moments {
        tensors.insert(format!("adam.mean/{name}"), moments.get(0)?);
        tensors.insert(format!("adam.square/{name}"), moments.get(1)?);
    }
    let header = HashMap::from([(
        ABOUT.to_string(),
        serde_json::to_string(&(about, adam.steps))?,
    )]);
    write_atomically(path, &safetensors::serialize(tensors, Some(header))?)
}

fn broken(path: &Path, what: &str) -> Error {
    Error::new(format!(
        "{} is not a whole checkpoint ({what}); remove it to start anew",
        path.display()
    ))
}

/// What the bytes of a checkpoint say about it, and Adam's number of steps.
fn read_about(path: &Path, bytes: &[u8]) -> Result<(About, usize)> {
    let broken = |what: String| broken(path, &what);
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
    let about = header
        .metadata()
        .as_ref()
        .and_then(|about| about.get(ABOUT))
        .ok_or_else(|| broken("it does not say what it is".into()))?;
    serde_json::from_str(about).map_err(|error| broken(error.to_string()))
}

/// Loads the weights, and Adam's state if asked for, after everything was checked: a file that does
/// not fit changes nothing.
fn read_checkpoint(path: &Path, network: &Network, adam: Option<&mut Adam>) -> Result<About> {
    let origin = path.display();
    let broken = |what: String| broken(path, &what);
    let bytes = std::fs::read(path)
        .map_err(|error| Error::new(format!("cannot read {origin}: {error}")))?;
    let (about, steps) = read_about(path, &bytes)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, network.device())
        .map_err(|error| broken(Error::from(error).to_string()))?;
    let get = |name: String, like: &Var| match tensors.get(&name) {
        Some(tensor) if tensor.shape() == like.shape() => Ok(tensor.clone()),
        Some(tensor) => bail!(
            "{origin}: {name} is {:?}, but {} needs {:?}",
            tensor.shape(),
            network.name(),
            like.shape()
        ),
        None => bail!(
            "{origin} has no {name}, which {} needs; it is a checkpoint of {}",
            network.name(),
            about.network
        ),
    };
    let state = network.state();
    let weights = state
        .iter()
        .map(|(name, var)| get(name.clone(), var))
        .collect::<Result<Vec<_>>>()?;
    if let Some(adam) = adam {
        let moments = network
            .parameters()
            .iter()
            .map(|(name, var)| {
                let mean = get(format!("adam.mean/{name}"), var)?;
                let square = get(format!("adam.square/{name}"), var)?;
                Ok((name.clone(), pair(&mean, &square)?))
            })
            .collect::<Result<_>>()?;
        adam.moments = moments;
        adam.steps = steps;
    }
    for (var, weight) in state.values().zip(&weights) {
        var.set(weight)?;
    }
    Ok(about)
}

/// Loads the weights of a checkpoint that [`train`] wrote into a network with the same parameters,
/// and returns the history of the run. Fails, and changes nothing, where the file is damaged or a
/// parameter is missing or of another shape.
pub fn load_checkpoint(network: &Network, path: &Path) -> Result<Vec<Epoch>> {
    Ok(read_checkpoint(path, network, None)?.history)
}
