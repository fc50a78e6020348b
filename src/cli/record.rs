//! A record of a network from elsewhere: what the exits of an ONNX file say about a data set.

use branchynet::clap::{self, Args};
use branchynet::data::{Dataset, Role, Source, Split};
use branchynet::exits::ExitRecord;
use branchynet::files::{project_dir, shown};
use branchynet::runs::Results;
use branchynet::text::percent;
use branchynet::{Error, ErrorKind, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Run an ONNX file whose outputs are logits of exits over the validation and test images of a data set, and write what they
/// say, as arrays that `sweep FILE` and `export --from` read. Needs a Python with onnx and onnxruntime (`make onnx`)
#[derive(Args)]
pub struct Record {
    /// The file: one input of images (batch, channels, height, width), bytes or f32, and for each exit logits (batch, classes)
    model: PathBuf,
    /// mnist, fashion-mnist, cifar10, or a folder of your own below datasets/, whose labels are the model's classes
    #[arg(long)]
    data: Source,
    /// The outputs that are exits, the first first [default: all, in the order of the file]
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',')]
    exits: Vec<String>,
    /// What is taken off the pixels, which are 0 to 1, for each channel or for all, as in torchvision's Normalize [default: 0]
    #[arg(long, value_name = "M,M,...", value_delimiter = ',', allow_negative_numbers = true)]
    mean: Vec<f32>,
    /// What they are divided by then [default: 1]
    #[arg(long, value_name = "S,S,...", value_delimiter = ',')]
    std: Vec<f32>,
    /// Write it there [default: MODEL.record.safetensors]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The Python that has onnx and onnxruntime [default: that of `make onnx`, else python3]
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
}

/// Where the record of this file is by default.
pub fn beside(model: &Path) -> PathBuf {
    model.with_extension("record.safetensors")
}

/// A line in a terminal that the next one replaces.
fn progress_line(line: &str) {
    let mut terminal = std::io::stderr().lock();
    if terminal.is_terminal() {
        let _ = write!(terminal, "\r\x1b[K{line}").and_then(|()| terminal.flush());
    }
}

/// Images a time.
const BATCH: usize = 64;

/// The model in a process of its own.
struct Running<'a> {
    arguments: &'a Record,
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What it said about itself.
    bytes: bool,
    exits: Vec<String>,
    classes: usize,
    costs: Option<Vec<f64>>,
}

impl<'a> Running<'a> {
    fn start(arguments: &'a Record, image: [usize; 3]) -> Result<Self> {
        let own = project_dir().join("target/onnx/bin/python");
        let python = arguments.python.clone().unwrap_or(if own.exists() { own } else { "python3".into() });
        let mut process = Command::new(&python)
            .args(["-c", include_str!("onnx_logits.py")])
            .arg(&arguments.model)
            .args(&arguments.exits)
            .env("IMAGE", format!("{image:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|cause| {
                Error::new(
                    ErrorKind::Missing,
                    format!("{}: {cause}; `make onnx` installs a Python with onnxruntime", python.display()),
                )
            })?;
        let (to, from) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let mut running = Self {
            arguments,
            process,
            to,
            from: BufReader::new(from),
            bytes: false,
            exits: Vec::new(),
            classes: 0,
            costs: None,
        };
        let mut line = String::new();
        if running.from.read_line(&mut line)? == 0 {
            return Err(running.failure());
        }
        let about: Value = serde_json::from_str(&line)?;
        let given = &about["image"];
        for (axis, size) in image.iter().enumerate() {
            if given[axis].as_u64().is_some_and(|wanted| wanted != *size as u64) {
                let message = format!(
                    "{} takes images of {given} (channels, height, width; null: any), and those of {} are {image:?}; `branchynet datasets NAME --size N` scales pictures",
                    arguments.model.display(),
                    arguments.data
                );
                return Err(Error::new(ErrorKind::Shape, message));
            }
        }
        running.bytes = about["bytes"] == Value::Bool(true);
        running.exits = serde_json::from_value(about["exits"].clone())?;
        running.classes = serde_json::from_value(about["classes"].clone())?;
        running.costs = serde_json::from_value(about["costs"].clone())?;
        if running.bytes && !(arguments.mean.is_empty() && arguments.std.is_empty()) {
            let message = format!(
                "{} takes bytes, which --mean and --std do not change; leave them out",
                arguments.model.display()
            );
            return Err(Error::new(ErrorKind::Setting, message));
        }
        Ok(running)
    }

