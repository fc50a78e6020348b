//! The settings of a training run, each declared once: the field is the setting, its comment the help
//! text, and flag and environment variable follow from it.

use super::objective::Objective;
use super::optimizer::{Adam, Optimizer, Sgd};
use crate::data::Augmentation;
use crate::kernels::Precision;
use crate::{Result, bail};
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

/// How the step size changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine, after a warm-up from 0.
    #[default]
    Cosine,
    /// A line, after a warm-up from a fifth, as in airbench.
    Triangle,
    /// A line, after a warm-up from 0.
    Linear,
    /// Slower than a line at first, and faster in the end: (1 − z) / (1 − z / 2) when the share z is done (REX, Chen et
    /// al. 2021, <https://arxiv.org/abs/2107.04197>), after a warm-up from 0.
    Rex,
}

impl Schedule {
    /// The share of the largest step size at which a warm-up begins.
    fn start(self) -> f64 {
        match self {
            Self::Triangle => 0.2,
            Self::Cosine | Self::Linear | Self::Rex => 0.0,
        }
    }
}

/// Which optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam, as in the paper.
    #[default]
    Adam,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Config {
    /// Epochs of the joint training: passes over the training split
    #[arg(long, env, value_name = "N")]
    pub epochs: usize,
    /// Batch size: images per step; the last step of an epoch takes what is left
    #[arg(long, env, value_name = "N")]
    pub batch_size: usize,
    /// Optimizer: adam, as in the paper, or sgd with momentum, as in He et al. 2016
    #[arg(long, env, value_name = "NAME", value_enum, hide_possible_values = true)]
    pub optimizer: OptimizerName,
    /// Learning rate: the largest, that of the first epoch or after the warm-up
    #[arg(long, env, value_name = "X")]
    pub learning_rate: f64,
    /// Final learning rate, as a fraction of the largest; 1 keeps it constant, as in the paper
    #[arg(long = "final-rate", env = "FINAL_RATE", value_name = "X")]
    pub final_learning_rate: f64,
    /// Learning-rate schedule: cosine, linear, rex (long high, then falling fast), or triangle: first rising from a
    /// fifth, then falling along a line
    #[arg(long, env, value_name = "NAME", value_enum, hide_possible_values = true)]
    pub schedule: Schedule,
    /// Warm-up: epochs in which the learning rate first rises, step by step, to the largest
    #[arg(long, env, value_name = "N")]
    pub warmup: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub sgd: Sgd,
    #[command(flatten)]
    #[serde(flatten)]
    pub adam: Adam,
    /// Lookahead: every five steps all weights become their running average
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    #[serde(rename = "average")]
    pub lookahead: bool,
    /// Label smoothing: fraction of the target spread evenly over all classes
    #[arg(long, env, value_name = "X")]
    #[serde(rename = "smoothing")]
    pub label_smoothing: f64,
    /// Exit weights of the joint loss, as in 1,0.3,1; 1 each where none are given
    #[arg(long = "weights", env = "WEIGHTS", value_name = "W,W,...", value_delimiter = ',')]
    pub exit_weights: Vec<f64>,
    /// Frozen trunk: train the branches alone, on a trunk that stays as the baseline left it
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub frozen: bool,
    /// Cascade training: each exit but the first learns from this fraction of the images that the exit before
    /// it learned from, those it is least sure of (the authors' percentTrainKeeps); 1 is joint training
    #[arg(long, env, value_name = "X")]
    #[serde(rename = "keeps")]
    pub cascade_fraction: f64,
    #[command(flatten)]
    #[serde(flatten)]
    pub objective: Objective,
    /// Data augmentation: shift and flip training images at random; the paper does not
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub augment: bool,
    /// Kind of augmentation: random; alternating: flipped in every other epoch, and shifted less; or wide: flipped in
    /// every other epoch
    #[arg(long, env, value_name = "NAME", value_enum, hide_possible_values = true)]
    pub augmentation: Augmentation,
    /// Precision of products on a GPU: f32, tf32 or bf16
    #[arg(long, env, value_name = "P")]
    pub precision: Precision,
    /// Seed of initial weights, shuffling, augmentation and dropout
    #[arg(long, env, value_name = "N")]
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch_size: 128,
            learning_rate: 1e-3,
            final_learning_rate: 1.0,
            optimizer: OptimizerName::Adam,
            schedule: Schedule::Cosine,
            warmup: 0,
            sgd: Sgd::default(),
            adam: Adam::default(),
            lookahead: false,
            label_smoothing: 0.0,
            exit_weights: Vec::new(),
            frozen: false,
            cascade_fraction: 1.0,
            objective: Objective::default(),
            augment: false,
            augmentation: Augmentation::Random,
            precision: Precision::F32,
            seed: 0,
        }
    }
}

