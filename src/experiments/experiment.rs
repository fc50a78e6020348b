//! One experiment of the paper: a network, its data, and how baseline and exits are trained.

use super::paper::paper;
use super::settings::Settings;
use crate::data::{Augmentation, Dataset, Preprocessing, Source};
use crate::error::bail;
use crate::exits::Criterion;
use crate::kernels::Precision;
use crate::networks::{
    Layer, Network, b_airbench, b_alexnet, b_lenet, b_resnet110, b_resnet110_standard, resnet, with_branches,
    without_branches,
};
use crate::training::{self, Config, Keep, Optimizer, Progress, Run, Schedule};
use crate::{Result, Rng};
use candle_core::Device;
use clap::builder::BoolishValueParser;
use rand::{Rng as _, SeedableRng};
use std::fmt;
use std::time::SystemTime;

/// A network, its data, and its training: first the baseline, then all exits jointly from the
/// baseline's weights (paper, section III). The fields with a flag are settings: their comment is the help
/// text, and the environment variable has the flag's name.
#[derive(Debug, Clone, clap::Args)]
pub struct Experiment {
    /// For tables, figures and files: `B-AlexNet`; without `B-` that of the baseline.
    #[arg(skip)]
    pub name: String,
    /// The trunk with its branches.
    #[arg(skip)]
    pub layers: Vec<Layer>,
    /// Data set: mnist, fashion-mnist, cifar10, or a folder below datasets/ with IDX files or one
    /// safetensors file
    #[arg(long, env, value_name = "NAME")]
    pub data: Source,
    /// How images are prepared: unit (divided by 255), channels (mean 0, deviation 1) or zca (the paper's)
    #[arg(long, env, value_name = "P")]
    pub preprocessing: Preprocessing,
    /// Train on the first N images only
    #[arg(long = "images", env = "IMAGES", value_name = "N")]
    pub train_images: Option<usize>,
    /// Validate and test on the first N images each only
    #[arg(long, env, value_name = "N")]
    pub test_images: Option<usize>,
    /// Epochs of the baseline; 0 starts the joint training from random weights
    #[arg(long, env, value_name = "N")]
    pub baseline_epochs: usize,
    /// Train the baseline on for the epochs of the joint training, with its step sizes, so that what exits
    /// give and what more epochs give can be told apart
    #[arg(long, env, value_name = "yes|no", value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub matched: bool,
    /// How sure an exit is: entropy, probability, margin or patience
    #[arg(long, env, value_name = "C")]
    pub criterion: Criterion,
    /// The joint training. The baseline's differs in the number of epochs and has one exit.
    #[command(flatten)]
    pub config: Config,
}

/// The settings of airbench's 94 % network. They are given there for the sum of a batch's losses, 50,000 images and
/// 9.9 epochs; here for the mean, 45,000 and as many steps: a rate of 11.5 and a decay of 0.0153, both divided by
/// 1 + 1 / (1 − momentum), and the decay here by the rate.
fn speedrun() -> Config {
    Config {
        epochs: 11,
        batch_size: 1024,
        optimizer: Optimizer::Sgd,
        nesterov: true,
        momentum: 0.85,
        learning_rate: 1.5,
        weight_decay: 0.00133,
        norm_rate: 64.0,
        schedule: Schedule::Triangle,
        warmup: 3,
        final_learning_rate: 0.07,
        average: true,
        smoothing: 0.2,
        augment: true,
        augmentation: Augmentation::Alternating,
        ..Config::default()
    }
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

/// Baseline and network with branches, trained.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The trunk alone; `None` where it got no epochs.
    pub baseline: Option<(Network, Run)>,
    /// With its branches.
    pub network: Network,
    /// The joint run.
    pub run: Run,
    /// The trunk alone, trained for as many epochs and with the same schedule; `None` where that was not
    /// asked for.
    pub matched: Option<(Network, Run)>,
}

/// The experiments there are.
pub const NAMES: [&str; 14] = [
    "lenet",
    "alexnet",
    "resnet110",
    "resnet110-standard",
    "airbench",
    // Its first group half as wide: cheaper to leave early.
    "airbench-early",
    "airbench-search",
    // Without branches: what early exit has to beat.
    "airbench-64",
    "airbench-48",
    "airbench-32",
    "airbench-24",
    "airbench-16",
    "resnet20",
    "resnet56",
];

