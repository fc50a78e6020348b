//! What an experiment gave, in one compressed file: the logits of every exit for every validation
//! and test image, the settings and histories of the training, and the commit. Every figure but the
//! timings follows from it, without data and without the network.

use crate::arrays;
use crate::choices::Choice;
use crate::experiment::{Experiment, Trained};
use crate::foreign::{self, Foreign};
use crate::run_info::RunInfo;
use crate::settings::Settings;
use crate::sources::Source;
use branchynet::checked_file::{self, Contents, Kind, Tensors};
use branchynet::data::{Dataset, Test, Validation};
use branchynet::exits::{Criterion, ExitRecord, Readout, for_accuracy, knee};
use branchynet::files::{commit, project_dir, shown};
use branchynet::networks::Network;
use branchynet::training::{Epoch, Run};
use branchynet::{Result, error, files};
use candle_core::{Device, Tensor};
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What an experiment gave.
#[derive(Debug, Clone)]
pub struct Results {
    /// How it was made.
    pub run: RunInfo,
    /// When it was evaluated, in seconds since 1970.
    pub made: u64,
    /// Where this came from, in a line: a record and its file, or a run and its checkpoint.
    pub origin: String,
    /// What every exit says about the validation images.
    pub validation: ExitRecord<Validation>,
    /// What every exit says about the test images.
    pub test: ExitRecord<Test>,
    /// The trunk alone, from which the joint training started; `None` where it got no epochs.
    pub baseline: Option<Baseline>,
    /// The trunk alone, trained on for the epochs of the joint training with the same schedule; `None`
    /// where that was not asked for.
    pub matched: Option<Baseline>,
    /// What it costs to leave at each exit, where that does not follow from the layers (see
    /// [`Self::of_arrays`]).
    pub costs: Option<Vec<f64>>,
    /// What is odd about arrays from elsewhere, and what to do: for those who read them.
    pub warnings: Vec<String>,
}

impl AsRef<RunInfo> for Results {
    fn as_ref(&self) -> &RunInfo {
        &self.run
    }
}

/// A network without branches, for comparison.
#[derive(Debug, Clone)]
pub struct Baseline {
    /// Its epochs, for the matched baseline those after the first.
    pub history: Vec<Epoch>,
    /// What it says about the test images.
    pub test: ExitRecord<Test>,
}

impl Baseline {
    fn collect((network, run): &(Network, Run), data: &Dataset) -> Result<Self> {
        let test = ExitRecord::collect(network, &data.test)?;
        Ok(Self { history: run.history.clone(), test })
    }

    /// Share of the test images that it answers correctly (0..=1).
    pub fn accuracy(&self) -> f64 {
        self.test.exit_accuracy()[0]
    }

    /// Accuracy on the validation images after its last epoch (0..=1).
    pub fn validation_accuracy(&self) -> f64 {
        self.history.last().map_or(f64::NAN, |epoch| epoch.validation.accuracy[0])
    }
}

/// What a record of an ONNX file is of. It is kept with the arrays ([`Results::write_arrays`]), so that thresholds of one
/// network are not given to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// [`crate::OnnxFile::digest`] of the file.
    pub digest: String,
    /// The outputs that were recorded, in this order.
    pub exits: Vec<String>,
    /// The data set, and what its classes are called.
    pub data: String,
    pub classes: Vec<String>,
    /// What was taken off pixels from 0 to 1, and what they were divided by then: one number, or one a channel. None of a file
    /// that takes bytes.
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
}

impl Recording {
    /// What the record in this file is of; `None` where it does not say, as arrays from elsewhere do not. Fails where the file
    /// cannot be opened.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        Ok(checked_file::peek(std::fs::File::open(path)?))
    }
}

/// The part of a file that is not logits.
#[derive(Serialize, Deserialize)]
struct RecordHeader {
    #[serde(flatten)]
    run: RunInfo,
    made: u64,
    baseline_history: Vec<Epoch>,
    #[serde(default)]
    matched_history: Vec<Epoch>,
}

