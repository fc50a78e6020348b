//! Records of networks from elsewhere: arrays that numpy, PyTorch and others write, each checked before anything is
//! computed.

use crate::sources::{Array, ArrayFile};
use crate::text::percent;
use branchynet::data::{Role, Test, Validation, labels::counts};
use branchynet::exits::ExitRecord;
use branchynet::{Result, error};
use std::path::Path;

/// What a network from elsewhere says about the validation and test images.
pub(super) struct Foreign {
    pub validation: ExitRecord<Validation>,
    pub test: ExitRecord<Test>,
    /// What it costs to leave at each exit.
    pub costs: Vec<f64>,
    /// What is no error and probably not meant.
    pub warnings: Vec<String>,
}

/// Reads such a file (see [`crate::Results::of_arrays`]).
pub(super) fn read(path: &Path) -> Result<Foreign> {
    let mut file = ArrayFile::open(path)?;
    let mut warnings = Vec::new();
    let costs = costs(&mut file, &mut warnings)?;
    let validation: ExitRecord<Validation> =
        split(&mut file, "validation", costs.as_deref(), None, &mut warnings)?;
    let like = Some((validation.exits(), validation.classes()));
    let test: ExitRecord<Test> = split(&mut file, "test", costs.as_deref(), like, &mut warnings)?;
    let costs = costs.unwrap_or_else(|| {
        warnings.push("there is no array costs: the exits count as 1, 2, and so on".to_string());
        (1..=test.exits()).map(|exit| exit as f64).collect()
    });
    Ok(Foreign { validation, test, costs, warnings })
}

/// What it costs to leave at each exit; `None` where the file does not say.
fn costs(file: &mut ArrayFile, warnings: &mut Vec<String>) -> Result<Option<Vec<f64>>> {
    let wrong = |file: &ArrayFile, what: String| Err(error!(File, "{}: {what}", file.path().display()));
    let (costs, stages) = (file.read("costs", |cost| cost)?, file.read("stage_costs", |cost| cost)?);
    let name = if costs.is_some() { "costs" } else { "stage_costs" };
    let mut given = match (costs, stages) {
        (None, None) => return Ok(None),
        (Some(given), None) | (None, Some(given)) => given,
        (Some(_), Some(_)) => {
            return wrong(
                file,
                "give either costs (of leaving at each exit) or stage_costs (of each stage alone)"
                    .to_string(),
            );
        }
    };
    if length(&given.shape).is_none() || given.values.iter().any(|cost| !cost.is_finite() || *cost < 0.0) {
        let what = format!(
            "{name} must be one number for each exit, finite and at least 0, got {:?} of shape {:?}",
            given.values, given.shape
        );
        return wrong(file, what);
    }
    if name == "stage_costs" {
        let mut sum = 0.0;
        for cost in &mut given.values {
            sum += *cost;
            *cost = sum;
        }
    }
    if let Some(exit) = given.values.windows(2).position(|pair| pair[1] < pair[0]) {
        warnings.push(format!(
            "costs fall from exit {} to exit {}: they are those of leaving at an exit, with all that is computed before it; \
             an array stage_costs gives the cost of each stage alone",
            exit + 1,
            exit + 2
        ));
    }
    Ok(Some(given.values))
}

/// The record of one split, from its arrays of logits and labels; it has as many exits and classes as `like`.
fn split<R: Role>(
    file: &mut ArrayFile,
    split: &str,
    costs: Option<&[f64]>,
    like: Option<(usize, usize)>,
    warnings: &mut Vec<String>,
) -> Result<ExitRecord<R>> {
    let (logits_name, labels_name) = (format!("{split}_logits"), format!("{split}_labels"));
    let path = file.path().to_path_buf();
    let wrong = |name: &str, what: String| error!(File, "{}, {name}: {what}", path.display());
    let labels = file.read(&labels_name, |label| label)?;
    let labels = labels.ok_or_else(|| missing(file, &labels_name, "(samples)"))?;
    let shape =
        file.shape(&logits_name)?.ok_or_else(|| missing(file, &logits_name, "(exits, samples, classes)"))?;
    let labels = whole_numbers(labels).map_err(|what| wrong(&labels_name, what))?;
    axes(&shape, &labels, costs).map_err(|what| {
        wrong(&logits_name, format!("expected (exits, samples, classes), got {shape:?}, {what}"))
    })?;
    let [exits, _, classes] = shape[..] else { unreachable!("the axes are checked") };
    let values = logits(file, &logits_name, classes)?;
    if let Some((of_exits, of_classes)) = like.filter(|like| *like != (exits, classes)) {
        let what = format!(
            "as many exits and classes are needed as in validation_logits, {of_exits} and {of_classes}, got {exits} and {classes}"
        );
        return Err(wrong(&logits_name, what));
    }
    classes_of(&labels, classes).map_err(|what| wrong(&labels_name, what))?;
    let record = ExitRecord::from_logits(each_exit(values, exits), labels)?;
    check(split, &record, warnings).map_err(|what| wrong(&logits_name, what))?;
    Ok(record)
}

