//! An experiment: a network, its data, and how baseline and exits are trained.

use crate::follow::follow;
use crate::presets::written_for;
use crate::settings::Settings;
use crate::sources::Source;
use branchynet::data::{Dataset, Preprocessing};
use branchynet::exits::Criterion;
use branchynet::networks::{BranchStyle, Layer, Network, with_branches, without_branches, zero_started};
use branchynet::training::{self, Config, Keep, Objective, Progress, Run};
use branchynet::{Error, Result, Rng, bail};
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
    /// The trunk with its branches. A preset's list, also where it is written out again, follows the data
    /// ([`crate::follow()`]); a list of one's own stays as it is.
    #[arg(skip)]
    pub layers: Vec<Layer>,
    /// What the branches of [`Self::with_branches`] are made of.
    #[arg(skip)]
    pub branch_style: BranchStyle,
    /// Data set: mnist, fashion-mnist, cifar10, cifar100, cifar100-coarse, or a folder below datasets/ (IDX, .npz,
    /// .safetensors, pictures by class)
    #[arg(long, env, value_name = "NAME")]
    pub data: Source,
    /// How images are prepared: unit (divided by 255), channels (mean 0, deviation 1) or zca (the paper's)
    #[arg(long, env, value_name = "P", value_enum, hide_possible_values = true)]
    pub preprocessing: Preprocessing,
    /// Zero start: every residual block begins as its skip, as the scale of its last batch normalisation starts at 0
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub zero_start: bool,
    /// Train on N images only, drawn by a fixed seed, every class in proportion
    #[arg(long = "images", env = "IMAGES", value_name = "N")]
    pub train_images: Option<usize>,
    /// Validate and test on N images each only, drawn likewise
    #[arg(long, env, value_name = "N")]
    pub test_images: Option<usize>,
    /// Epochs of the baseline; 0 starts the joint training from random weights
    #[arg(long, env, value_name = "N")]
    pub baseline_epochs: usize,
    /// Train the baseline on for the epochs of the joint training, with its step sizes, so that what exits
    /// give and what more epochs give can be told apart
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub matched: bool,
    /// How sure an exit is.
    #[arg(long, env, value_name = "C", help = format!("How sure an exit is: {}", Criterion::names()))]
    pub criterion: Criterion,
    /// The joint training. The baseline's differs in the number of epochs and has one exit.
    #[command(flatten)]
    pub config: Config,
}

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