impl Experiment {
    /// The experiment called `name`, one of [`NAMES`], with the settings of its reference record.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let mut experiment = Experiment::named("lenet")?;
    /// experiment.data = "fashion-mnist".into();
    /// experiment.config.exit_weights = vec![1.0, 0.3];
    /// println!("{experiment}");
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn named(name: &str) -> Result<Self> {
        let cosine = Config { final_learning_rate: 0.01, ..Config::default() };
        let base = |title: &str, layers, data: &str| Self {
            name: title.to_string(),
            layers,
            data: data.into(),
            preprocessing: Preprocessing::Unit,
            train_images: None,
            test_images: None,
            baseline_epochs: 20,
            matched: true,
            criterion: Criterion::Entropy,
            config: Config { epochs: 40, ..cosine.clone() },
        };
        let cifar10 = |title: &str, layers| {
            let mut e = base(title, layers, "cifar10");
            e.preprocessing = Preprocessing::Channels;
            e.config.augment = true;
            e
        };
        // Optimiser, decay and batch of He et al. (https://arxiv.org/abs/1512.03385), with half of their step size.
        let deep = |mut e: Self| {
            e.config = Config {
                epochs: 20,
                optimizer: Optimizer::Sgd,
                learning_rate: 0.05,
                warmup: 1,
                weight_decay: 1e-4,
                final_learning_rate: 0.0,
                ..e.config
            };
            e
        };
        let airbench = |title: &str, layers: Vec<Layer>| {
            let mut e = cifar10(title, layers);
            (e.baseline_epochs, e.matched) = (0, e.layers.iter().any(Layer::is_branch));
            e.config = speedrun();
            // Of entropy, probability and margin the cheapest on Validation for the same promise.
            e.criterion = Criterion::Probability;
            e
        };
        let narrow = |width: usize| {
            let trunk = without_branches(&b_airbench([width, 4 * width, 4 * width]));
            // B-Airbench's matched baseline is the same run.
            let title = if width == 64 { "Airbench".to_string() } else { format!("Airbench-{width}") };
            airbench(&title, trunk)
        };
        let residual = |title: &str, blocks: usize| {
            let mut e = airbench(title, resnet(blocks));
            // Batch and rate of He et al. (https://arxiv.org/abs/1512.03385), the latter in proportion: 0.1 at a momentum
            // of 0.9. With Airbench's, and its faster biases, they hardly learn.
            (e.config.batch_size, e.config.learning_rate, e.config.norm_rate) = (128, 0.15, 1.0);
            e
        };
        Ok(match name {
            "lenet" => base("B-LeNet", b_lenet(), "mnist"),
            "alexnet" => cifar10("B-AlexNet", b_alexnet()),
            "resnet110" => deep(cifar10("B-ResNet-110", b_resnet110())),
            "resnet110-standard" => deep(cifar10("B-ResNet-110-standard", b_resnet110_standard())),
            "airbench" => airbench("B-Airbench", b_airbench([64, 256, 256])),
            "airbench-early" => airbench("B-Airbench-early", b_airbench([32, 256, 256])),
            "airbench-search" => {
                let mut e = airbench("B-Airbench", b_airbench([64, 256, 256]));
                (e.baseline_epochs, e.config.epochs) = (e.config.epochs, 6);
                (e.config.frozen, e.matched) = (true, false);
                e.with_branches(CANDIDATES)?
            }
            "airbench-64" => narrow(64),
            "airbench-48" => narrow(48),
            "airbench-32" => narrow(32),
            "airbench-24" => narrow(24),
            "airbench-16" => narrow(16),
            "resnet20" => residual("ResNet-20", 3),
            "resnet56" => residual("ResNet-56", 9),
            _ => bail!(Setting, "there is no experiment {name:?}: use one of {}", NAMES.join(", ")),
        })
    }

    /// This experiment with these branches instead of its network's own, each as text
    /// ([`crate::networks::Placement`]). Fails where the trunk has no such layer.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let experiment = Experiment::named("alexnet")?.with_branches(["conv2:2x32"])?;
    /// assert_eq!(experiment.networks(&Device::Cpu)?.1.exits(), 2);
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn with_branches(mut self, branches: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        let branches = branches.into_iter().map(|branch| branch.to_string().parse());
        let branches = branches.collect::<Result<Vec<_>>>()?;
        self.layers = with_branches(&self.layers, self.data.image()?, &branches)?;
        self.name = format!("B-{}", self.baseline_name());
        Ok(self)
    }

