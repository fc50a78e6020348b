//! One experiment of the paper: a network, its data, and how baseline and exits are trained. The
//! notebooks and the program share it, so that each finds what the other has trained.

use crate::data::cifar10::CIFAR10;
use crate::data::mnist::MNIST;
use crate::data::{Dataset, Kind, Preprocessing, project_dir};
use crate::error::bail;
use crate::network::{Layer, without_branches};
use crate::notebook::{given, setting, switch};
use crate::precision::Precision;
use crate::results::{Results, Settings};
use crate::train::{self, Config, Progress};
use crate::{Network, Result, b_alexnet, b_lenet, b_resnet110, b_resnet110_standard};
use candle_core::Device;
use std::fmt;
use std::time::SystemTime;

/// A network, its data, and its training: first the baseline, then all exits jointly from the
/// baseline's weights (paper, section III).
#[derive(Debug, Clone)]
pub struct Experiment {
    /// For tables, figures and files: `B-AlexNet`; without `B-` that of the baseline.
    pub name: String,
    /// The trunk with its branches.
    pub layers: Vec<Layer>,
    /// What it is trained on.
    pub data: &'static Kind,
    /// How its images are prepared.
    pub preprocessing: Preprocessing,
    /// Train on the first so many images only; `None` for all.
    pub train_images: Option<usize>,
    /// Validate and test on the first so many images only; `None` for all.
    pub test_images: Option<usize>,
    /// Epochs of the baseline; 0 to start the joint training from random weights.
    pub baseline_epochs: usize,
    /// The joint training. The baseline's differs in the number of epochs and has one exit.
    pub config: Config,
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.config;
        let images = match self.train_images {
            Some(count) => format!("{count} images"),
            None => "all images".to_string(),
        };
        write!(
            f,
            "{} on {}, {images} preprocessed by {} and {}augmented{}\n\
             {} epochs for the baseline, {} for all exits together; batches of {}; Adam from {} to {} of it; exit weights {:?}; seed {}",
            self.name,
            self.data.file,
            self.preprocessing,
            if c.augment { "" } else { "not " },
            match c.precision {
                Precision::F32 => String::new(),
                precision => format!("; products in {precision}"),
            },
            self.baseline_epochs,
            c.epochs,
            c.batch_size,
            c.learning_rate,
            c.final_learning_rate,
            self.settings().config.exit_weights,
            c.seed
        )
    }
}

/// Baseline and network with branches, trained.
#[derive(Debug)]
pub struct Trained {
    /// The trunk alone; `None` where it got no epochs.
    pub baseline: Option<(Network, train::Run)>,
    /// With its branches.
    pub network: Network,
    /// The joint run.
    pub run: train::Run,
}

/// The experiments there are.
pub const NAMES: [&str; 4] = ["lenet", "alexnet", "resnet110", "resnet110-standard"];

impl Experiment {
    /// The experiment called `name`, one of [`NAMES`], with the settings of its reference record.
    pub fn named(name: &str) -> Result<Self> {
        let cosine = Config {
            final_learning_rate: 0.01,
            ..Config::default()
        };
        let cifar10 = |title: &str, layers, baseline_epochs, epochs| Self {
            name: title.to_string(),
            layers,
            data: &CIFAR10,
            preprocessing: Preprocessing::Channels,
            train_images: None,
            test_images: None,
            baseline_epochs,
            config: Config {
                epochs,
                augment: true,
                ..cosine.clone()
            },
        };
        // What hours on a CPU allow is too little for augmentation to help; batches as in the paper.
        let few_epochs = |mut e: Self| {
            e.config.augment = false;
            e.config.batch_size = 64;
            e
        };
        Ok(match name {
            "lenet" => Self {
                name: "B-LeNet".to_string(),
                layers: b_lenet(),
                data: &MNIST,
                preprocessing: Preprocessing::Unit,
                train_images: None,
                test_images: None,
                baseline_epochs: 20,
                config: Config {
                    epochs: 40,
                    ..cosine
                },
            },
            "alexnet" => cifar10("B-AlexNet", b_alexnet(), 20, 40),
            "resnet110" => few_epochs(cifar10("B-ResNet-110", b_resnet110(), 3, 4)),
            "resnet110-standard" => {
                let layers = b_resnet110_standard();
                few_epochs(cifar10("B-ResNet-110-standard", layers, 3, 4))
            }
            _ => bail!(
                "there is no experiment {name:?}: use one of {}",
                NAMES.join(", ")
            ),
        })
    }

