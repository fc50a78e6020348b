//! `branchynet classify`: a trained network's answers for one's own pictures.

use crate::picture::{self, FORMATS, INVERTED, Picture, Preparation};
use crate::{is_path, say};
use branchynet::exits::{Answer, Criterion, ExitPolicy, Seen};
use branchynet::{Result, bail, clap, error};
use branchynet_runs::Pretrained;
use rayon::prelude::*;
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Classify pictures with a trained network: label, exit, uncertainty and probability, a line each
///
/// PNG, JPEG, GIF, WebP, BMP and TIFF are read, whatever a file is called; of an animation or several pages the first
/// picture. It is turned as the camera notes (EXIF), what is transparent is laid on white paper, and the middle square is
/// scaled to the size of the network's images. Values of 8, 10 or 12 bits in a file of 16 are noticed and scaled.
///
/// Networks of one channel whose data set is MNIST by name, or of its kin, learned bright on dark: a picture whose border
/// is bright is inverted. For the digits of MNIST and QMNIST the ink is also cut out, scaled to 20×20 pixels and centred
/// in 28×28 by its mass, as theirs were: draw one digit, anywhere and of any size. --as-is does neither.
///
/// A folder stands for all pictures below it, sorted; what is no picture there is passed over, unless it is named as one.
/// Answers come as pictures are read, in memory that does not grow. A picture that cannot be read is named on standard
/// error, the others are answered, and the exit code is 1. What was done to a picture is a warning there, with the first
/// picture that it was done to.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Classify {
    /// Trained weights: lenet, for example; a file made by `branchynet export` is taken as well
    weights: String,
    /// Pictures, and folders of them
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Thresholds by what they were chosen for: "no loss", "1 % less", "like the baseline", "knee" or
    /// "1 % guaranteed"; which there are says the weights' model card
    #[arg(long, value_name = "CHOICE", default_value = "no loss")]
    choice: String,
    /// Thresholds instead of the choice's, on its criterion (most: the entropy in nats), one for each exit but the last
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', conflicts_with = "choice")]
    thresholds: Vec<f64>,
    /// Exchange dark and bright in all pictures, before anything is noticed
    #[arg(long)]
    invert: bool,
    /// Neither invert by itself nor cut out digits
    #[arg(long)]
    as_is: bool,
    /// For machines: a JSON object a line, {"picture", "label", "exit" (from 1), "uncertainty", "probability", "warnings"}
    #[arg(long)]
    json: bool,
    /// Device: cpu, or cuda in a build for NVIDIA GPUs
    #[arg(long, env, value_name = "D", default_value = "cpu")]
    device: String,
}

/// Prints a line for each picture, below a heading.
pub fn classify(arguments: &Classify) -> Result<String> {
    let device = branchynet::device(&arguments.device)?;
    let named = &arguments.weights;
    let weights = match is_path(named) && !Pretrained::path(named).exists() {
        true => Pretrained::read(Path::new(named), &device)?,
        false => Pretrained::named(named, &device)?,
    };
    let mut policy = weights.policy(&arguments.choice)?.clone();
    if !arguments.thresholds.is_empty() {
        policy.thresholds = arguments.thresholds.clone();
    }
    policy.check(weights.network.exits())?;
    let preparation = Preparation::new(&weights.about, arguments.invert, arguments.as_is)?;

    let mut pictures = Vec::new();
    arguments.pictures.iter().for_each(|argument| list(argument, &mut pictures));
    let mut lines = Lines::new(&weights, &policy, &pictures, arguments.json);
    let (all, mut failed, mut at_once) = (pictures.len(), 0, 16);
    let mut pictures = pictures.into_iter();
    while pictures.len() > 0 {
        let start = Instant::now();
        let some: Vec<_> = pictures.by_ref().take(at_once).collect();
        let read = |path: Result<PathBuf>| path.and_then(|path| Ok((preparation.read(&path)?, path)));
        let mut good = Vec::new();
        for picture in some.into_par_iter().map(read).collect::<Vec<_>>() {
            match picture {
                Ok(picture) => good.push(picture),
                Err(error) if all == 1 => return Err(error),
                Err(error) => {
                    say::aside(error);
                    failed += 1;
                }
            }
        }
        for ((picture, path), (answer, logits)) in good.iter().zip(answers(&weights, &policy, &good)?) {
            if !lines.print(path, &picture.warnings, answer, &logits)? {
                return Ok(String::new());
            }
        }
        // Large pictures are answered soon; of small ones many at once, as the network is compiled each time.
        at_once = if start.elapsed() < Duration::from_secs(1) {
            1024.min(2 * at_once)
        } else {
            16.max(at_once / 2)
        };
    }
    lines.end();
    match failed {
        0 => Ok(String::new()),
        _ => {
            bail!(File, "{failed} of {all} could not be read and have no answer")
        }
    }
}

