//! Trained weights in a file of their own, with what it takes to use them: the list of layers, how bytes
//! become pixels, the names of the classes, and exit policies. `datasets/reference/weights/` holds those of
//! the reference runs.

use crate::choices::Choice;
use crate::experiment::Trained;
use crate::results::Results;
use crate::settings::Settings;
use branchynet::checked_file::{self, Contents, Kind, Tensors};
use branchynet::data::Dataset;
use branchynet::exits::{Criterion, ExitPolicy, ExitRecord, Loss};
use branchynet::files::project_dir;
use branchynet::networks::Network;
use branchynet::{Result, bail, files};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A trained network with all that it takes to use it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pretrained {
    /// The network with its branches.
    pub network: Network,
    /// How it was trained, and on what.
    pub about: WeightsHeader,
    /// What each byte of an image becomes in each channel: (channels, 256) values.
    pub(super) bytes: Vec<f32>,
    /// The bits of its weights, where they are whole numbers ([`Self::quantized`]).
    pub(super) weight_bits: Option<u32>,
}

/// What a file of weights says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WeightsHeader {
    /// All that decides the result of the training.
    pub settings: Settings,
    /// Channels, height and width of an image.
    pub image: [usize; 3],
    /// The data set's name: `CIFAR-10`.
    pub data: String,
    /// The names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// The commit that trained it.
    pub commit: String,
    /// Policies that were chosen on Validation, cheapest in multiply-accumulates, by what they were chosen for.
    #[serde(default)]
    pub policies: Vec<(String, ExitPolicy)>,
    /// Older files have one criterion, and for each choice thresholds alone; null is infinite.
    #[serde(default, skip_serializing)]
    criterion: Criterion,
    #[serde(default, skip_serializing)]
    thresholds: Vec<(String, Vec<Option<f64>>)>,
}

const KIND: Kind =
    Kind { kind: "weights", noun: "file of weights", remedy: "make it anew with `branchynet export`" };

impl Results {
    /// Policies by what they are chosen for: those of [`Self::choices`] at these costs of the exits, and one that changes at most
    /// 1 % of the answers, guaranteed, where there are images enough to promise that. Fails for a criterion of one's own, which no
    /// file can hold.
    pub fn policies(&self, costs: &[f64]) -> Result<Vec<(String, ExitPolicy)>> {
        let validation = &self.validation;
        if let own @ Criterion::Own(_) = validation.criterion() {
            bail!(
                Setting,
                "no file can hold the criterion {own}, which is a program's own; use another with results.by(…)"
            )
        }
        let policy = |choice: Choice| (choice.name, validation.policy(&choice.thresholds));
        let mut policies: Vec<_> = self.choices(costs)?.into_iter().map(policy).collect();
        if validation.len() >= ExitRecord::images_needed(validation.exits(), 0.01, 0.05) {
            let mut policy = validation.promise(Loss::Different, 0.01, 0.05, costs)?;
            policy.thresholds = self.shortest(&policy.thresholds);
            policies.push(("1 % guaranteed".to_string(), policy));
        }
        Ok(policies)
    }
}

/// The policy of a choice, such as `no loss`. Fails, naming the choices, where it is not there.
pub fn policy_for<'a>(policies: &'a [(String, ExitPolicy)], choice: &str) -> Result<&'a ExitPolicy> {
    match policies.iter().find(|(name, _)| name == choice) {
        Some((_, policy)) => Ok(policy),
        None => {
            let names: Vec<&str> = policies.iter().map(|(name, _)| name.as_str()).collect();
            bail!(Missing, "there is no choice {choice:?}, there are: {}", names.join(", "))
        }
    }
}

impl Pretrained {
    /// The weights of a trained network, and policies that read its exits as `results` does, which it gave on `data`:
    /// [`Results::policies`]. Fails where images are whitened: the whitening is larger than the network; and for a
    /// criterion of one's own, which no file can hold.
    pub fn of(trained: &Trained, results: &Results, data: &Dataset) -> Result<Self> {
        let Some(bytes) = data.byte_values() else {
            bail!(Setting, "weights are kept for preprocessing by unit or channels only, not by zca")
        };
        let about = WeightsHeader {
            settings: results.run.settings.clone(),
            image: data.test.image_shape(),
            data: data.name.clone(),
            classes: data.classes.clone(),
            commit: results.run.commit.clone(),
            policies: results.policies(&trained.network.macs())?,
            criterion: Criterion::default(),
            thresholds: Vec::new(),
        };
        Ok(Self { network: trained.network.clone(), about, bytes, weight_bits: None })
    }

    /// The same weights with policies that are chosen anew, as [`Self::of`] does, on what their run gave.
    pub fn choosing(mut self, results: &Results) -> Result<Self> {
        self.about.policies = results.policies(&self.network.macs())?;
        Ok(self)
    }