    /// [`Self::named`] with the settings that the environment gives: EPOCHS, BASELINE_EPOCHS (half of
    /// EPOCHS where only that is given), BATCH_SIZE, LEARNING_RATE, FINAL_RATE, WEIGHTS (1,0.3,1),
    /// SEED, PREPROCESSING, AUGMENT (0 or 1), IMAGES, PRECISION (f32, tf32, bf16: of products on a GPU);
    /// QUICK=1 trains an epoch or two on a few images.
    pub fn from_environment(name: &str) -> Result<Self> {
        let mut e = Self::named(name)?;
        if switch("QUICK") {
            let (images, epochs) = match name {
                "lenet" => (6_000, 2),
                "alexnet" => (2_000, 1),
                _ => (400, 1),
            };
            e.train_images = Some(images);
            e.test_images = (name != "lenet").then_some(500);
            (e.baseline_epochs, e.config.epochs) = (1, epochs);
        }
        if let Some(epochs) = given::<usize>("EPOCHS")? {
            (e.baseline_epochs, e.config.epochs) = (epochs.div_ceil(2), epochs);
        }
        e.baseline_epochs = setting("BASELINE_EPOCHS", e.baseline_epochs)?;
        e.config.batch_size = setting("BATCH_SIZE", e.config.batch_size)?;
        e.config.learning_rate = setting("LEARNING_RATE", e.config.learning_rate)?;
        e.config.final_learning_rate = setting("FINAL_RATE", e.config.final_learning_rate)?;
        e.config.seed = setting("SEED", e.config.seed)?;
        e.preprocessing = setting("PREPROCESSING", e.preprocessing)?;
        e.config.precision = setting("PRECISION", e.config.precision)?;
        if given::<String>("AUGMENT")?.is_some() {
            e.config.augment = switch("AUGMENT");
        }
        if let Some(weights) = given::<String>("WEIGHTS")? {
            let parsed: std::result::Result<_, _> =
                weights.split(',').map(|w| w.trim().parse()).collect();
            let Ok(weights) = parsed else {
                bail!("WEIGHTS={weights} in the environment: expected numbers, as in 1,0.3,1")
            };
            e.config.exit_weights = weights;
        }
        e.train_images = given("IMAGES")?.or(e.train_images);
        Ok(e)
    }

    /// The baseline's name.
    pub fn baseline_name(&self) -> &str {
        self.name.strip_prefix("B-").unwrap_or(&self.name)
    }

    /// Loads the data set as this experiment wants it.
    pub fn load(&self) -> Result<Dataset> {
        let mut data = self.data.load()?;
        if self.preprocessing != Preprocessing::Unit {
            data = data.preprocessed(self.preprocessing)?;
        }
        if let Some(count) = self.train_images.filter(|&count| count < data.train.len()) {
            data.train = data.train.take(count);
            data.name += &format!(" (trained on {count})");
        }
        if let Some(count) = self.test_images {
            data.validation = data.validation.take(count);
            data.test = data.test.take(count);
            data.name += &format!(" (tested on {})", data.test.len());
            // Another data set, as far as runs are concerned: their histories tell of it.
            data.checksum ^= crc32fast::hash(&count.to_le_bytes());
        }
        Ok(data)
    }

    /// Baseline and network with branches, with initial weights from the seed.
    pub fn networks(&self, device: &Device) -> Result<(Network, Network)> {
        self.config.precision.apply();
        let (image, seed) = (self.data.image, self.config.seed);
        let trunk = without_branches(&self.layers);
        Ok((
            Network::new(self.baseline_name(), image, trunk, seed, device)?,
            Network::new(&self.name, image, self.layers.clone(), seed, device)?,
        ))
    }

    fn baseline_config(&self) -> Config {
        Config {
            epochs: self.baseline_epochs,
            exit_weights: Vec::new(),
            ..self.config.clone()
        }
    }

