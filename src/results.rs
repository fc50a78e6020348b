//! What an experiment gave, in one compressed file: the logits of every exit for every validation
//! and test image, the settings and histories of the training, and the commit. Every figure but the
//! timings follows from it, without data and without the network.

use crate::data::{Dataset, Preprocessing, Test, Validation, project_dir, write_atomically};
use crate::error::bail;
use crate::experiment::{Experiment, Trained};
use crate::precision::Precision;
use crate::record::ExitRecord;
use crate::train::{Config, Epoch};
use crate::{Error, Result};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use polars::prelude::{DataFrame, df};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// All that decides what an experiment gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `B-AlexNet`.
    pub network: String,
    /// The list of layers.
    pub layers: String,
    /// `cifar10` or `mnist`.
    pub data: String,
    /// How images are prepared.
    pub preprocessing: Preprocessing,
    /// Images trained on, where not all.
    pub train_images: Option<usize>,
    /// Images validated and tested on, where not all.
    #[serde(default)]
    pub test_images: Option<usize>,
    /// Epochs of the baseline.
    pub baseline_epochs: usize,
    /// The joint training.
    pub config: Config,
}

impl Settings {
    /// A table of all settings, with the data set's full name, what was timed, and the commit of now.
    pub fn frame(&self, data: &str, timed: &str) -> Result<DataFrame> {
        let c = &self.config;
        let rows = [
            ("network", self.network.clone()),
            ("data", data.to_string()),
            ("preprocessing", self.preprocessing.to_string()),
            ("augmented", c.augment.to_string()),
            (
                "epochs: baseline, joint",
                format!("{}, {}", self.baseline_epochs, c.epochs),
            ),
            ("batch size", c.batch_size.to_string()),
            (
                "Adam: step size, final share, betas",
                format!(
                    "{}, {}, {}, {}",
                    c.learning_rate, c.final_learning_rate, c.beta1, c.beta2
                ),
            ),
            ("exit weights", format!("{:?}", c.exit_weights)),
            ("products in", c.precision.to_string()),
            ("seed", c.seed.to_string()),
            ("timed on", timed.to_string()),
            ("commit of the timing", crate::notebook::commit()),
        ];
        let (names, values): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        Ok(df!("setting" => names, "value" => values)?)
    }
}

/// What an experiment gave.
#[derive(Debug, Clone)]
pub struct Results {
    /// How it was made.
    pub settings: Settings,
    /// The data set's name: `CIFAR-10`.
    pub data: String,
    /// The commit that evaluated it.
    pub commit: String,
    /// When, in seconds since 1970.
    pub made: u64,
    /// Where this came from, in a line: a record and its file, or a run and its checkpoint.
    pub origin: String,
    /// The baseline's epochs.
    pub baseline_history: Vec<Epoch>,
    /// The joint training's epochs.
    pub history: Vec<Epoch>,
    /// What every exit says about the validation images.
    pub validation: ExitRecord<Validation>,
    /// What every exit says about the test images.
    pub test: ExitRecord<Test>,
    /// What the baseline says about the test images; `None` where none was trained.
    pub baseline: Option<ExitRecord<Test>>,
}

/// The part of a file that is not logits.
#[derive(Serialize, Deserialize)]
struct Header {
    settings: Settings,
    data: String,
    commit: String,
    made: u64,
    baseline_history: Vec<Epoch>,
    history: Vec<Epoch>,
}

const HEADER: &str = "branchynet-results";
const EXTENSION: &str = "safetensors.gz";

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn shown(path: &Path) -> String {
    let path = path.strip_prefix(project_dir()).unwrap_or(path);
    path.display().to_string()
}

impl Results {
    /// Runs the trained networks once over the validation and test images of `data`.
    pub fn collect(experiment: &Experiment, trained: &Trained, data: &Dataset) -> Result<Self> {
        let baseline = trained.baseline.as_ref();
        let collect = |network| ExitRecord::collect(network, &data.test);
        Ok(Self {
            settings: experiment.settings(),
            data: data.name.clone(),
            commit: crate::notebook::commit(),
            made: seconds(SystemTime::now()),
            origin: format!("run {}", shown(&trained.run.checkpoint)),
            baseline_history: baseline.map_or_else(Vec::new, |(_, run)| run.history.clone()),
            history: trained.run.history.clone(),
            validation: ExitRecord::collect(&trained.network, &data.validation)?,
            test: collect(&trained.network)?,
            baseline: baseline.map(|(network, _)| collect(network)).transpose()?,
        })
    }

    /// Where [`Self::write`] puts a record of these settings by default.
    pub fn default_path(settings: &Settings) -> Result<PathBuf> {
        let identity = crc32fast::hash(serde_json::to_string(settings)?.as_bytes());
        let name = settings.network.to_lowercase();
        Ok(project_dir().join(format!(
            "datasets/records/{name}-{identity:08x}.{EXTENSION}"
        )))
    }