    /// This experiment in a minute, on a part of the data: for trying things, not for results.
    pub fn quick(mut self) -> Result<Self> {
        let (baseline, _) = self.networks(&Device::Cpu)?;
        let macs = baseline.costs().last().map_or(1, |cost| cost.macs.max(1));
        self.train_images = Some((50_000_000_000 / macs).clamp(400, 4_000));
        self.test_images = Some(500);
        (self.baseline_epochs, self.config.epochs, self.config.warmup) = (self.baseline_epochs.min(1), 1, 0);
        Ok(self)
    }

    /// This experiment with the settings of the authors' scripts: epochs, batches, Adam with a constant step
    /// size, no augmentation, and CIFAR-10 whitened. Fails where the paper has no such network.
    pub fn as_in_the_paper(mut self) -> Result<Self> {
        let paper = paper(&self.name)?;
        [self.baseline_epochs, self.config.epochs] = paper.epochs;
        self.config = Config {
            epochs: self.config.epochs,
            batch_size: paper.batch_size,
            seed: self.config.seed,
            precision: self.config.precision,
            ..Config::default()
        };
        if self.data.to_string() == "cifar10" {
            self.preprocessing = Preprocessing::Zca;
        }
        Ok(self)
    }

    /// The baseline's name.
    pub fn baseline_name(&self) -> &str {
        self.name.strip_prefix("B-").unwrap_or(&self.name)
    }

    /// Loads the data set as this experiment wants it.
    pub fn load(&self) -> Result<Dataset> {
        let data = self.data.load()?.preprocessed(self.preprocessing)?;
        Ok(data.part(self.train_images, self.test_images))
    }

    /// Baseline and network with branches, with initial weights from the seed.
    pub fn networks(&self, device: &Device) -> Result<(Network, Network)> {
        Ok((self.trunk(device)?, self.build(&self.name, self.layers.clone(), device)?))
    }

    fn trunk(&self, device: &Device) -> Result<Network> {
        let layers = without_branches(&self.layers);
        self.build(self.baseline_name(), layers, device)
    }

    fn build(&self, name: &str, layers: Vec<Layer>, device: &Device) -> Result<Network> {
        let config = &self.config;
        let network = Network::new(name, self.data.image()?, layers, config.seed, device)?;
        network.with_precision(config.precision)
    }

    /// The settings of the baseline's training.
    pub fn baseline_config(&self) -> Config {
        Config { epochs: self.baseline_epochs, ..self.matched_config() }
    }

    /// The settings of the matched baseline's training after the baseline's own.
    pub fn matched_config(&self) -> Config {
        Config { exit_weights: Vec::new(), frozen: false, keeps: 1.0, ..self.config.clone() }
    }

    /// All that decides the result, to compare with what a record says.
    pub fn settings(&self) -> Settings {
        Settings {
            network: self.name.clone(),
            layers: self.layers.clone(),
            data: self.data.to_string(),
            preprocessing: self.preprocessing,
            train_images: self.train_images,
            test_images: self.test_images,
            baseline_epochs: self.baseline_epochs,
            config: self.config.normalised(),
        }
    }

