//! How an experiment is run: settings from the command line or the environment, and where to work.

use crate::experiment::{Experiment, Trained};
use crate::presets::names;
use crate::results::{Results, seconds};
use crate::seeds::Seeds;
use crate::summary::Summary;
use crate::weights::Pretrained;
use branchynet::data::Dataset;
use branchynet::exits::Timer;
use branchynet::networks::{Network, Placement};
use branchynet::training::{self, Config, Keep, Progress, Run};
use branchynet::{Error, Result, bail, error};
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
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, default_value = "yes", value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    train: bool,
}

/// Whether to train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Training {
    /// Where no run or record of these settings is there.
    #[default]
    Needed,
    /// Although one is there.
    Anew,
    /// Never.
    Never,
}

/// Makes what is told of a training's progress.
pub type Reporter = fn() -> Box<dyn FnMut(Progress<'_>)>;

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
    /// Who is told of progress: nobody, unless a program sets it.
    pub reporter: Reporter,
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
            device: branchynet::device(&options.device)?,
            quick: options.quick,
            training: match (options.retrain, options.train) {
                (true, _) => Training::Anew,
                (false, true) => Training::Needed,
                (false, false) => Training::Never,
            },
            reporter: || Box::new(|_| ()),
        })
    }

    /// The experiment called `name`, one of [`names`], with defaults of the caller's and the settings that the
    /// environment gives (`EPOCHS=100`; `branchynet settings` lists them). Fails on values that make no sense.
    ///
    /// ```
    /// use branchynet_runs::prelude::*;
    ///
    /// let session = Session::new("lenet", |e| (e.baseline_epochs, e.config.epochs) = (10, 10))?;
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn new(name: &str, defaults: impl FnOnce(&mut Experiment)) -> Result<Self> {
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

    /// The data set as the experiment wants it.
    pub fn load(&self) -> Result<Dataset> {
        self.experiment.load_with(&mut *(self.reporter)())
    }

    /// What these settings gave, from the newest of a finished run in `datasets/runs/`, an exit record
    /// in `datasets/records/` and one in `datasets/reference/` that were made with exactly these
    /// settings; `None` where there is none. [`Results::origin`] says which it was.
    pub fn recorded(&self) -> Result<Option<Results>> {
        let (experiment, settings) = (&self.experiment, self.experiment.settings());
        // Of those made in the same second the first, as the last of equals is taken.
        let records = Results::recorded(|recorded| *recorded == settings)?.into_iter().rev();
        let mut newest = records.max_by_key(|results| results.made);
        // Without the data set a run cannot be evaluated. To load it takes a second.
        if training::any_of(&experiment.name)
            && let Ok(data) = self.load()
            && let Some((trained, finished)) = experiment.find(&data, &self.device)?
        {
            let newer = |record: &Results| record.made < seconds(finished);
            if newest.as_ref().is_none_or(newer) {
                newest = Some(Results::collect(experiment, &trained, &data)?);
            }
        }
        Ok(newest.map(|results| results.by(&experiment.criterion)))
    }

    /// What these settings give: [`Self::recorded`], or, where nothing is, by training now, as far as
    /// this session may. Fails where it cannot do either.
    pub fn results(&self) -> Result<Results> {
        let experiment = &self.experiment;
        if self.training != Training::Anew
            && let Some(results) = self.recorded()?
        {
            return Ok(results);
        }
        let (trained, data) = self.train_now(experiment)?;
        Ok(Results::collect(experiment, &trained, &data)?.by(&experiment.criterion))
    }

    /// What the runs of `experiment` gave that differ in their seed alone: those that are recorded, or,
    /// where none is, one from training now, as far as this session may, which is recorded then.
    pub fn summaries(&self, experiment: &Experiment) -> Result<Seeds<Summary>> {
        let wanted = experiment.settings().seedless();
        let found = match self.training {
            Training::Anew => Vec::new(),
            _ => Summary::recorded(|settings| settings.seedless() == wanted)?,
        };
        if !found.is_empty() {
            return Ok(Seeds::new(found));
        }
        let (trained, data) = self.train_now(experiment)?;
        let summary = Summary::collect(experiment, &trained, &data)?;
        summary.write(&Summary::default_path(&summary.run.settings)?)?;
        Ok(Seeds::new(vec![summary]))
    }

    /// Trains because nothing is recorded. Fails where this session may not, or has no data.
    fn train_now(&self, experiment: &Experiment) -> Result<(Trained, Dataset)> {
        let name = &experiment.name;
        if self.training == Training::Never {
            bail!(
                Missing,
                "there is no run or record of {name} with these settings, and TRAIN=0 forbids to train; use the default settings, or leave out TRAIN=0"
            )
        }
        let say = &mut *(self.reporter)();
        let data = experiment.load_with(say).map_err(|cause| {
            error!(
                Missing,
                "there is no record of {name} with these settings, and no data to train on ({cause}); the default settings have a record in datasets/reference/"
            )
            .because(cause)
        })?;
        let anew = self.training == Training::Anew;
        let why = if anew { "training anew is asked for" } else { "nothing recorded for these settings" };
        say(Progress::Line(&format!("{why}: training now: {experiment}")));
        tell_of(&data, say);
        Ok((experiment.train(&data, &self.device, anew, say)?, data))
    }

    /// The trained network of this session's settings, without training: from a finished run, or from the
    /// weights of a reference run. Fails where there is neither.
    pub fn trained(&self) -> Result<Network> {
        if let Ok(data) = self.load()
            && let Some((trained, _)) = self.experiment.find(&data, &self.device)?
        {
            return Ok(trained.network);
        }
        match Pretrained::of_settings(&self.experiment.settings(), &self.device)? {
            Some(weights) => Ok(weights.network),
            None => bail!(
                Missing,
                "there are no trained weights of {} with these settings; `session.results()?` or `branchynet train` trains",
                self.experiment.name
            ),
        }
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
        training::train_with(network, data, config, &keep, &mut *(self.reporter)())
    }

    /// Trains baseline, network and matched baseline (see [`Experiment::train`]), anew if this session says so.
    pub fn train_all(&self, data: &Dataset) -> Result<Trained> {
        let (anew, say) = (self.training == Training::Anew, &mut *(self.reporter)());
        tell_of(data, say);
        self.experiment.train(data, &self.device, anew, say)
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

/// Tells what is to be known of a data set.
fn tell_of(data: &Dataset, say: &mut dyn FnMut(Progress<'_>)) {
    data.notes().iter().for_each(|note| say(Progress::Line(&format!("{}: {note}", data.name))));
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