    /// Writes everything to one file: safetensors, compressed by gzip.
    pub fn write(&self, path: &Path) -> Result<()> {
        let header = Header {
            settings: self.settings.clone(),
            data: self.data.clone(),
            commit: self.commit.clone(),
            made: self.made,
            baseline_history: self.baseline_history.clone(),
            history: self.history.clone(),
        };
        let mut parts = vec![
            ("validation", record_parts(&self.validation)),
            ("test", record_parts(&self.test)),
        ];
        if let Some(baseline) = &self.baseline {
            parts.push(("baseline", record_parts(baseline)));
        }
        let mut views = Vec::new();
        for (split, (shape, logits, labels)) in &parts {
            views.push((
                format!("{split}.logits"),
                TensorView::new(Dtype::F32, shape.clone(), logits)?,
            ));
            views.push((
                format!("{split}.labels"),
                TensorView::new(Dtype::U8, vec![labels.len()], labels)?,
            ));
        }
        let about = HashMap::from([(HEADER.to_string(), serde_json::to_string(&header)?)]);
        let bytes = safetensors::serialize(views, Some(about))?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&bytes)?;
        write_atomically(path, &gzip.finish()?)
    }

    /// Reads a file that [`Self::write`] wrote. Fails, naming it, where it is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let origin = path.display();
        let broken = |what: String| {
            Error::new(format!(
                "{origin} is not a whole exit record ({what}); remove it, or make it anew with `branchynet evaluate`"
            ))
        };
        let packed = std::fs::read(path)
            .map_err(|error| Error::new(format!("cannot read {origin}: {error}")))?;
        let mut bytes = Vec::new();
        GzDecoder::new(&packed[..])
            .read_to_end(&mut bytes)
            .map_err(|error| broken(error.to_string()))?;
        let (_, about) =
            SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let header = about
            .metadata()
            .as_ref()
            .and_then(|about| about.get(HEADER))
            .ok_or_else(|| broken("it does not say what it is".to_string()))?;
        let header: Header =
            serde_json::from_str(header).map_err(|error| broken(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
        let part = |split: &str| -> Result<(Vec<Vec<f32>>, Vec<u8>)> {
            let get = |name: &str, dtype| match file.tensor(&format!("{split}.{name}")) {
                Ok(tensor) if tensor.dtype() == dtype => Ok(tensor),
                _ => bail!("{}", broken(format!("{split}.{name} is missing"))),
            };
            let (logits, labels) = (get("logits", Dtype::F32)?, get("labels", Dtype::U8)?);
            let (floats, _) = logits.data().as_chunks::<4>();
            let floats: Vec<f32> = floats.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let exits = logits.shape().first().copied().unwrap_or(0).max(1);
            let rows = floats.chunks((floats.len() / exits).max(1));
            Ok((rows.map(<[f32]>::to_vec).collect(), labels.data().to_vec()))
        };
        let (validation, test) = (part("validation")?, part("test")?);
        let baseline = match file.tensor("baseline.logits") {
            Ok(_) => {
                let (logits, labels) = part("baseline")?;
                Some(ExitRecord::from_logits(logits, labels)?)
            }
            Err(_) => None,
        };
        Ok(Self {
            origin: format!("record {}", shown(path)),
            settings: header.settings,
            data: header.data,
            commit: header.commit,
            made: header.made,
            baseline_history: header.baseline_history,
            history: header.history,
            validation: ExitRecord::from_logits(validation.0, validation.1)?,
            test: ExitRecord::from_logits(test.0, test.1)?,
            baseline,
        })
    }

    /// All records in a folder, in the order of their names; none where it is not there.
    pub fn all_in(folder: &Path) -> Result<Vec<Self>> {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Ok(Vec::new());
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.retain(|path| path.to_string_lossy().ends_with(EXTENSION));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Accuracy of the baseline on the test images (0..=1), where one was trained.
    pub fn baseline_accuracy(&self) -> Option<f64> {
        Some(self.baseline.as_ref()?.exit_accuracy()[0])
    }

    /// How this was made, for the face of a figure: `CIFAR-10, 20 + 40 epochs, seed 0; record …`.
    pub fn caption(&self) -> String {
        let (s, c) = (&self.settings, &self.settings.config);
        let mut on: Vec<&str> = self.history.iter().map(|e| e.device.as_str()).collect();
        on.dedup();
        on.retain(|device| !matches!(*device, "" | "CPU"));
        let precision = match c.precision {
            Precision::F32 => String::new(),
            precision => format!(" in {precision}"),
        };
        let trained = if on.is_empty() {
            String::new()
        } else {
            format!(", trained on {}{precision}", on.join(" and "))
        };
        format!(
            "{}, {} + {} epochs, {}augmented, seed {}{trained}; {}",
            self.data,
            s.baseline_epochs,
            c.epochs,
            if c.augment { "" } else { "not " },
            c.seed,
            self.origin
        )
    }
}

/// Shape, logits (exits, samples, classes) and labels of a record, as bytes.
fn record_parts<R: crate::data::Role>(record: &ExitRecord<R>) -> (Vec<usize>, Vec<u8>, Vec<u8>) {
    let exits = record.exits();
    let logits: Vec<u8> = (0..exits)
        .flat_map(|exit| record.logits(exit))
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let classes = record.logits(0).len() / record.len();
    (
        vec![exits, record.len(), classes],
        logits,
        record.labels().to_vec(),
    )
}