/// Fails where a record holds what no exit means; `warnings` gets what is probably not meant.
pub(super) fn check<R: Role>(
    split: &str,
    record: &ExitRecord<R>,
    warnings: &mut Vec<String>,
) -> std::result::Result<(), String> {
    let (samples, classes) = (record.len(), record.classes());
    for exit in 0..record.exits() {
        let values = record.logits(exit);
        if let Some(what) = not_a_logit(values, classes) {
            return Err(format!("exit {}, {what}", exit + 1));
        }
        let place = format!("{split}_logits, exit {}", exit + 1);
        let shares = |of: f32| values.chunks_exact(classes).all(|row| is_distribution(row, of));
        if shares(1.0) || shares(100.0) {
            warnings.push(format!(
                "{place}: these are probabilities, where logits are expected: the softmax of them is far less sure; give np.log of them, or a network without its softmax"
            ));
        } else if values.iter().all(|value| (0.0..=1.0).contains(value)) {
            warnings.push(format!(
                "{place}: all values are between 0 and 1, which logits seldom are; of sigmoids s give np.log(s / (1 - s))"
            ));
        }
    }
    let most = counts(record.labels(), classes).into_iter().max().unwrap_or(0);
    let right = record.last_accuracy() * samples as f64;
    if most == samples && samples > 1 {
        warnings.push(format!("all of {split}_labels are class {}", record.labels()[0]));
    } else if samples >= 100 && right < most as f64 {
        warnings.push(format!(
            "{split}: the last exit is right for {}, less than {} by always answering the most frequent class; are labels shifted, or axes in another order?",
            percent(&[right / samples as f64]),
            percent(&[most as f64 / samples as f64])
        ));
    }
    Ok(())
}

/// The logits. Of wide numbers that f32 would round to the same, a row's largest is taken off first, which no softmax sees.
fn logits(file: &mut ArrayFile, name: &str, classes: usize) -> Result<Vec<f32>> {
    if file.width(name)? < 8 {
        let read = file.read(name, |logit| logit as f32)?;
        return read.map(|read| read.values).ok_or_else(|| missing(file, name, ""));
    }
    let mut wide = file.read(name, |logit| logit)?.ok_or_else(|| missing(file, name, ""))?.values;
    for row in wide.chunks_exact_mut(classes) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest.is_finite() && largest.abs() > 4096.0 {
            row.iter_mut().for_each(|logit| *logit -= largest);
        }
    }
    Ok(wide.into_iter().map(|logit| logit as f32).collect())
}

fn missing(file: &ArrayFile, name: &str, shape: &str) -> branchynet::Error {
    let names = file.names().join(", ");
    let there = if names.is_empty() { "none" } else { &names };
    let split = match name.strip_prefix("test_") {
        Some(_) => "; without other samples give a half of those of validation",
        None => "",
    };
    error!(File, "{}: the array {name} {shape} is missing; there are: {there}{split}", file.path().display())
}

/// The length of an array that is one row or one column, as MATLAB and R write vectors.
fn length(shape: &[usize]) -> Option<usize> {
    let mut long = shape.iter().filter(|&&size| size != 1);
    let length = long.next().copied().unwrap_or(1);
    long.next().is_none().then_some(length)
}