const KIND: Kind = Kind {
    kind: "exit record",
    noun: "exit record",
    remedy: "a record is made anew with `branchynet evaluate`, or removed",
};
const EXTENSION: &str = "safetensors.gz";

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Results {
    /// Runs the trained networks once over the validation and test images of `data`.
    pub fn collect(experiment: &Experiment, trained: &Trained, data: &Dataset) -> Result<Self> {
        let collect = |trained: &Option<_>| {
            let trained = trained.as_ref();
            trained.map(|trained| Baseline::collect(trained, data)).transpose()
        };
        Ok(Self {
            run: RunInfo {
                settings: experiment.settings(),
                data: data.name.clone(),
                commit: commit(),
                history: trained.run.history.clone(),
            },
            made: seconds(SystemTime::now()),
            origin: format!("run {}", shown(&trained.run.checkpoint)),
            validation: ExitRecord::collect(&trained.network, &data.validation)?,
            test: ExitRecord::collect(&trained.network, &data.test)?,
            baseline: collect(&trained.baseline)?,
            matched: collect(&trained.matched)?,
            costs: None,
            warnings: Vec::new(),
        })
    }

    /// The same results, read by another criterion.
    pub fn by(&self, criterion: &Criterion) -> Self {
        let mut results = self.clone();
        if self.test.criterion() != criterion {
            results.validation = self.validation.by(criterion);
            results.test = self.test.by(criterion);
            results.baselines_by(criterion);
        }
        results
    }

    /// The same results, with the exits read in this way, the networks without branches by its criterion alone. Fails
    /// where it does not fit the exits.
    pub fn read_by(&self, readout: &Readout) -> Result<Self> {
        let (validation, test) = (self.validation.read_by(readout)?, self.test.read_by(readout)?);
        let mut results = Self { validation, test, ..self.clone() };
        results.baselines_by(&readout.criterion);
        Ok(results)
    }

    fn baselines_by(&mut self, criterion: &Criterion) {
        for baseline in self.baseline.iter_mut().chain(&mut self.matched) {
            baseline.test = baseline.test.by(criterion);
        }
    }

    /// Where [`Self::write`] puts a record of these settings by default.
    pub fn default_path(settings: &Settings) -> Result<PathBuf> {
        let identity = checked_file::identity(settings, &Settings::default())?;
        let name = settings.network.to_lowercase();
        Ok(project_dir().join(format!(
            "datasets/records/{name}-{:08x}.{EXTENSION}",
            crc32fast::hash(identity.as_bytes())
        )))
    }

    /// Writes everything to one file: safetensors, compressed by gzip.
    pub fn write(&self, path: &Path) -> Result<()> {
        let history = |of: &Option<Baseline>| of.as_ref().map_or_else(Vec::new, |b| b.history.clone());
        let about = RecordHeader {
            run: self.run.clone(),
            made: self.made,
            baseline_history: history(&self.baseline),
            matched_history: history(&self.matched),
        };
        let mut tensors = Tensors::new();
        arrays::put(&mut tensors, "validation.", &self.validation)?;
        arrays::put(&mut tensors, "test.", &self.test)?;
        for (name, baseline) in [("baseline.", &self.baseline), ("matched.", &self.matched)] {
            if let Some(baseline) = baseline {
                arrays::put(&mut tensors, name, &baseline.test)?;
            }
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&KIND.seal(&about, &tensors)?)?;
        files::write_atomically(path, &gzip.finish()?)
    }

    /// Reads a file that [`Self::write`] wrote, or one with arrays from elsewhere ([`Self::of_arrays`]). Fails,
    /// naming it, where it is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let mut head = Vec::new();
        if path.is_file() {
            std::fs::File::open(path)?.take(2).read_to_end(&mut head)?;
        }
        // What it is follows from its content, unless it is called a record. Of no file at all arrays say so.
        if head != [0x1f, 0x8b] && path.extension().is_none_or(|extension| extension != "gz") {
            return Self::of_arrays(path);
        }
        let packed = files::read(path)?;
        let (mut bytes, mut rest) = (Vec::new(), &packed[..]);
        GzDecoder::new(&mut rest).read_to_end(&mut bytes).map_err(|cause| KIND.broken(path, cause))?;
        if !rest.is_empty() {
            return Err(KIND.broken(path, format!("{} bytes too many", rest.len())));
        }
        let Contents::<RecordHeader> { about, tensors, .. } = KIND.open(path, &bytes)?;
        let broken = |what| KIND.broken(path, what);
        let baseline = |name: &str, history: Vec<Epoch>| -> Result<Option<Baseline>> {
            if !tensors.contains_key(&format!("{name}logits")) {
                return Ok(None);
            }
            let test = arrays::record(&tensors, name).map_err(broken)?;
            Ok(Some(Baseline { history, test }))
        };
        Ok(Self {
            origin: format!("record {}", shown(path)),
            run: about.run,
            made: about.made,
            validation: arrays::record(&tensors, "validation.").map_err(broken)?,
            test: arrays::record(&tensors, "test.").map_err(broken)?,
            baseline: baseline("baseline.", about.baseline_history)?,
            matched: baseline("matched.", about.matched_history)?,
            costs: None,
            warnings: Vec::new(),
        })
    }

    /// Writes what the exits of a network from elsewhere say, as arrays that [`Self::of_arrays`] reads, and what they are `of`.
    /// Returns warnings of what is probably not meant. Fails, before anything is written, where a logit is none.
    pub fn write_arrays(
        path: &Path,
        validation: &ExitRecord<Validation>,
        test: &ExitRecord<Test>,
        costs: Option<&[f64]>,
        of: Option<&Recording>,
    ) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        let wrong = |what: String| error!(File, "cannot write {}: {what}", path.display());
        foreign::check("validation", validation, &mut warnings)
            .map_err(|what| wrong(format!("validation, {what}")))?;
        foreign::check("test", test, &mut warnings).map_err(|what| wrong(format!("test, {what}")))?;
        let mut tensors = Tensors::new();
        arrays::put(&mut tensors, "validation_", validation)?;
        arrays::put(&mut tensors, "test_", test)?;
        if let Some(costs) = costs {
            tensors.insert("costs".to_string(), Tensor::new(costs, &Device::Cpu)?);
        }
        let about = of.map(serde_json::to_string).transpose()?;
        let about = about.map(|about| HashMap::from([("about".to_string(), about)]));
        files::write_atomically(path, &safetensors::serialize(&tensors, about)?)?;
        Ok(warnings)
    }

    /// Reads what the exits of a network from elsewhere say: an .npz file of numpy or a .safetensors file with the arrays
    /// `validation_logits` and `test_logits` (exits, samples, classes), `validation_labels` and `test_labels`
    /// (samples), and `costs` (exits), what it costs to leave at each, in any unit; without it, the exits cost 1, 2,
    /// and so on.
    ///
    /// ```python
    /// np.savez("mine.npz", validation_logits=v.numpy(), validation_labels=y, test_logits=t.numpy(), test_labels=z,
    ///          costs=[12e6, 40e6])
    /// ```
    ///
    /// Fails, naming file and array, where one is missing or does not fit.
    pub fn of_arrays(path: &Path) -> Result<Self> {
        let Foreign { validation, test, costs, warnings } = foreign::read(path)?;
        let data = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let settings = Settings { network: data.clone(), ..Settings::default() };
        Ok(Self {
            run: RunInfo { settings, data, ..RunInfo::default() },
            made: 0,
            origin: format!("arrays {}", shown(path)),
            validation,
            test,
            baseline: None,
            matched: None,
            costs: Some(costs),
            warnings,
        })
    }

    /// The thresholds with the fewest digits that decide as these for each validation and test image: printed and
    /// given back, they do the same. One threshold for all exits stays one.
    pub fn shortest(&self, thresholds: &[f64]) -> Vec<f64> {
        let shortest = |exits: Range<usize>| {
            let both = |exit| self.validation.predictions(exit).iter().chain(self.test.predictions(exit));
            let unsure = exits.clone().flat_map(both).map(|prediction| prediction.uncertainty);
            crate::threshold::shortest(thresholds[exits.start], unsure)
        };
        match thresholds {
            [first, others @ ..] if others.iter().all(|other| other == first) => {
                vec![shortest(0..thresholds.len()); thresholds.len()]
            }
            _ => (0..thresholds.len()).map(|exit| shortest(exit..exit + 1)).collect(),
        }
    }

    /// What it costs to leave at each exit: multiply-accumulates of the layers, or what came with arrays from
    /// elsewhere. The data need not be here.
    pub fn costs(&self) -> Result<Vec<f64>> {
        if let Some(costs) = &self.costs {
            return Ok(costs.clone());
        }
        Ok(self.network()?.macs())
    }

    /// The network that gave them, with random weights. The data need not be here.
    pub fn network(&self) -> Result<Network> {
        let Settings { network, layers, data, .. } = &self.run.settings;
        let image = Source::from(data.as_str()).image()?;
        Network::new(network, image, layers.clone(), 0, &Device::Cpu)
    }

    /// The recorded results whose settings are as wanted, of `datasets/reference/` and `datasets/records/`,
    /// in the order of their names. Of other records only the head is read.
    pub fn recorded(wanted: impl Fn(&Settings) -> bool) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for folder in ["datasets/reference", "datasets/records"] {
            for path in files::listed(folder, EXTENSION) {
                let head = BufReader::new(std::fs::File::open(&path)?);
                // What cannot be read is named by the whole reading.
                let head = checked_file::peek::<RecordHeader>(GzDecoder::new(head));
                if head.is_none_or(|about| wanted(&about.run.settings)) {
                    found.push(Self::read(&path)?);
                }
            }
        }
        Ok(found)
    }

    /// The networks without branches, named by their epochs: the one from which the joint training
    /// started, and the one with as many epochs as the network with branches.
    pub fn baselines(&self) -> Vec<(String, &Baseline)> {
        let (before, joint) = (self.run.settings.baseline_epochs, self.run.settings.config.epochs);
        // An unequal comparison says so wherever it is shown.
        let unequal = match self.matched {
            Some(_) => String::new(),
            None => format!(" (the network: {})", before + joint),
        };
        let named = [
            (format!("baseline, {before} epochs{unequal}"), &self.baseline),
            (format!("matched baseline, {before} + {joint} epochs"), &self.matched),
        ];
        named.into_iter().filter_map(|(name, baseline)| Some((name, baseline.as_ref()?))).collect()
    }

    /// Hours that baseline and joint training took, without the matched baseline.
    pub fn hours(&self) -> f64 {
        let baseline = self.baseline.iter().flat_map(|baseline| &baseline.history);
        baseline.chain(&self.run.history).map(|epoch| epoch.seconds).sum::<f64>() / 3600.0
    }

    /// How this was made, for the subtitle of a figure: `CIFAR-10, 20 + 40 epochs, seed 0; record …`.
    pub fn caption(&self) -> String {
        if self.costs.is_some() {
            return self.origin.clone();
        }
        format!("{}; {}", RunInfo::caption(&[&self.run]), self.origin)
    }

    /// Choices for every network, given what it costs to leave at each exit:
    ///
    /// - *no loss*: the cheapest without loss against the last exit, on Validation;
    /// - *1 % less*: the cheapest that loses no more than one percent of the images there;
    /// - *like the baseline*: the cheapest as accurate there as the baseline with as many epochs as this
    ///   network, or with fewer where there is no other, if that accuracy is reached;
    /// - *knee*: where more speed begins to cost much accuracy.
    pub fn choices(&self, costs: &[f64]) -> Result<Vec<Choice>> {
        let validation = &self.validation;
        let mut choices = Vec::new();
        let mut add = |name: &str, thresholds: &[f64]| -> Result<()> {
            choices.push(self.choice(name, thresholds, costs)?);
            Ok(())
        };
        let last_exit = validation.last_accuracy();
        let front = validation.pareto_front(costs)?;
        for (name, floor) in [("no loss", last_exit), ("1 % less", last_exit - 0.01)] {
            add(name, &for_accuracy(&front, floor)?.thresholds)?;
        }
        if let Some((_, baseline)) = self.baselines().last()
            && let Ok(chosen) = for_accuracy(&front, baseline.validation_accuracy())
        {
            add("like the baseline", &chosen.thresholds)?;
        }
        if let Some(knee) = knee(&front) {
            add("knee", &knee.thresholds)?;
        }
        Ok(choices)
    }

    /// Thresholds that were chosen on Validation, under a name of their own and as [`Self::shortest`] writes them, and
    /// what they give on the test images.
    pub fn choice(&self, name: &str, thresholds: &[f64], costs: &[f64]) -> Result<Choice> {
        let test = self.test.operating_point(&self.shortest(thresholds), costs)?;
        Ok(Choice::new(name, &test))
    }
}
