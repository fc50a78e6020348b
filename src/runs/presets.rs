//! The networks that have names on the command line and in notebooks, with the settings of their reference runs.

use crate::experiment::Experiment;
use branchynet::data::{Augmentation, Preprocessing};
use branchynet::exits::Criterion;
use branchynet::networks::*;
use branchynet::training::{Config, OptimizerName, Schedule, Sgd};
use branchynet::{Result, bail};

/// A name, and what makes the experiment.
type Preset = (&'static str, fn() -> Experiment);

/// All presets: the only list of their names.
const PRESETS: &[Preset] = &[
    ("lenet", || base("B-LeNet", b_lenet(), "mnist")),
    ("alexnet", || cifar10("B-AlexNet", b_alexnet())),
    ("resnet110", || deep("B-ResNet-110", b_resnet110())),
    ("resnet110-standard", || deep("B-ResNet-110-standard", b_resnet110_standard())),
    // What recipes for the deep ones are chosen with: the same branches on a seventh of the trunk.
    ("b-resnet20", || one_schedule("B-ResNet-20", b_resnet(3))),
    ("airbench", || airbench("B-Airbench", b_airbench([64, 256, 256]))),
    // Its first group half as wide: cheaper to leave early.
    ("airbench-early", || airbench("B-Airbench-early", b_airbench([32, 256, 256]))),
    ("airbench-search", search),
    // Without branches: what early exit has to beat. B-Airbench's matched baseline is the same run as the first.
    ("airbench-64", || airbench("Airbench", narrow(64))),
    ("airbench-48", || airbench("Airbench-48", narrow(48))),
    ("airbench-32", || airbench("Airbench-32", narrow(32))),
    ("airbench-24", || airbench("Airbench-24", narrow(24))),
    ("airbench-16", || airbench("Airbench-16", narrow(16))),
    ("resnet20", || shallow("ResNet-20", 3)),
    ("resnet56", || shallow("ResNet-56", 9)),
];

/// The names that [`Experiment::named`] takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The images that these layers were written for, where they are a preset's; `None` for other lists.
pub(super) fn written_for(layers: &[Layer]) -> Option<[usize; 3]> {
    // One at a time: the search's list is made from that of another preset, for which this is asked.
    let preset = PRESETS.iter().map(|(_, preset)| preset()).find(|preset| preset.layers == layers)?;
    preset.data.image().ok()
}

impl Experiment {
    /// The preset called `name`, one of [`names`], with the settings of its reference record. Fails, listing the
    /// names, where there is none.
    ///
    /// ```
    /// use branchynet_runs::prelude::*;
    ///
    /// let mut experiment = Experiment::named("lenet")?;
    /// experiment.data = "fashion-mnist".into();
    /// experiment.config.exit_weights = vec![1.0, 0.3];
    /// assert!(experiment.to_string().starts_with("B-LeNet on fashion-mnist"));
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn named(name: &str) -> Result<Self> {
        match PRESETS.iter().find(|(preset, _)| *preset == name) {
            Some((_, preset)) => Ok(preset()),
            None => bail!(
                Setting,
                "there is no experiment {name:?}: use one of {}",
                names().collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// This experiment with the settings of the authors' scripts of 2016: epochs, batches, Adam with a constant step
    /// size, no augmentation, and CIFAR-10 whitened. Fails for networks that they had not.
    pub fn as_in_2016(mut self) -> Result<Self> {
        let (epochs, batch_size) = match &self.name {
            name if name.starts_with("B-LeNet") || name.starts_with("B-AlexNet") => ([50, 100], 512),
            name if name.starts_with("B-ResNet-110") => ([100, 100], 64),
            name => bail!(
                Setting,
                "the authors' scripts train B-LeNet, B-AlexNet and B-ResNet-110, and this is {name}; leave out --paper"
            ),
        };
        self.baseline_epochs = epochs[0];
        self.config = Config {
            epochs: epochs[1],
            batch_size,
            seed: self.config.seed,
            precision: self.config.precision,
            ..Config::default()
        };
        if self.data.to_string() == "cifar10" {
            self.preprocessing = Preprocessing::Zca;
        }
        Ok(self)
    }
}

fn base(title: &str, layers: Vec<Layer>, data: &str) -> Experiment {
    Experiment {
        name: title.to_string(),
        layers,
        branch_style: BranchStyle::AlexNet,
        data: data.into(),
        preprocessing: Preprocessing::Unit,
        zero_start: false,
        train_images: None,
        test_images: None,
        baseline_epochs: 20,
        matched: true,
        criterion: Criterion::Entropy,
        config: Config { epochs: 40, final_learning_rate: 0.01, ..Config::default() },
    }
}

fn cifar10(title: &str, layers: Vec<Layer>) -> Experiment {
    let mut e = base(title, layers, "cifar10");
    e.preprocessing = Preprocessing::Channels;
    e.config.augment = true;
    e
}

/// Optimiser, decay and batch of He et al. (<https://arxiv.org/abs/1512.03385>), with half of their step size.
fn deep(title: &str, layers: Vec<Layer>) -> Experiment {
    let mut e = cifar10(title, layers);
    e.branch_style = BranchStyle::Strided;
    e.config = Config {
        epochs: 20,
        optimizer: OptimizerName::Sgd,
        learning_rate: 0.05,
        warmup: 1,
        sgd: Sgd { weight_decay: 1e-4, ..Sgd::default() },
        final_learning_rate: 0.0,
        ..e.config
    };
    e
}

/// One schedule over all epochs, from random weights: with twice the step size, Nesterov's momentum and five times the
/// decay, of weights alone, as ResNets on CIFAR-10 are trained since Zagoruyko and Komodakis 2016
/// (<https://arxiv.org/abs/1605.07146>).
fn one_schedule(title: &str, layers: Vec<Layer>) -> Experiment {
    let mut e = deep(title, layers);
    e.baseline_epochs = 0;
    e.config.learning_rate = 0.1;
    e.config.schedule = Schedule::Linear;
    e.config.warmup = 3;
    e.config.sgd = Sgd { nesterov: true, weight_decay: 5e-4, decay_weights_only: true, ..Sgd::default() };
    e
}

/// The settings of airbench's 94 % network. They are given there for the sum of a batch's losses, 50,000 images and
/// 9.9 epochs; here for the mean, 45,000 and as many steps: a rate of 11.5 and a decay of 0.0153, both divided by
/// 1 + 1 / (1 − momentum), and the decay here by the rate.
fn airbench(title: &str, layers: Vec<Layer>) -> Experiment {
    let mut e = cifar10(title, layers);
    e.branch_style = BranchStyle::Airbench;
    (e.baseline_epochs, e.matched) = (0, e.layers.iter().any(Layer::is_branch));
    // Of entropy, probability and margin the cheapest on Validation for the same promise.
    e.criterion = Criterion::Probability;
    e.config = Config {
        epochs: 11,
        batch_size: 1024,
        optimizer: OptimizerName::Sgd,
        learning_rate: 1.5,
        sgd: Sgd { momentum: 0.85, nesterov: true, norm_rate: 64.0, weight_decay: 0.00133, ..Sgd::default() },
        schedule: Schedule::Triangle,
        warmup: 3,
        final_learning_rate: 0.07,
        lookahead: true,
        label_smoothing: 0.2,
        augment: true,
        augmentation: Augmentation::Alternating,
        ..Config::default()
    };
    e
}

/// The trunk of Airbench with a first group of this width.
fn narrow(width: usize) -> Vec<Layer> {
    without_branches(&b_airbench([width, 4 * width, 4 * width]))
}

/// A ResNet with Airbench's settings but for batch and rate of He et al. (<https://arxiv.org/abs/1512.03385>), the latter
/// in proportion: 0.1 at a momentum of 0.9. With Airbench's, and its faster biases, they hardly learn.
fn shallow(title: &str, blocks: usize) -> Experiment {
    let mut e = airbench(title, resnet(blocks));
    e.branch_style = BranchStyle::Strided;
    (e.config.batch_size, e.config.learning_rate, e.config.sgd.norm_rate) = (128, 0.15, 1.0);
    e
}

/// Branches among which B-Airbench's were chosen: behind each layer of the trunk, without convolutions and with some.
const CANDIDATES: [&str; 14] = [
    "gelu2:0x0",
    "gelu2:1x64",
    "gelu2:2x96",
    "gelu3:0x0",
    "gelu3:1x64",
    "gelu3:2x64",
    "gelu3:2x96",
    "gelu3:2x128",
    "gelu3:4x96",
    "gelu4:0x0",
    "gelu4:1x64",
    "gelu4:1x128",
    "gelu5:0x0",
    "gelu6:0x0",
];

/// The candidates on a frozen trunk.
fn search() -> Experiment {
    let mut e = airbench("B-Airbench", b_airbench([64, 256, 256]));
    (e.baseline_epochs, e.config.epochs) = (e.config.epochs, 6);
    (e.config.frozen, e.matched) = (true, false);
    e.with_branches(CANDIDATES).expect("the trunk has these layers")
}
