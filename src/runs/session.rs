//! How an experiment is run: settings from the command line or the environment, and where to work.

use super::experiment::Experiment;
use super::presets::names;
use super::results::{Results, Training};
use crate::data::Dataset;
use crate::error::error;
use crate::exits::Timer;
use crate::networks::{Network, Placement};
use crate::training::{self, Config, Keep, Run};
use crate::{Error, Result};
use candle_core::Device;
use clap::builder::{BoolishValueParser, FalseyValueParser, PossibleValuesParser, Resettable};
use clap::{ArgMatches, Args, Command, FromArgMatches};

/// What does not decide the result.
#[derive(Debug, Args)]
struct Options {
    /// Network
    #[arg(value_parser = PossibleValuesParser::new(names()))]
    network: String,
    /// Device: cpu, or cuda in a build for NVIDIA GPUs
    #[arg(long, env, value_name = "D", default_value = "cpu")]
    device: String,
    /// A run of a minute on a part of the data, for trying things
    #[arg(long, env, value_parser = FalseyValueParser::new())]
    quick: bool,
    /// The settings of the authors' scripts: epochs, batches, Adam with a constant step size, no augmentation,
    /// whitened images
    #[arg(long, env, value_parser = FalseyValueParser::new())]
    paper: bool,
    /// Branches instead of the network's own, as in conv2:2x32,conv3:1x32: behind the trunk's second
    /// convolution one of two convolutions of 32 channels, and so on
    #[arg(long, env, value_name = "LAYER:NxC,...", value_delimiter = ',')]
    branches: Vec<Placement>,
    /// Train anew although the same run is there
    #[arg(long, env, value_parser = FalseyValueParser::new())]
    retrain: bool,
    /// Whether to train where no run or record of these settings is there
    #[arg(long, env, value_name = "yes|no", default_value = "yes", value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    train: bool,
    /// Write to figures/FOLDER/ instead of figures/
    #[arg(long, env, value_name = "FOLDER")]
    figures: Option<String>,
}

/// An experiment with where and how to work on it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session {
    /// What the experiment is called, one of [`names`].
    pub name: String,
    /// The network, its data and settings.
    pub experiment: Experiment,
    /// Where networks are trained and evaluated.
    pub device: Device,
    /// Whether this is a run of a minute for trying things.
    pub quick: bool,
    /// Whether to train.
    pub training: Training,
    /// Output goes to `figures/<folder>/…`.
    pub figures: Option<String>,
}

impl Session {
    /// Adds the argument NETWORK and all settings to a command.
    pub fn arguments(command: Command) -> Command {
        let command = Options::augment_args(Experiment::augment_args_for_update(command));
        // An environment variable that is set to nothing is not set.
        command.mut_args(|arg| {
            let empty = arg
                .get_env()
                .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
            if empty { arg.env(Resettable::Reset) } else { arg }
        })
    }

