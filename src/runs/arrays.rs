//! Exit records as arrays: in files of results, and of networks from elsewhere, which a few lines of Python write.

use crate::Result;
use crate::checked_file::Tensors;
use crate::data::{Role, Test, Validation};
use crate::error::{bail, error};
use crate::exits::ExitRecord;
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// What a network from elsewhere says about the validation and test images, and what its exits cost.
type Arrays = (ExitRecord<Validation>, ExitRecord<Test>, Vec<f64>);

/// Reads such a file (see [`super::Results::of_arrays`]).
pub(super) fn read(path: &Path) -> Result<Arrays> {
    let arrays = tensors(path)?;
    let wrong = |what: String| error!(File, "{}: {what}", path.display());
    let validation: ExitRecord<Validation> = record(&arrays, "validation_").map_err(wrong)?;
    let test: ExitRecord<Test> = record(&arrays, "test_").map_err(wrong)?;
    if (validation.exits(), validation.classes()) != (test.exits(), test.classes()) {
        return Err(wrong("validation and test must have the same exits and classes".to_string()));
    }
    let costs = match arrays.get("costs") {
        Some(costs) => costs.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?,
        None => (1..=test.exits()).map(|exit| exit as f64).collect(),
    };
    validation.check_costs(&costs).map_err(|cause| wrong(format!("costs: {cause}")))?;
    Ok((validation, test, costs))
}

fn tensors(path: &Path) -> Result<Tensors> {
    if !path.is_file() {
        bail!(File, "there is no file {}", path.display())
    }
    let read = || -> candle_core::Result<Tensors> {
        if path.extension().is_some_and(|extension| extension == "npz") {
            return Ok(Tensor::read_npz(path)?.into_iter().collect());
        }
        Ok(candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect())
    };
    read().map_err(|cause| {
        let cause = crate::Error::from(cause);
        error!(
            File,
            "{} is neither an exit record, nor a .safetensors or .npz file of arrays (np.savez, not compressed): {cause}",
            path.display()
        )
    })
}

/// Puts a record under names that begin so: logits (exits, samples, classes) and labels (samples).
pub(super) fn put<R: Role>(tensors: &mut Tensors, split: &str, record: &ExitRecord<R>) -> Result<()> {
    let logits = (0..record.exits()).flat_map(|exit| record.logits(exit)).copied().collect();
    let shape = (record.exits(), record.len(), record.classes());
    let labels = Tensor::from_slice(record.labels(), record.len(), &Device::Cpu)?;
    tensors.insert(format!("{split}logits"), Tensor::from_vec(logits, shape, &Device::Cpu)?);
    tensors.insert(format!("{split}labels"), labels);
    Ok(())
}

/// The record whose arrays have names that begin so.
pub(super) fn record<R: Role>(arrays: &Tensors, split: &str) -> std::result::Result<ExitRecord<R>, String> {
    let get = |what: &str, rank: usize, shape: &str| {
        let name = format!("{split}{what}");
        match arrays.get(&name) {
            Some(array) if array.rank() == rank => Ok(array),
            Some(array) => Err(format!("{name} must be {shape}, got {:?}", array.shape())),
            None => Err(format!("the array {name} {shape} is missing")),
        }
    };
    let logits = get("logits", 3, "(exits, samples, classes)")?;
    let labels = get("labels", 1, "(samples)")?;
    let convert = || -> candle_core::Result<(Vec<Vec<f32>>, Vec<u32>)> {
        let logits = logits.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2()?;
        Ok((logits, labels.to_dtype(DType::U32)?.to_vec1()?))
    };
    let name = split.trim_end_matches(['_', '.']);
    let (logits, labels) = convert().map_err(|cause| format!("{name}: {cause}"))?;
    let classes = logits.first().map_or(0, Vec::len) / labels.len().max(1);
    if labels.iter().any(|&label| label as usize >= classes.min(256)) {
        return Err(format!(
            "{split}labels must be from 0 to {}, and at most 255",
            classes.saturating_sub(1)
        ));
    }
    let labels = labels.into_iter().map(|label| label as u8).collect();
    ExitRecord::from_logits(logits, labels).map_err(|error| format!("{name}: {error}"))
}
