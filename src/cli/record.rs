//! A record of a network from elsewhere: what the exits of an ONNX file say about a data set.

use crate::say;
use branchynet::clap::{self, Args};
use branchynet::data::{Dataset, Role, Split};
use branchynet::exits::ExitRecord;
use branchynet::files::{expect_file, project_dir, shown};
use branchynet::{Error, ErrorKind, Result, bail, error};
use branchynet_runs::text::percent;
use branchynet_runs::{OnnxFile, Recording, Results, Source};
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
    /// What they are divided by then; 0.003921569 makes them 0 to 255 again [default: 1]
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

/// Fails where what this flag names would be written over a file that is read.
pub fn keep(read: &Path, written: &Path, flag: &str) -> Result<()> {
    let same = match (read.canonicalize(), written.canonicalize()) {
        (Ok(read), Ok(written)) => read == written,
        _ => false,
    };
    if same {
        bail!(Setting, "{flag} {} would replace what is read; name another file", written.display())
    }
    Ok(())
}

/// What a file that is made by a record says about its data and pixels.
pub fn about(of: &Recording) -> Result<Vec<(&'static str, String)>> {
    let mut about = vec![("data", of.data.clone()), ("classes", serde_json::to_string(&of.classes)?)];
    match &of.mean[..] {
        [] => about.push(("pixels", "bytes from 0 to 255".to_string())),
        _ => about.extend([
            ("pixels", "from 0 to 1, less mean, divided by std".to_string()),
            ("mean", serde_json::to_string(&of.mean)?),
            ("std", serde_json::to_string(&of.std)?),
        ]),
    }
    Ok(about)
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
    python: PathBuf,
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What it said about itself.
    bytes: bool,
    exits: Vec<String>,
    classes: usize,
    /// Multiply-accumulates, or why they are not known.
    costs: std::result::Result<Vec<f64>, String>,
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
                error!(
                    Missing,
                    "{}: {cause}; `make onnx` installs a Python with onnxruntime",
                    python.display()
                )
            })?;
        let (to, from) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let mut running = Self {
            arguments,
            python,
            process,
            to,
            from: BufReader::new(from),
            bytes: false,
            exits: Vec::new(),
            classes: 0,
            costs: Err(String::new()),
        };
        let mut line = String::new();
        if running.from.read_line(&mut line)? == 0 {
            return Err(running.failure());
        }
        let about: Value = serde_json::from_str(&line).map_err(|_| {
            // Some other program, which may wait for more.
            let _ = running.process.kill();
            running.failure()
        })?;
        let given = &about["image"];
        for (axis, size) in image.iter().enumerate() {
            if given[axis].as_u64().is_some_and(|wanted| wanted != *size as u64) {
                bail!(
                    Shape,
                    "{} takes images of {given} (channels, height, width; null: any), and those of {} are {image:?}; `branchynet datasets NAME --size N` scales pictures",
                    arguments.model.display(),
                    arguments.data
                )
            }
        }
        running.bytes = about["bytes"] == Value::Bool(true);
        running.exits = serde_json::from_value(about["exits"].clone())?;
        running.classes = serde_json::from_value(about["classes"].clone())?;
        running.costs = match about["costs"].as_str() {
            Some(unknown) => Err(unknown.to_string()),
            None => Ok(serde_json::from_value(about["costs"].clone())?),
        };
        if running.bytes && !(arguments.mean.is_empty() && arguments.std.is_empty()) {
            bail!(
                Setting,
                "{} takes bytes, which --mean and --std do not change; leave them out",
                arguments.model.display()
            )
        }
        Ok(running)
    }

    /// Why the process ended.
    fn failure(&mut self) -> Error {
        let mut said = String::new();
        let _ = self.process.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        // The last line of Python's own errors says what is wrong.
        let message = match said.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(last) if last.contains("No module named") => {
                format!("{}: {last}; `make onnx` installs a Python that has it", self.python.display())
            }
            Some(last) => last.to_string(),
            None => format!(
                "{} ended without an answer; --python names a Python with onnx and onnxruntime, and `make onnx` installs one",
                self.python.display()
            ),
        };
        Error::new(ErrorKind::File, message)
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
    expect_file(&arguments.model)?;
    let path = arguments.output.clone().unwrap_or_else(|| beside(&arguments.model));
    keep(&arguments.model, &path, "--output")?;
    let digest = OnnxFile::read(&arguments.model)?.digest();
    let data: Dataset = arguments.data.load()?;
    let image = data.test.image_shape();
    for (flag, values) in [("mean", &arguments.mean), ("std", &arguments.std)] {
        let off = values.iter().any(|value| !value.is_finite() || (flag == "std" && *value <= 0.0));
        if off || !(values.len() <= 1 || values.len() == image[0]) {
            bail!(
                Setting,
                "--{flag} is one number{}, or one for each of the {} channels, got {values:?}",
                if flag == "std" { " above 0" } else { "" },
                image[0]
            )
        }
    }
    let mut model = Running::start(arguments, image)?;
    if model.classes != data.classes.len() {
        bail!(
            Shape,
            "{} tells {} classes apart, and {} has {}",
            arguments.model.display(),
            model.classes,
            arguments.data,
            data.classes.len()
        )
    }
    let (validation, test) =
        (model.record("validation", &data.validation)?, model.record("test", &data.test)?);
    let or = |values: &[f32], default| if values.is_empty() { vec![default] } else { values.to_vec() };
    let of = Recording {
        digest,
        exits: model.exits.clone(),
        data: arguments.data.to_string(),
        classes: data.classes.clone(),
        mean: if model.bytes { Vec::new() } else { or(&arguments.mean, 0.0) },
        std: if model.bytes { Vec::new() } else { or(&arguments.std, 1.0) },
    };
    let costs = model.costs.as_deref().ok();
    for warning in Results::write_arrays(&path, &validation, &test, costs, Some(&of))? {
        say::warning(warning);
    }
    let costs = match &model.costs {
        Ok(costs) => format!("{costs:?} multiply-accumulates"),
        Err(unknown) => format!("1, 2, and so on: {unknown}"),
    };
    Ok(format!(
        "exits {}: {} of the test images right; they cost {costs}\n{}\n",
        model.exits.join(", "),
        percent(&test.exit_accuracy()),
        shown(&path)
    ))
}