    /// The same network as an int8 runtime computes it ([`Network::quantized`]): weights of `bits` bits, activations in the range
    /// that they have on the first 500 training images. Its policies are chosen anew, as [`Self::of`] does, on what it says of
    /// the validation images, read as in `results`; that comes with it.
    pub fn quantized(&self, results: &Results, data: &Dataset, bits: u32) -> Result<(Self, Results)> {
        let images: Vec<usize> = (0..data.train.len().min(500)).collect();
        let network = self.network.quantized(&data.train.batch(&images, self.network.device())?, bits)?;
        let readout = results.test.readout();
        let results = Results {
            validation: ExitRecord::collect(&network, &data.validation)?.read_by(readout)?,
            test: ExitRecord::collect(&network, &data.test)?.read_by(readout)?,
            ..results.clone()
        };
        let weights = Self { network, weight_bits: Some(bits), ..self.clone() };
        Ok((weights.choosing(&results)?, results))
    }

    /// Where the weights of the reference run called `name` are: `lenet`, for example.
    pub fn path(name: &str) -> PathBuf {
        project_dir().join(format!("datasets/reference/weights/{name}.safetensors"))
    }

    /// The files of weights that there are, in the order of their names.
    fn paths() -> Vec<PathBuf> {
        files::listed("datasets/reference/weights", ".safetensors")
    }

    /// The names of the weights that there are.
    pub fn names() -> Vec<String> {
        let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        Self::paths().iter().filter_map(stem).collect()
    }

    /// Loads the weights of a reference run. Fails, naming those that there are, where there are none of
    /// this name.
    pub fn named(name: &str, device: &Device) -> Result<Self> {
        let path = Self::path(name);
        if path.exists() {
            return Self::read(&path, device);
        }
        let names = Self::names();
        bail!(
            Missing,
            "there are no trained weights of {name:?} in {}, which holds: {}; `branchynet export` writes those of a finished run, and BRANCHYNET_DIR names the folder that datasets/ is in",
            path.parent().unwrap_or(&path).display(),
            if names.is_empty() { "none".to_string() } else { names.join(", ") }
        )
    }

    /// The weights of the reference run of these settings; `None` where there is none.
    pub fn of_settings(settings: &Settings, device: &Device) -> Result<Option<Self>> {
        for path in Self::paths() {
            let about: Option<WeightsHeader> = checked_file::peek(std::fs::File::open(&path)?);
            // What cannot be read is named by the whole reading.
            if about.is_none_or(|about| about.settings == *settings) {
                return Self::read(&path, device).map(Some);
            }
        }
        Ok(None)
    }

    /// Loads a file that [`Self::write`] wrote. Fails, naming it, where it is missing or damaged.
    pub fn read(path: &Path, device: &Device) -> Result<Self> {
        let mut contents: Contents<WeightsHeader> = KIND.read(path)?;
        let about = &mut contents.about;
        for (name, thresholds) in std::mem::take(&mut about.thresholds) {
            let thresholds = thresholds.into_iter().map(|t| t.unwrap_or(f64::INFINITY)).collect::<Vec<_>>();
            about.policies.push((name, ExitPolicy::new(about.criterion.clone(), thresholds)));
        }
        let Settings { network: name, layers, .. } = &contents.about.settings;
        let network = Network::new(name, contents.about.image, layers.clone(), 0, device)?;
        let bytes = contents.tensor("bytes", &[contents.about.image[0], 256], name)?;
        let bytes = bytes.flatten_all()?.to_vec1()?;
        network.load(&contents)?;
        Ok(Self { network, about: contents.about, bytes, weight_bits: None })
    }

    /// Writes everything to one file: safetensors with a checksum over all of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let state = self.network.state().into_iter();
        let mut tensors: Tensors = state.map(|(name, var)| (name, var.into_inner())).collect();
        let bytes = Tensor::from_slice(&self.bytes, (self.about.image[0], 256), &Device::Cpu)?;
        tensors.insert("bytes".to_string(), bytes);
        files::write_atomically(path, &KIND.seal(&self.about, &tensors)?)
    }

    /// Images of one byte for each value (channels × height × width each, one after another) as the
    /// network sees them: (images, channels, height, width). Fails where the length does not fit.
    pub fn images(&self, bytes: &[u8]) -> Result<Tensor> {
        let [channels, height, width] = self.about.image;
        let size = channels * height * width;
        if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            bail!(Shape, "an image has {channels}×{height}×{width} bytes, got {} bytes", bytes.len())
        }
        let value = |(i, &byte): (usize, &u8)| {
            let channel = i / (height * width) % channels;
            self.bytes[channel * 256 + usize::from(byte)]
        };
        let pixels: Vec<f32> = bytes.iter().enumerate().map(value).collect();
        let shape = (bytes.len() / size, channels, height, width);
        Ok(Tensor::from_vec(pixels, shape, self.network.device())?)
    }

    /// The policy of a choice, such as `no loss`: it decides as the record did that it was chosen on. Fails, naming the
    /// choices, where it is not there.
    pub fn policy(&self, choice: &str) -> Result<&ExitPolicy> {
        policy_for(&self.about.policies, choice)
    }
}