    /// Trains baseline, network and matched baseline on `data`, or finds or continues the same runs in
    /// `datasets/runs/` (see [`training::train`]); `anew` makes them anew.
    pub fn train(
        &self,
        data: &Dataset,
        device: &Device,
        anew: bool,
        say: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Trained> {
        if self.config.frozen && self.baseline_epochs == 0 {
            bail!(
                Setting,
                "frozen=yes trains branches on the baseline's trunk, so baseline_epochs must be at least 1"
            )
        }
        let keep = Keep { anew, ..Keep::default() };
        let mut train = |network: &Network, config: &Config| {
            training::train_with(network, data, config, &keep, say).map(Some)
        };
        match self.each(device, self.matched, &mut train)? {
            Some(trained) => Ok(trained),
            None => unreachable!("training ends with a run or an error"),
        }
    }

    /// The finished runs of these settings in `datasets/runs/`, and when the joint one was finished;
    /// `None` where baseline or network are missing.
    pub fn find(&self, data: &Dataset, device: &Device) -> Result<Option<(Trained, SystemTime)>> {
        let mut find = |network: &Network, config: &Config| training::find(network, data, config);
        let Some(trained) = self.each(device, true, &mut find)? else {
            return Ok(None);
        };
        let finished = std::fs::metadata(&trained.run.checkpoint)?.modified()?;
        Ok(Some((trained, finished)))
    }

    /// All networks, each given to `run` with its initial weights; `None` as soon as baseline or network
    /// get no run.
    fn each(
        &self,
        device: &Device,
        matched: bool,
        run: &mut dyn FnMut(&Network, &Config) -> Result<Option<Run>>,
    ) -> Result<Option<Trained>> {
        let (baseline, network) = self.networks(device)?;
        let trunk = self.trunk(device)?;
        let mut trained = None;
        if self.baseline_epochs > 0 {
            let Some(run) = run(&baseline, &self.baseline_config())? else {
                return Ok(None);
            };
            network.start_from(&baseline)?;
            trunk.start_from(&baseline)?;
            trained = Some((baseline, run));
        }
        let Some(joint) = run(&network, &self.config)? else {
            return Ok(None);
        };
        // Of a network without branches that would be the same run.
        let matched = match matched && network.exits() > 1 {
            true => run(&trunk, &self.matched_config())?.map(|run| (trunk, run)),
            false => None,
        };
        Ok(Some(Trained { baseline: trained, network, run: joint, matched }))
    }

    /// Pixels of the first `count` test images as the networks see them, for timing, and a word for what they are and
    /// for the processor's instructions; random ones where the data set is missing, which take the same time.
    pub fn images(&self, count: usize) -> Result<(Vec<Vec<f32>>, String)> {
        let instructions = crate::kernels::instruction_set();
        if let Ok(data) = self.load() {
            let samples: Vec<usize> = (0..count.min(data.test.len())).collect();
            let images = data.test.batch(&samples, &Device::Cpu)?;
            let name = data.name.split(" (").next().unwrap_or_default();
            let pixels = images.flatten_from(1)?.to_vec2()?;
            return Ok((pixels, format!("{name} test images, {instructions}")));
        }
        let random = format!("random images, because the data set is missing, {instructions}");
        Ok((self.random_images(count)?, random))
    }

    /// Images of noise, the same ones each time, of the size of the data set's.
    pub fn random_images(&self, count: usize) -> Result<Vec<Vec<f32>>> {
        let mut rng = Rng::seed_from_u64(0);
        let size: usize = self.data.image()?.iter().product();
        let mut image = || (0..size).map(|_| rng.random::<f32>()).collect();
        Ok((0..count).map(|_| image()).collect())
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        let images = match self.train_images {
            Some(count) => format!("{count} images"),
            None => "all images".to_string(),
        };
        let precision = match c.precision {
            Precision::F32 => String::new(),
            precision => format!("; products in {precision}"),
        };
        let optimizer = match c.optimizer {
            Optimizer::Adam => "Adam".to_string(),
            Optimizer::Sgd => {
                let nesterov = if c.nesterov { "Nesterov's " } else { "" };
                format!("{nesterov}SGD with momentum {} and weight decay {:.2e}", c.momentum, c.weight_decay)
            }
        };
        let warmup = match c.warmup {
            0 => String::new(),
            warmup => format!(" after {warmup} epochs of warm-up"),
        };
        let mut more = String::new();
        if c.average {
            more += "; weights averaged";
        }
        if c.smoothing > 0.0 {
            more += &format!("; labels smoothed by {}", c.smoothing);
        }
        let matched = if self.matched { ", and for the matched baseline" } else { "" };
        let how = match (c.frozen, c.keeps) {
            (true, _) => "the branches alone".to_string(),
            (false, 1.0) => "all exits together".to_string(),
            (false, keeps) => format!("a cascade that keeps {keeps} of the images at each exit"),
        };
        let weights = match c.exit_weights.is_empty() {
            true => "1 each".to_string(),
            false => format!("{:?}", c.exit_weights),
        };
        write!(
            f,
            "{} on {}, {images} preprocessed by {} and {}augmented{precision}\n\
             {} epochs for the baseline, {} for {how}{matched}; batches of {}; {optimizer}, steps from {}{warmup} to {} of it{more}; exit weights {weights}; seed {}",
            self.name,
            self.data,
            self.preprocessing,
            if c.augment { "" } else { "not " },
            self.baseline_epochs,
            c.epochs,
            c.batch_size,
            c.learning_rate,
            c.final_learning_rate,
            c.seed
        )
    }
}
