//! The file format of checkpoints and exit records: safetensors whose header holds a format version, what
//! the file says about itself, and a checksum over all of it, so that damage anywhere is noticed.

use crate::Result;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::io::Read;

/// The version that is written. A reader of a later version must continue to read the earlier ones that
/// it accepts here.
const FORMAT: u32 = 2;

/// A tensor as bytes: name, element type, shape, little-endian values.
pub(crate) type TensorBytes = (String, Dtype, Vec<usize>, Vec<u8>);

/// The bytes of a file of this kind ("checkpoint", …) with what it says about itself.
pub(crate) fn seal(kind: &str, about: &impl Serialize, mut parts: Vec<TensorBytes>) -> Result<Vec<u8>> {
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let about = serde_json::to_string(about)?;
    let views = parts
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name.clone(), TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>>>()?;
    let sums = views.iter().map(|(name, view)| (name.as_str(), view));
    let header = HashMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("kind".to_string(), kind.to_string()),
        ("crc32".to_string(), checksum(kind, &about, sums)),
        ("about".to_string(), about.clone()),
    ]);
    Ok(safetensors::serialize(views, Some(header))?)
}

/// Opens what [`seal`] made: what it says about itself, and its tensors. The error is what is wrong, as
/// part of a sentence.
pub(crate) fn open<'a, T: DeserializeOwned>(
    kind: &str,
    bytes: &'a [u8],
) -> std::result::Result<(T, SafeTensors<'a>), String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let header = header.metadata().as_ref();
    let get = |name: &str| header.and_then(|header| header.get(name));
    let format = get("format").ok_or("it does not say what it is")?;
    if get("kind").is_none_or(|found| found != kind) {
        return Err("it is something else".to_string());
    }
    if *format != FORMAT.to_string() {
        return Err(format!("it has format {format}, and this version reads format {FORMAT}"));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let about = get("about").ok_or("it does not say what it is")?;
    let mut views: Vec<_> = file.iter().collect();
    views.sort_by_key(|(name, _)| *name);
    let sum = checksum(kind, about, views.iter().map(|(name, view)| (*name, view)));
    if get("crc32") != Some(&sum) {
        return Err("its checksum does not fit its content".to_string());
    }
    let about = serde_json::from_str(about).map_err(|error| error.to_string())?;
    Ok((about, file))
}

/// What a file that [`seal`] made says about itself, from its first bytes and unchecked; `None` where it
/// cannot be read.
pub(crate) fn peek<T: DeserializeOwned>(mut file: impl Read) -> Option<T> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    serde_json::from_str(header["__metadata__"]["about"].as_str()?).ok()
}

fn checksum<'a, 'b: 'a>(
    kind: &str,
    about: &str,
    views: impl Iterator<Item = (&'a str, &'a TensorView<'b>)>,
) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind.as_bytes());
    hasher.update(about.as_bytes());
    for (name, view) in views {
        hasher.update(name.as_bytes());
        hasher.update(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        hasher.update(view.data());
    }
    format!("{:08x}", hasher.finalize())
}

/// f32 values as the bytes of a tensor.
pub(crate) fn bytes_of(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The f32 values of a tensor's bytes.
pub(crate) fn values_of(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// The checksum that names what these settings made: of the settings as JSON, without those that have
/// their default values, so that a new setting with a default renames nothing.
pub(crate) fn identity<T: Serialize>(settings: &T, defaults: &T) -> Result<String> {
    use serde_json::Value;
    let (mut settings, defaults) = (serde_json::to_value(settings)?, serde_json::to_value(defaults)?);
    fn strip(value: &mut Value, default: &Value) {
        if let (Value::Object(fields), Value::Object(defaults)) = (value, default) {
            fields.retain(|name, value| {
                let default = defaults.get(name);
                if value.is_object()
                    && let Some(default) = default
                {
                    strip(value, default);
                }
                Some(&*value) != default
            });
        }
    }
    strip(&mut settings, &defaults);
    Ok(settings.to_string())
}
