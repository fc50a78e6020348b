//! Exit records as tensors, in files of results.

use branchynet::Result;
use branchynet::checked_file::Tensors;
use branchynet::data::Role;
use branchynet::exits::ExitRecord;
use candle_core::{DType, Device, Tensor};

/// Puts a record under names that begin so: logits (exits, samples, classes) and labels (samples).
pub(super) fn put<R: Role>(tensors: &mut Tensors, split: &str, record: &ExitRecord<R>) -> Result<()> {
    let logits = (0..record.exits()).flat_map(|exit| record.logits(exit)).copied().collect();
    let shape = (record.exits(), record.len(), record.classes());
    let labels = Tensor::from_slice(record.labels(), record.len(), &Device::Cpu)?;
    let labels = if record.classes() > 256 { labels } else { labels.to_dtype(DType::U8)? };
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
    ExitRecord::from_logits(logits, labels).map_err(|error| format!("{name}: {error}"))
}