impl Experiment {
    /// This experiment with these branches instead of its network's own, each as text
    /// ([`branchynet::networks::Placement`]) and in this experiment's style. Fails where the trunk has no such layer.
    ///
    /// ```
    /// use branchynet_runs::prelude::*;
    ///
    /// let experiment = Experiment::named("alexnet")?.with_branches(["conv2:2x32"])?;
    /// assert_eq!(experiment.networks(&Device::Cpu)?.1.exits(), 2);
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn with_branches(mut self, branches: impl IntoIterator<Item = impl ToString>) -> Result<Self> {
        let branches = branches.into_iter().map(|branch| branch.to_string().parse());
        let branches = branches.collect::<Result<Vec<_>>>()?;
        let (layers, image) = self.fitted()?;
        self.layers = with_branches(&layers, image, &branches, self.branch_style)?;
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

    /// The baseline's name.
    pub fn baseline_name(&self) -> &str {
        self.name.strip_prefix("B-").unwrap_or(&self.name)
    }

    /// Loads the data set as this experiment wants it.
    pub fn load(&self) -> Result<Dataset> {
        self.load_with(&mut |_| ())
    }

    /// [`Self::load`], with a line given to `say` before what takes long.
    pub fn load_with(&self, say: &mut dyn FnMut(Progress<'_>)) -> Result<Dataset> {
        let data = self.data.load()?;
        let data = data.preprocessed_with(self.preprocessing, &mut |line| say(Progress::Line(line)))?;
        Ok(data.part(self.train_images, self.test_images))
    }

    /// Baseline and network with branches, with initial weights from the seed.
    pub fn networks(&self, device: &Device) -> Result<(Network, Network)> {
        let build = self.builder(device)?;
        Ok((build(false)?, build(true)?))
    }

    /// Builds the network with branches or without.
    fn builder(&self, device: &Device) -> Result<impl Fn(bool) -> Result<Network>> {
        let (layers, image) = self.fitted()?;
        Ok(move |branches| {
            let (name, layers) = match branches {
                true => (self.name.as_str(), layers.clone()),
                false => (self.baseline_name(), without_branches(&layers)),
            };
            let network = Network::new(name, image, layers, self.config.seed, device).map_err(|cause| {
                Error::new(cause.kind(), format!("{name} on {}: {cause}", self.data)).because(cause)
            })?;
            network.with_precision(self.config.precision)
        })
    }

    /// The layers as the data have them, and the data's images.
    fn fitted(&self) -> Result<(Vec<Layer>, [usize; 3])> {
        let (image, classes) = match &self.data {
            // Files of one's own are loaded once for both.
            Source::Named(name) if !Source::names().any(|known| known == name) => {
                let data = self.data.load()?;
                (data.train.image_shape(), data.classes.len())
            }
            known => (known.image()?, known.classes().len()),
        };
        let layers = match written_for(&self.layers) {
            Some(from) => follow(&self.layers, from, image, classes),
            None => self.layers.clone(),
        };
        if !self.zero_start {
            return Ok((layers, image));
        }
        let started = zero_started(&layers);
        if started == layers {
            bail!(
                Setting,
                "zero_start=yes is for residual blocks that end in a batch normalisation, and {} has none",
                self.name
            )
        }
        Ok((started, image))
    }

    /// The settings of the baseline's training.
    pub fn baseline_config(&self) -> Config {
        Config { epochs: self.baseline_epochs, ..self.matched_config() }
    }

    /// The settings of the matched baseline's training after the baseline's own.
    pub fn matched_config(&self) -> Config {
        Config {
            exit_weights: Vec::new(),
            frozen: false,
            cascade_fraction: 1.0,
            objective: Objective::default(),
            ..self.config.clone()
        }
    }

    /// All that decides the result, to compare with what a record says.
    pub fn settings(&self) -> Settings {
        Settings {
            network: self.name.clone(),
            layers: self.fitted().map_or_else(|_| self.layers.clone(), |(layers, _)| layers),
            data: self.data.to_string(),
            preprocessing: self.preprocessing,
            zero_start: self.zero_start,
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
        let build = self.builder(device)?;
        let (baseline, network, trunk) = (build(false)?, build(true)?, build(false)?);
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
        let instructions = branchynet::kernels::instruction_set();
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

/// What a reader of a notebook wants to know first: epochs, the settings that every run has, and those that are not the
/// default. [`Settings::rows`] has all.
impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALWAYS: [&str; 5] = ["preprocessing", "batch size", "optimizer", "learning rate", "seed"];
        const SAID: [&str; 4] = ["network", "data", "baseline epochs", "epochs"];
        let rows = |settings: Settings| settings.rows().map_err(|_| fmt::Error);
        let (ours, defaults) = (rows(self.settings())?, rows(Settings::default())?);
        let told = ours.iter().filter(|row| {
            let name = row.0.as_str();
            !SAID.contains(&name) && (ALWAYS.contains(&name) || !defaults.contains(row))
        });
        let told: Vec<String> = told.map(|(name, value)| format!("{name} {value}")).collect();
        let matched = if self.matched { ", and for a matched baseline" } else { "" };
        write!(
            f,
            "{} on {}\n{} epochs for the baseline, {} for all exits{matched}; {}",
            self.name,
            self.data,
            self.baseline_epochs,
            self.config.epochs,
            told.join(", ")
        )
    }
}
