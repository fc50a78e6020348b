//! The file format of checkpoints and exit records: safetensors whose header holds a format version, what
//! the file says about itself, and a checksum over all of it, so that damage anywhere is noticed.

use crate::{Error, Result, bail, error, files};
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, View, tensor::TensorView};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::io::Read;
use std::path::Path;

/// The version that is written. A reader of a later version must continue to read the earlier ones that
/// it accepts here.
const FORMAT: u32 = 2;

/// Numbers of JSON, which has neither infinity nor NaN: serde_json writes null, which is read as `null`.
pub(crate) fn numbers<'de, D: Deserializer<'de>>(
    json: D,
    null: f64,
) -> std::result::Result<Vec<f64>, D::Error> {
    let written = Vec::<Option<f64>>::deserialize(json)?;
    Ok(written.into_iter().map(|number| number.unwrap_or(null)).collect())
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// A kind of file.
pub struct Kind {
    /// As its header says.
    pub kind: &'static str,
    /// For messages: `checkpoint`.
    pub noun: &'static str,
    /// What to do about a damaged one.
    pub remedy: &'static str,
}

/// What is in a file.
pub struct Contents<T> {
    /// What it says about itself.
    pub about: T,
    pub tensors: Tensors,
    /// Its path, for messages.
    pub origin: String,
}

impl<T> Contents<T> {
    /// The tensor called `name`. Fails where `network` needs another shape, or there is none.
    pub fn tensor(&self, name: &str, shape: &[usize], network: &str) -> Result<&Tensor> {
        let origin = &self.origin;
        match self.tensors.get(name) {
            Some(tensor) if tensor.dims() == shape => Ok(tensor),
            Some(tensor) => {
                bail!(Shape, "{origin}: {name} is {:?}, but {network} needs {shape:?}", tensor.dims())
            }
            None => bail!(Shape, "{origin} has no {name}, which {network} needs"),
        }
    }
}

impl Kind {
    /// The bytes of a file of this kind with what it says about itself.
    pub fn seal(&self, about: &impl Serialize, tensors: &Tensors) -> Result<Vec<u8>> {
        let about = serde_json::to_string(about)?;
        let header = HashMap::from([
            ("format".to_string(), FORMAT.to_string()),
            ("kind".to_string(), self.kind.to_string()),
            ("crc32".to_string(), self.checksum(&about, tensors.iter())),
            ("about".to_string(), about),
        ]);
        Ok(safetensors::serialize(tensors, Some(header))?)
    }

    /// Reads a file that holds what [`Self::seal`] made. Fails, naming it, where it is missing or damaged.
    pub fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Contents<T>> {
        self.open(path, &files::read(path)?)
    }

    /// [`Self::read`] of these bytes, which came from `path`.
    pub fn open<T: DeserializeOwned>(&self, path: &Path, bytes: &[u8]) -> Result<Contents<T>> {
        let (about, tensors) = self.parts(bytes).map_err(|what| match self.other(bytes) {
            Some(other) => {
                let (path, noun) = (path.display(), self.noun);
                error!(File, "{path} is no {noun}: it is {other}; name a {noun} that branchynet wrote")
            }
            None => self.broken(path, what),
        })?;
        Ok(Contents { about, tensors, origin: path.display().to_string() })
    }

    /// That the file at `path` is damaged, and how.
    pub fn broken(&self, path: &Path, what: impl Display) -> Error {
        error!(File, "{} is not a whole {} ({what}); {}", path.display(), self.noun, self.remedy)
    }

    /// What a file of safetensors is that is not of this kind.
    fn other(&self, bytes: &[u8]) -> Option<String> {
        let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
        let get = |name: &str| header.metadata().as_ref().and_then(|header| header.get(name));
        match (get("format"), get("kind")) {
            (Some(_), Some(kind)) if kind == self.kind => None,
            (Some(_), Some(kind)) => Some(format!("a file of branchynet's kind {kind:?}")),
            _ => Some("a file of tensors by another program".to_string()),
        }
    }

    fn parts<T: DeserializeOwned>(&self, bytes: &[u8]) -> std::result::Result<(T, Tensors), String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let header = header.metadata().as_ref();
        let get = |name: &str| header.and_then(|header| header.get(name));
        let format = get("format").ok_or("it does not say what it is")?;
        if get("kind").is_none_or(|found| found != self.kind) {
            return Err("it is something else".to_string());
        }
        if *format != FORMAT.to_string() {
            return Err(format!("it has format {format}, and this version reads format {FORMAT}"));
        }
        let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let about = get("about").ok_or("it does not say what it is")?;
        let views = BTreeMap::from_iter(file.iter());
        if get("crc32") != Some(&self.checksum(about, views.iter())) {
            return Err("its checksum does not fit its content".to_string());
        }
        let load = |(name, view): (&&str, &TensorView<'_>)| Ok((name.to_string(), view.load(&Device::Cpu)?));
        let tensors = views.iter().map(load).collect::<candle_core::Result<_>>();
        let about = serde_json::from_str(about).map_err(|error| error.to_string())?;
        Ok((about, tensors.map_err(|error| error.to_string())?))
    }

    /// Of tensors in the order of their names.
    fn checksum<N: AsRef<str>, V: View>(&self, about: &str, tensors: impl Iterator<Item = (N, V)>) -> String {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.kind.as_bytes());
        hasher.update(about.as_bytes());
        for (name, view) in tensors {
            hasher.update(name.as_ref().as_bytes());
            hasher.update(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
            hasher.update(&view.data());
        }
        format!("{:08x}", hasher.finalize())
    }
}

/// What a file that [`Kind::seal`] made says about itself, from its first bytes and unchecked; `None` where it
/// cannot be read.
pub fn peek<T: DeserializeOwned>(mut file: impl Read) -> Option<T> {
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    serde_json::from_str(header["__metadata__"]["about"].as_str()?).ok()
}

/// The checksum that names what these settings made: of the settings as JSON, without those that have
/// their default values, so that a new setting with a default renames nothing.
pub fn identity<T: Serialize>(settings: &T, defaults: &T) -> Result<String> {
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