/// What the network answers, with the logits of the exit that did: it stops there.
fn answers(
    weights: &Pretrained,
    policy: &ExitPolicy,
    pictures: &[(Picture, PathBuf)],
) -> Result<Vec<(Answer, Vec<f32>)>> {
    if pictures.is_empty() {
        return Ok(Vec::new());
    }
    let bytes: Vec<&[u8]> = pictures.iter().map(|(picture, _)| picture.bytes.as_slice()).collect();
    weights.network.classify_with_logits(&weights.images(&bytes.concat())?, policy)
}

/// Adds what an argument stands for: a picture, or those below a folder, sorted. What cannot be listed is an error among them.
fn list(argument: &Path, pictures: &mut Vec<Result<PathBuf>>) {
    if !argument.is_dir() {
        return pictures.push(Ok(argument.to_path_buf()));
    }
    let failed = |path: &Path, why: &str| Err(error!(File, "{}: {why}", path.display()));
    let (mut folders, mut seen, mut found) = (vec![argument.to_path_buf()], HashSet::new(), Vec::new());
    while let Some(folder) = folders.pop() {
        let entries = folder.canonicalize().and_then(|name| Ok((name, std::fs::read_dir(&folder)?)));
        let entries = match entries {
            // A link may lead back.
            Ok((name, entries)) => entries.take(if seen.insert(name) { usize::MAX } else { 0 }),
            Err(cause) => {
                pictures.push(failed(&folder, &cause.to_string()));
                continue;
            }
        };
        let hidden =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let (inner, files): (Vec<_>, Vec<_>) = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| !hidden(path))
            .partition(|path| path.is_dir());
        folders.extend(inner);
        found.extend(files.into_iter().filter(|path| picture::seems_one(path)));
    }
    if found.is_empty() {
        pictures.push(failed(argument, &format!("there is no picture below this folder ({FORMATS})")));
    }
    found.sort();
    pictures.extend(found.into_iter().map(Ok));
}

/// What is printed.
struct Lines<'a> {
    classes: &'a [String],
    /// What the uncertainty is called.
    uncertainty: &'static str,
    json: bool,
    headed: bool,
    /// Of the columns.
    widths: [usize; 3],
    /// How many pictures were inverted.
    inverted: usize,
}

impl<'a> Lines<'a> {
    /// Columns as wide as what they may hold, as answers are printed before all are there.
    fn new(weights: &'a Pretrained, policy: &ExitPolicy, pictures: &[Result<PathBuf>], json: bool) -> Self {
        let classes = &weights.about.classes;
        let by_entropy = policy.readout.criterion == Criterion::Entropy;
        let uncertainty = if by_entropy { "entropy" } else { "uncertainty" };
        let width = |text: String| text.chars().count();
        let names = pictures.iter().flatten().map(|path| width(path.display().to_string())).max();
        let labels = classes.iter().cloned().map(width).max();
        let widths = [names.unwrap_or(0).max(7), labels.unwrap_or(0).max(5), uncertainty.len()];
        Self { classes, uncertainty, json, headed: false, widths, inverted: 0 }
    }

    fn print(&mut self, path: &Path, warnings: &[String], answer: Answer, logits: &[f32]) -> Result<bool> {
        let (picture, label) = (path.display().to_string(), &self.classes[answer.label]);
        let (exit, uncertainty) = (answer.exit + 1, answer.uncertainty);
        let probability = Seen::new(logits, self.classes.len()).probabilities()[answer.label];
        if self.json {
            let line = json!({
                "picture": picture, "label": label, "exit": exit, "uncertainty": uncertainty,
                "probability": probability, "warnings": warnings,
            });
            return say::result(format_args!("{line}\n"));
        }
        self.warn(&picture, warnings);
        if !std::mem::replace(&mut self.headed, true) {
            self.row(["picture", "label", "exit", self.uncertainty, "probability"])?;
        }
        let numbers = [uncertainty, probability].map(|x| format!("{x:.4}"));
        self.row([&picture, label, &exit.to_string(), &numbers[0], &numbers[1]])
    }

    fn row(&self, [picture, label, exit, uncertainty, probability]: [&str; 5]) -> Result<bool> {
        let [pictures, labels, numbers] = self.widths;
        say::result(format_args!(
            "{picture:<pictures$}  {label:<labels$}  {exit:>4}  {uncertainty:>numbers$}  {probability:>11}\n"
        ))
    }

    /// Each warning, but of those that are usual the first; the others are counted.
    fn warn(&mut self, name: &str, warnings: &[String]) {
        for warning in warnings {
            self.inverted += usize::from(warning == INVERTED);
            if warning != INVERTED || self.inverted == 1 {
                say::warning(format_args!("{name}: {warning}"));
            }
        }
    }

    fn end(&self) {
        if self.inverted > 1 {
            say::warning(format_args!("and {} more: {INVERTED}", self.inverted - 1));
        }
    }
}