    /// The session that parsed arguments ask for.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self> {
        Self::parsed(matches, |_| ())
    }

    fn parsed(matches: &ArgMatches, defaults: impl FnOnce(&mut Experiment)) -> Result<Self> {
        let options = Options::from_arg_matches(matches).map_err(setting)?;
        let mut experiment = Experiment::named(&options.network)?;
        defaults(&mut experiment);
        if options.paper {
            experiment = experiment.as_in_2016()?;
        }
        if options.quick {
            experiment = experiment.quick()?;
        }
        experiment.update_from_arg_matches(matches).map_err(setting)?;
        experiment.config.optimizer()?;
        if !options.branches.is_empty() {
            experiment = experiment.with_branches(&options.branches)?;
        }
        Ok(Self {
            name: options.network,
            experiment,
            device: crate::device(&options.device)?,
            quick: options.quick,
            training: match (options.retrain, options.train) {
                (true, _) => Training::Anew,
                (false, true) => Training::Needed,
                (false, false) => Training::Never,
            },
            figures: options.figures,
        })
    }

    /// The experiment called `name`, one of [`names`], with the settings that the environment gives
    /// (`EPOCHS=100`; `branchynet settings` lists them). Fails on values that make no sense.
    pub fn from_environment(name: &str) -> Result<Self> {
        Self::with(name, |_| ())
    }

    /// [`Self::from_environment`] for experiments with defaults of their own, which the environment may
    /// change like all others:
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let session = Session::with("lenet", |e| (e.baseline_epochs, e.config.epochs) = (10, 10))?;
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn with(name: &str, defaults: impl FnOnce(&mut Experiment)) -> Result<Self> {
        let command = Self::arguments(Command::new("branchynet").no_binary_name(true));
        let matches = command.try_get_matches_from([name]).map_err(setting)?;
        Self::parsed(&matches, defaults)
    }

    /// Every setting with its flag, environment variable, value in this session, and help text: the
    /// rows of a table.
    pub fn settings() -> Vec<[String; 3]> {
        let command = Self::arguments(Command::new("branchynet"));
        let row = |arg: &clap::Arg| {
            let names = arg.get_value_names().filter(|_| arg.get_action().takes_values());
            let value = names.map_or("", |names| names[0].as_str());
            Some([
                arg.get_env()?.to_string_lossy().into_owned(),
                format!("--{} {value}", arg.get_long()?).trim().to_string(),
                arg.get_help()?.to_string().replace('\n', " "),
            ])
        };
        command.get_arguments().filter_map(row).collect()
    }

    /// [`Experiment::networks`] on this session's device: baseline, and network with branches.
    pub fn networks(&self) -> Result<(Network, Network)> {
        self.experiment.networks(&self.device)
    }

    /// [`Experiment::results`] as this session may train.
    pub fn results(&self) -> Result<Results> {
        self.experiment.results(&self.device, self.training)
    }

    /// What the settings of 2016 (see [`Experiment::as_in_2016`]) gave, where they are others than this
    /// session's and a record of them is there.
    pub fn recorded_as_in_2016(&self) -> Result<Option<Results>> {
        // A network that the authors did not have has no such record.
        let Ok(theirs) = self.experiment.clone().as_in_2016() else {
            return Ok(None);
        };
        let (wanted, ours) = (theirs.settings(), self.experiment.settings());
        let found = Results::recorded(|settings| *settings == wanted && wanted != ours)?;
        Ok(found.into_iter().next().map(|results| results.by(&self.experiment.criterion)))
    }

    /// Trains one network (see [`training::train`]), anew if this session says so.
    pub fn train(&self, network: &Network, data: &Dataset, config: &Config) -> Result<Run> {
        let keep = Keep { anew: self.training == Training::Anew, ..Keep::default() };
        training::train_with(network, data, config, &keep, &mut training::plain())
    }

    /// A timer over test images of this experiment, and what they are. It takes some seconds on a CPU
    /// (one round over fewer images where the session is quick).
    pub fn timer(&self) -> Result<(Timer, String)> {
        let (baseline, network) = self.networks()?;
        let macs = baseline.costs().last().map_or(1, |cost| cost.macs.max(1));
        let (count, rounds) = match self.quick {
            true => (60, 1),
            false => ((10_000_000_000 / macs).clamp(60, 2000), 7),
        };
        let (images, what) = self.experiment.images(count)?;
        let timer = Timer::new(&network, &baseline, images, rounds)?;
        Ok((timer.by(self.experiment.criterion.clone()), what))
    }

    /// Sizes of batches to time: up to 64 on the CPU, to 4096 on a GPU.
    pub fn batch_sizes(&self) -> Vec<usize> {
        let most = if self.device.is_cuda() { 4096 } else { 64 };
        let sizes = std::iter::successors(Some(1), |size| Some(size * 4));
        sizes.take_while(|&size| size <= most).collect()
    }
}

fn setting(error: clap::Error) -> Error {
    error!(
        Setting,
        "{} (a flag, or the environment variable of that name); `branchynet settings` lists what there is",
        one_line(&error)
    )
}

/// clap's message without its hints, in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