impl Config {
    /// The exits' weights. Fails on settings that make no sense, naming them.
    pub fn check(&self, exits: usize) -> Result<Vec<f64>> {
        let Self { epochs, batch_size, warmup, learning_rate, final_learning_rate, .. } = *self;
        let (smoothing, fraction) = (self.label_smoothing, self.cascade_fraction);
        if epochs == 0 || batch_size == 0 {
            bail!(Setting, "epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
        }
        if !(learning_rate.is_finite() && learning_rate > 0.0 && (0.0..=1.0).contains(&final_learning_rate)) {
            bail!(
                Setting,
                "learning_rate must be above 0 and final_learning_rate in 0..=1, got {learning_rate} and {final_learning_rate}"
            )
        }
        self.optimizer()?;
        if !(0.0..1.0).contains(&smoothing) {
            bail!(Setting, "label_smoothing must be in 0..1, got {smoothing}")
        }
        if warmup > 0 && warmup >= epochs {
            bail!(Setting, "warmup must be shorter than the {epochs} epochs, got {warmup}")
        }
        if !(fraction > 0.0 && fraction <= 1.0) {
            bail!(Setting, "cascade_fraction must be above 0 and at most 1, got {fraction}")
        }
        if self.frozen && exits == 1 {
            bail!(Setting, "frozen=yes trains the branches alone, and this network has none")
        }
        self.objective.check(self.frozen)?;
        if exits == 1
            && let Some([name, value, default]) = changed(&self.objective)?
        {
            bail!(
                Setting,
                "{name}={value} is for networks with early exits, and this one has none; set {name}={default}"
            )
        }
        let weights = &self.exit_weights;
        if weights.is_empty() {
            return Ok(vec![1.0; exits]);
        }
        if weights.len() != exits || weights.iter().any(|w| !w.is_finite() || *w < 0.0) {
            bail!(
                Setting,
                "exit_weights must be {exits} numbers of at least 0, one for each exit (or empty for 1 each), got {weights:?}"
            )
        }
        if weights.iter().all(|weight| *weight == 0.0) {
            bail!(
                Setting,
                "exit_weights are 0 for every exit, and nothing would be learned; give one of them a weight"
            )
        }
        Ok(weights.clone())
    }

    /// The optimizer with its settings. Fails where they make no sense, and on a setting that it does not have, naming it.
    pub fn optimizer(&self) -> Result<Optimizer> {
        let (optimizer, of_others, [name, other]) = match self.optimizer {
            OptimizerName::Adam => (Optimizer::Adam(self.adam), changed(&self.sgd)?, ["adam", "sgd"]),
            OptimizerName::Sgd => (Optimizer::Sgd(self.sgd), changed(&self.adam)?, ["sgd", "adam"]),
        };
        if let Some([setting, value, default]) = of_others {
            bail!(
                Setting,
                "{setting}={value} is for optimizer={other}, and this is {name}; set {setting}={default} or optimizer={other}"
            )
        }
        match optimizer.wrong() {
            Some(what) => bail!(Setting, "{what}"),
            None => Ok(optimizer),
        }
    }

    /// The same settings with exit weights of 1 left out, which is what they are by default.
    pub fn normalised(&self) -> Self {
        let mut config = self.clone();
        if config.exit_weights.iter().all(|&weight| weight == 1.0) {
            config.exit_weights.clear();
        }
        config
    }

    /// Whether the first epochs are the same however many follow.
    pub(super) fn any_length(&self) -> bool {
        self.schedule == Schedule::Cosine && self.final_learning_rate == 1.0 && !self.lookahead
    }

    /// The step size in an epoch, from 1, of which this share is done: rising in the warm-up, then by the cosine
    /// the same for an epoch, by the others falling step by step.
    pub(super) fn rate(&self, epoch: usize, done: f64) -> f64 {
        let before = (epoch - 1) as f64;
        if epoch <= self.warmup {
            let risen = (before + done) / self.warmup as f64;
            return self.learning_rate * (self.schedule.start() + (1.0 - self.schedule.start()) * risen);
        }
        let (warmup, falls) = (self.warmup as f64, self.epochs - self.warmup);
        let (progress, falling) = ((before + done - warmup) / falls as f64, 1.0 - self.final_learning_rate);
        let share = match self.schedule {
            Schedule::Triangle | Schedule::Linear => 1.0 - falling * progress,
            Schedule::Rex => self.final_learning_rate + falling * (1.0 - progress) / (1.0 - 0.5 * progress),
            Schedule::Cosine => {
                let progress = (before - warmup) / falls.max(2) as f64;
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                self.final_learning_rate + falling * cosine
            }
        };
        self.learning_rate * share
    }
}

/// The first of these settings that has not its default value: its name, its value, and the default.
fn changed<T: Default + Serialize>(settings: &T) -> Result<Option<[String; 3]>> {
    let (ours, defaults) = (serde_json::to_value(settings)?, serde_json::to_value(T::default())?);
    let mut fields = ours.as_object().into_iter().flatten();
    let changed = fields.find(|(name, value)| defaults[name] != **value);
    Ok(changed.map(|(name, value)| [name.clone(), value.to_string(), defaults[name].to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_sizes_rise_and_fall_as_the_schedule_says() {
        let rates = |schedule, at: &[(usize, f64)]| -> Vec<f64> {
            let config = Config {
                epochs: 6,
                warmup: 2,
                learning_rate: 2.0,
                final_learning_rate: 0.1,
                schedule,
                ..Config::default()
            };
            at.iter().map(|&(epoch, done)| config.rate(epoch, done)).collect()
        };
        let at = [(1, 0.0), (2, 0.0), (3, 0.0), (5, 0.0), (6, 1.0)];
        let near = |ours: Vec<f64>, expected: &[f64]| {
            assert_eq!(ours.len(), expected.len());
            for (ours, expected) in ours.iter().zip(expected) {
                assert!((ours - expected).abs() < 1e-12, "{ours} and {expected}");
            }
        };
        near(rates(Schedule::Cosine, &at[..4]), &[0.0, 1.0, 2.0, 1.1]);
        near(rates(Schedule::Triangle, &at), &[0.4, 1.2, 2.0, 1.1, 0.2]);
        near(rates(Schedule::Linear, &at), &[0.0, 1.0, 2.0, 1.1, 0.2]);
        // Half of the way down REX is at 0.5 / 0.75 of the largest.
        near(rates(Schedule::Rex, &at), &[0.0, 1.0, 2.0, 2.0 * (0.1 + 0.9 * 2.0 / 3.0), 0.2]);
    }
}