fn whole_numbers(labels: Array<f64>) -> std::result::Result<Vec<u32>, String> {
    match length(&labels.shape) {
        Some(0) => return Err("it has no samples".to_string()),
        Some(_) => {}
        None => {
            let one_hot = labels.values.iter().all(|value| *value == 0.0 || *value == 1.0);
            let mend =
                if one_hot { "; one-hot labels become classes by argmax over their last axis" } else { "" };
            return Err(format!("expected one class for each sample, got an array {:?}{mend}", labels.shape));
        }
    }
    let wrong = |label: &f64| label.fract() != 0.0 || *label < 0.0 || *label > f64::from(u32::MAX);
    match labels.values.iter().position(wrong) {
        Some(sample) => Err(format!(
            "classes are whole numbers from 0, got {} for sample {sample}; leave out samples whose class is not known",
            labels.values[sample]
        )),
        None => Ok(labels.values.into_iter().map(|label| label as u32).collect()),
    }
}

/// Checks the axes of the logits against what else is known.
fn axes(shape: &[usize], labels: &[u32], costs: Option<&[f64]>) -> std::result::Result<(), String> {
    let samples = labels.len();
    let &[exits, among, classes] = shape else {
        let one = match shape {
            [among, classes] if *among == samples && *classes > 1 => {
                "; those of one exit alone become three axes by logits[None]"
            }
            [_, _] => {
                "; a logit for each class is needed: those of one exit that has a logit z for yes or no are np.stack([0 * z, z], -1)[None]"
            }
            _ => "",
        };
        return Err(format!("{} axes{one}", shape.len()));
    };
    if among != samples {
        let order = match shape.iter().position(|&size| size == samples) {
            Some(0) => "; its first axis is as long as the labels: np.swapaxes(logits, 0, 1)",
            Some(_) => {
                "; its last axis is as long as the labels: np.moveaxis(logits, 2, 1), or np.transpose(logits) where classes come first"
            }
            None => "",
        };
        return Err(format!("and {samples} labels{order}"));
    }
    if exits == 0 || classes < 2 {
        return Err("without exits, or with less than two classes".to_string());
    }
    let label = labels.iter().max().map_or(0, |&label| label as usize);
    let swapped = "; exits and classes seem to have changed places: np.transpose(logits, (2, 1, 0))";
    match costs {
        Some(costs) if costs.len() != exits => {
            let order = if costs.len() == classes { swapped } else { "" };
            Err(format!("and {} costs{order}", costs.len()))
        }
        _ if label >= classes && label < exits => Err(format!("and labels up to {label}{swapped}")),
        _ => Ok(()),
    }
}

fn classes_of(labels: &[u32], classes: usize) -> std::result::Result<(), String> {
    let (min, max) = labels.iter().fold((u32::MAX, 0), |(min, max), &label| (min.min(label), max.max(label)));
    if (max as usize) < classes {
        return Ok(());
    }
    let from_one =
        if min >= 1 && max as usize == classes { "; they seem to count from 1: subtract 1" } else { "" };
    Err(format!("{classes} classes are numbered from 0 to {}, got {min} to {max}{from_one}", classes - 1))
}

/// What is wrong with the first value of an exit that no network means: a logit of minus infinity rules its class out, and is none.
fn not_a_logit(values: &[f32], classes: usize) -> Option<String> {
    let sample = values.chunks_exact(classes).position(|row| {
        row.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY)
            || row.iter().all(|logit| !logit.is_finite())
    })?;
    let what = match &values[sample * classes..][..classes] {
        row if row.iter().any(|logit| logit.is_nan()) => "not a number",
        row if row.contains(&f32::INFINITY) => "infinite, as float16 is above 65504",
        _ => "minus infinity for each class",
    };
    Some(format!("sample {sample}: a logit is {what}"))
}

/// Whether these are shares of so much.
fn is_distribution(row: &[f32], of: f32) -> bool {
    let sum: f32 = row.iter().sum();
    (sum / of - 1.0).abs() < 2e-2 && row.iter().all(|p| (0.0..=of).contains(p))
}

/// The values of each exit, without a second copy of all of them.
fn each_exit(mut values: Vec<f32>, exits: usize) -> Vec<Vec<f32>> {
    let of_one = values.len() / exits;
    let mut found: Vec<Vec<f32>> = (1..exits)
        .rev()
        .map(|exit| {
            let last = values.split_off(exit * of_one);
            values.shrink_to_fit();
            last
        })
        .collect();
    found.push(values);
    found.reverse();
    found
}