    /// All that decides the result, to compare with what a record says.
    pub fn settings(&self) -> Settings {
        let exits = 1 + self
            .layers
            .iter()
            .filter(|layer| matches!(layer, Layer::Branch(_)))
            .count();
        let mut config = self.config.clone();
        if config.exit_weights.is_empty() {
            config.exit_weights = vec![1.0; exits];
        }
        Settings {
            network: self.name.clone(),
            layers: format!("{:?}", self.layers),
            data: self.data.file.to_string(),
            preprocessing: self.preprocessing,
            train_images: self.train_images,
            test_images: self.test_images,
            baseline_epochs: self.baseline_epochs,
            config,
        }
    }

    /// Trains baseline and network on `data`, or finds or continues the same runs in
    /// `datasets/runs/` (see [`train::train`]).
    pub fn train(
        &self,
        data: &Dataset,
        device: &Device,
        say: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Trained> {
        let (baseline, network) = self.networks(device)?;
        // What is wrong with the joint training's settings is better said before the baseline's
        // hours.
        self.config.check(network.exits())?;
        let baseline = if self.baseline_epochs == 0 {
            None
        } else {
            let run = train::train_with(&baseline, data, &self.baseline_config(), say)?;
            network.start_from(&baseline)?;
            Some((baseline, run))
        };
        let run = train::train_with(&network, data, &self.config, say)?;
        Ok(Trained {
            baseline,
            network,
            run,
        })
    }

    /// The runs of exactly these settings, if both are in `datasets/runs/` and finished, and when
    /// they were.
    pub fn find(&self, data: &Dataset, device: &Device) -> Result<Option<(Trained, SystemTime)>> {
        let (baseline, network) = self.networks(device)?;
        let baseline = if self.baseline_epochs == 0 {
            None
        } else {
            let Some(run) = train::find(&baseline, data, &self.baseline_config())? else {
                return Ok(None);
            };
            network.start_from(&baseline)?;
            Some((baseline, run))
        };
        let Some(run) = train::find(&network, data, &self.config)? else {
            return Ok(None);
        };
        let finished = std::fs::metadata(&run.checkpoint)?.modified()?;
        let trained = Trained {
            baseline,
            network,
            run,
        };
        Ok(Some((trained, finished)))
    }

    /// What these settings gave, from the newest of a finished run in `datasets/runs/`, an exit record
    /// in `datasets/records/` and one in `datasets/reference/` that were made with exactly these
    /// settings; `None` where there is none. [`Results::origin`] says which it was.
    pub fn recorded(&self, device: &Device) -> Result<Option<Results>> {
        let settings = self.settings();
        let mut newest: Option<Results> = None;
        for folder in ["datasets/reference", "datasets/records"] {
            for results in Results::all_in(&project_dir().join(folder))? {
                let newer = |best: &Results| results.made > best.made;
                if results.settings == settings && newest.as_ref().is_none_or(newer) {
                    newest = Some(results);
                }
            }
        }
        // Without the data set a run cannot be evaluated.
        if let Ok(data) = self.load()
            && let Some((trained, finished)) = self.find(&data, device)?
        {
            let newer = |record: &Results| record.made < crate::results::seconds(finished);
            if newest.as_ref().is_none_or(newer) {
                return Ok(Some(Results::collect(self, &trained, &data)?));
            }
        }
        Ok(newest)
    }

    /// What these settings give: [`Self::recorded`], or, where nothing is, by training now. With
    /// RETRAIN=1 in the environment it trains anew, with TRAIN=0 never. Fails where it cannot do
    /// either.
    pub fn results(&self, device: &Device) -> Result<Results> {
        if !switch("RETRAIN")
            && let Some(results) = self.recorded(device)?
        {
            return Ok(results);
        }
        if std::env::var("TRAIN").is_ok_and(|value| value == "0") {
            bail!(
                "there is no run or record of {} with these settings, and TRAIN=0 forbids to train; use the default settings, or leave out TRAIN=0",
                self.name
            )
        }
        let data = self.load().map_err(|error| {
            crate::Error::new(format!(
                "there is no record of {} with these settings, and no data to train on ({error}); the default settings have a record in datasets/reference/",
                self.name
            ))
        })?;
        println!(
            "{}: training now",
            if switch("RETRAIN") {
                "RETRAIN=1"
            } else {
                "nothing recorded for these settings"
            }
        );
        let trained = self.train(&data, device, &mut train::plain())?;
        Results::collect(self, &trained, &data)
    }
}