    /// Why the process ended.
    fn failure(&mut self) -> Error {
        let mut said = String::new();
        let _ = self.process.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        // The last line of Python's own errors says what is wrong.
        let last =
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended without a word");
        let lacks =
            if last.contains("No module named") { "; `make onnx` installs a Python that has it" } else { "" };
        Error::new(ErrorKind::File, format!("{last}{lacks}"))
    }

    /// A batch of images as the model takes them.
    fn pixels<R: Role>(&self, split: &Split<R>, images: &[usize]) -> Vec<u8> {
        if self.bytes {
            return images.iter().flat_map(|&i| split.image(i)).copied().collect();
        }
        let of = |values: &[f32], channel: usize, default: f32| match values {
            [] => default,
            [one] => *one,
            each => each[channel],
        };
        let [channels, ..] = split.image_shape();
        let mut out = Vec::new();
        for &i in images {
            let image = split.image(i);
            for (channel, plane) in image.chunks(image.len() / channels).enumerate() {
                let (mean, std) =
                    (of(&self.arguments.mean, channel, 0.0), of(&self.arguments.std, channel, 1.0));
                out.extend(
                    plane.iter().flat_map(|&byte| ((f32::from(byte) / 255.0 - mean) / std).to_le_bytes()),
                );
            }
        }
        out
    }

    fn record<R: Role>(&mut self, what: &str, split: &Split<R>) -> Result<ExitRecord<R>> {
        let mut logits = vec![Vec::with_capacity(split.len() * self.classes); self.exits.len()];
        let all: Vec<usize> = (0..split.len()).collect();
        for images in all.chunks(BATCH) {
            progress_line(&format!("{what}: {} of {} images", images[0], split.len()));
            let pixels = self.pixels(split, images);
            let head = [images.len() as u32, pixels.len() as u32].map(u32::to_le_bytes).concat();
            let mut answer = vec![0; images.len() * self.classes * 4];
            let mut exchange = || -> std::io::Result<()> {
                self.to.write_all(&head)?;
                self.to.write_all(&pixels)?;
                self.to.flush()?;
                for logits in &mut logits {
                    self.from.read_exact(&mut answer)?;
                    logits.extend(answer.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                }
                Ok(())
            };
            if exchange().is_err() {
                return Err(self.failure());
            }
        }
        progress_line("");
        ExitRecord::from_logits(logits, split.labels().to_vec())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the record; says where, and how many answers are right.
pub fn record(arguments: &Record) -> Result<String> {
    if !arguments.model.is_file() {
        return Err(Error::new(
            ErrorKind::Missing,
            format!("there is no file {}", arguments.model.display()),
        ));
    }
    let data: Dataset = arguments.data.load()?;
    let image = data.test.image_shape();
    for (flag, values) in [("mean", &arguments.mean), ("std", &arguments.std)] {
        let off = values.iter().any(|value| !value.is_finite() || (flag == "std" && *value <= 0.0));
        if off || !(values.len() <= 1 || values.len() == image[0]) {
            let message = format!(
                "--{flag} is one number, or one for each of the {} channels, got {values:?}",
                image[0]
            );
            return Err(Error::new(ErrorKind::Setting, message));
        }
    }
    let mut model = Running::start(arguments, image)?;
    if model.classes != data.classes.len() {
        let message = format!(
            "{} tells {} classes apart, and {} has {}",
            arguments.model.display(),
            model.classes,
            arguments.data,
            data.classes.len()
        );
        return Err(Error::new(ErrorKind::Shape, message));
    }
    let (validation, test) =
        (model.record("validation", &data.validation)?, model.record("test", &data.test)?);
    let path = arguments.output.clone().unwrap_or_else(|| beside(&arguments.model));
    Results::write_arrays(&path, &validation, &test, model.costs.as_deref())?;
    let costs = match &model.costs {
        Some(costs) => format!("{costs:?} multiply-accumulates"),
        None => "1, 2, and so on, since the file does not tell all shapes".to_string(),
    };
    Ok(format!(
        "exits {}: {} of the test images right; they cost {costs}\n{}\n",
        model.exits.join(", "),
        percent(&test.exit_accuracy()),
        shown(&path)
    ))
}
