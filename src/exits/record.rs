//! One pass, every threshold: the exits' outputs do not depend on the thresholds, so a single
//! forward pass over a split answers every question about them. (The original code ran the network
//! anew for each combination.)

use super::classify::Engine;
use super::criterion::{Criterion, Prediction, Seen};
use super::operating_point::OperatingPoint;
use super::policy::{self, Answer, ExitPolicy, Exits};
use super::readout::Readout;
use crate::data::{Role, Split};
use crate::networks::Network;
use crate::training::EVALUATION_BATCH;
use crate::{Result, bail};
use rayon::prelude::*;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// What every exit says about every sample of a split, read in one way. A record of
/// [`crate::data::Test`] reports; only one of [`crate::data::Validation`] chooses.
///
/// ```
/// use branchynet::prelude::*;
///
/// // Two exits, two samples, two classes: exit 1 is sure of the first sample and wrong about the second.
/// let logits = vec![vec![5.0, 0.0, 0.3, 0.0], vec![5.0, 0.0, 0.0, 5.0]];
/// let record = ExitRecord::<Validation>::from_logits(logits, vec![0, 1])?;
/// // Leaving at exit 1 costs 1, going to the end costs 4.
/// let chosen = record.choose_for_accuracy(1.0, &[1.0, 4.0])?;
/// assert_eq!((chosen.leaving.as_slice(), chosen.cost), (&[1, 1][..], 2.5));
/// assert_eq!(format!("{record:?}"), "2 samples at 2 exits, by entropy");
/// // The same thresholds for the network itself.
/// let policy = record.policy(&chosen.thresholds);
/// assert_eq!(policy.readout.criterion, Criterion::Entropy);
/// # Ok::<(), branchynet::Error>(())
/// ```
#[derive(Clone)]
pub struct ExitRecord<R> {
    /// For every exit the logits that the network gave, samples one after another; records that are read otherwise share
    /// them.
    raw: Arc<Vec<Vec<f32>>>,
    /// What the exits answer by: the same, unless temperatures or other exits change them.
    logits: Arc<Vec<Vec<f32>>>,
    labels: Vec<u32>,
    readout: Readout,
    /// For every exit and sample what follows from the logits.
    predictions: Vec<Vec<Prediction>>,
    role: PhantomData<R>,
}

/// What a notebook cell shows that ends in a record: not every logit.
impl<R: Role> fmt::Debug for ExitRecord<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples at {} exits, by {}", self.len(), self.exits(), self.criterion())
    }
}

impl<R: Role> ExitRecord<R> {
    /// Runs `network` once over `split`. The criterion is the entropy; see [`Self::by`].
    pub fn collect(network: &Network, split: &Split<R>) -> Result<Self> {
        let mut logits = vec![Vec::with_capacity(split.len() * network.classes()); network.exits()];
        let samples: Vec<usize> = (0..split.len()).collect();
        let mut engine = Engine::new(network)?;
        for batch in samples.chunks(EVALUATION_BATCH) {
            let of_exits = engine.logits(&split.batch(batch, network.device())?)?;
            for (all, of_exit) in logits.iter_mut().zip(of_exits) {
                all.extend(of_exit);
            }
        }
        Self::from_logits(logits, split.labels().to_vec())
    }

    /// [`Self::collect`] of the mean logits of six views of each image (test-time augmentation, as in Keller
    /// Jordan's airbench, <https://arxiv.org/abs/2404.00498>): the image, and moved by a pixel along its diagonal either
    /// way, which counts half; each flipped as well.
    pub fn collect_views(network: &Network, split: &Split<R>) -> Result<Self> {
        let mut mean: Vec<Vec<f32>> = Vec::new();
        for (by, share) in [(0, 0.5), (-1, 0.25), (1, 0.25)] {
            for flip in [false, true] {
                let view = Self::collect(network, &split.moved(by, by, flip))?;
                mean.resize(view.exits(), vec![0.0; view.raw[0].len()]);
                for (mean, logits) in mean.iter_mut().zip(&*view.raw) {
                    mean.iter_mut().zip(logits).for_each(|(mean, z)| *mean += share / 2.0 * z);
                }
            }
        }
        Self::from_logits(mean, split.labels().to_vec())
    }

    /// A record of logits from elsewhere: for every exit one row of logits per sample, one after
    /// another. Fails when the sizes do not fit or there are no samples.
    pub fn from_logits(logits: Vec<Vec<f32>>, labels: Vec<u32>) -> Result<Self> {
        Self::from_logits_read(logits, labels, &Readout::default())
    }

    /// [`Self::from_logits`], read in this way.
    fn from_logits_read(logits: Vec<Vec<f32>>, labels: Vec<u32>, readout: &Readout) -> Result<Self> {
        let values = logits.first().map_or(0, Vec::len);
        if labels.is_empty()
            || values == 0
            || !values.is_multiple_of(labels.len())
            || logits.iter().any(|l| l.len() != values)
        {
            let sizes: Vec<usize> = logits.iter().map(Vec::len).collect();
            bail!(
                Shape,
                "an exit record needs the same number of logits at every exit, a multiple of the samples; got {sizes:?} logits for {} samples",
                labels.len()
            )
        }
        let classes = values / labels.len();
        if let Some(sample) = labels.iter().position(|&label| label as usize >= classes) {
            bail!(
                Shape,
                "the label of sample {sample} is {}, and there are logits for {classes} classes, counted from 0",
                labels[sample]
            )
        }
        let logits = Arc::new(logits);
        let (raw, predictions) = (logits.clone(), Vec::new());
        Self { raw, logits, labels, readout: Readout::default(), predictions, role: PhantomData }
            .reread(readout)
    }

    /// The same, read by another criterion; temperatures and ensemble stay.
    pub fn by(&self, criterion: &Criterion) -> Self {
        if self.criterion() == criterion {
            return self.clone();
        }
        let mut record = self.clone();
        record.readout.criterion = criterion.clone();
        record.predicted()
    }

    /// The same logits of the network, read in another way. Fails where it does not fit the exits.
    pub fn read_by(&self, readout: &Readout) -> Result<Self> {
        if self.readout == *readout { Ok(self.clone()) } else { self.clone().reread(readout) }
    }

    fn reread(mut self, readout: &Readout) -> Result<Self> {
        let (exits, classes) = (self.exits(), self.classes());
        readout.check(exits)?;
        self.readout = readout.clone();
        self.logits = self.raw.clone();
        if !readout.is_plain() {
            let read = |sample: usize| {
                let mut seen = Vec::with_capacity(exits * classes);
                self.raw.iter().for_each(|raw| readout.see(&mut seen, &raw[sample * classes..][..classes]));
                seen
            };
            let mut logits = vec![Vec::with_capacity(self.raw[0].len()); exits];
            // Some at a time, so that there is no third copy of all.
            for start in (0..self.len()).step_by(4096) {
                let samples: Vec<_> =
                    (start..self.len().min(start + 4096)).into_par_iter().map(read).collect();
                for seen in samples {
                    seen.chunks(classes)
                        .zip(&mut logits)
                        .for_each(|(row, of_exit)| of_exit.extend_from_slice(row));
                }
            }
            self.logits = Arc::new(logits);
        }
        Ok(self.predicted())
    }

    /// The same with what the criterion says about the logits.
    fn predicted(mut self) -> Self {
        let (exits, classes, criterion) = (self.exits(), self.classes(), &self.readout.criterion);
        let read = |sample: usize| {
            let mut seen = Vec::with_capacity(exits * classes);
            self.logits.iter().map(move |logits| {
                seen.extend_from_slice(&logits[sample * classes..][..classes]);
                criterion.read(Seen::new(&seen, classes))
            })
        };
        let of_samples: Vec<Prediction> = (0..self.len()).into_par_iter().flat_map_iter(read).collect();
        let of_exit = |exit| of_samples.iter().skip(exit).step_by(exits).copied().collect();
        self.predictions = (0..exits).map(of_exit).collect();
        self
    }

    /// The record of a network that has these exits (from 0) alone; the branches of the others decide
    /// nothing. Fails where there is no such exit, or none at all.
    pub fn only(&self, exits: &[usize]) -> Result<Self> {
        if exits.is_empty() || exits.iter().any(|&exit| exit >= self.exits()) {
            bail!(Setting, "exits of a record are numbered from 0 to {}, got {exits:?}", self.exits() - 1)
        }
        let logits = exits.iter().map(|&exit| self.raw[exit].clone()).collect();
        let mut readout = self.readout.clone();
        if !readout.temperatures.is_empty() {
            readout.temperatures = exits.iter().map(|&exit| self.readout.temperatures[exit]).collect();
        }
        Self::from_logits_read(logits, self.labels.clone(), &readout)
    }

    /// The record of a cascade: this network's last exit first, and that of `then` where it is not sure. Fails
    /// where they are of other samples, or have temperatures or an ensemble, which the cascade's record can be given.
    pub fn followed_by(&self, then: &Self) -> Result<Self> {
        if self.labels != then.labels {
            bail!(Setting, "a cascade needs two records of the same samples")
        }
        if !(self.readout.is_plain() && then.readout.is_plain()) {
            bail!(
                Setting,
                "a cascade is made of records without temperatures or ensemble; give them to its own record"
            )
        }
        let last = |record: &Self| record.raw[record.exits() - 1].clone();
        Self::from_logits_read(vec![last(self), last(then)], self.labels.clone(), &self.readout)
    }

    /// Leaving at the first exit that is right, else at the last: what no criterion can beat. `costs` are those of
    /// leaving at each exit. Fails where they do not fit the exits.
    pub fn oracle(&self, costs: &[f64]) -> Result<OperatingPoint> {
        let first = |sample| (0..self.exits()).find(|&exit| self.right(exit, sample));
        let leaves = (0..self.len()).map(|sample| first(sample).unwrap_or(self.exits() - 1));
        self.outcome(&[], leaves, costs)
    }

    /// What happens when each sample leaves at the exit that `leaves` says.
    fn outcome(
        &self,
        thresholds: &[f64],
        leaves: impl Iterator<Item = usize>,
        costs: &[f64],
    ) -> Result<OperatingPoint> {
        self.check_costs(costs)?;
        let (mut right, mut leaving) = (0, vec![0; self.exits()]);
        for (sample, exit) in leaves.enumerate() {
            right += usize::from(self.right(exit, sample));
            leaving[exit] += 1;
        }
        Ok(OperatingPoint::new(thresholds.to_vec(), right, leaving, costs))
    }

    /// The record of these samples, in this order; one may occur several times, as in a bootstrap. Fails
    /// where there is no such sample, or none at all.
    pub fn select(&self, samples: &[usize]) -> Result<Self> {
        if samples.is_empty() || samples.iter().any(|&sample| sample >= self.len()) {
            bail!(Setting, "samples of a record are numbered from 0 to {}", self.len() - 1)
        }
        let classes = self.classes();
        let rows = |logits: &Vec<f32>| {
            samples.iter().flat_map(|&i| &logits[i * classes..][..classes]).copied().collect()
        };
        let raw: Arc<Vec<_>> = Arc::new(self.raw.iter().map(rows).collect());
        let plain = self.readout.is_plain();
        Ok(Self {
            logits: if plain { raw.clone() } else { Arc::new(self.logits.iter().map(rows).collect()) },
            raw,
            labels: samples.iter().map(|&i| self.labels[i]).collect(),
            readout: self.readout.clone(),
            predictions: self.predictions.iter().map(|of| samples.iter().map(|&i| of[i]).collect()).collect(),
            role: PhantomData,
        })
    }

    /// The samples of this record and of another split's in one, read as these. Fails where they are of other exits or
    /// classes.
    pub fn joined<S: Role>(&self, other: &ExitRecord<S>) -> Result<Self> {
        if (self.exits(), self.classes()) != (other.exits(), other.classes()) {
            bail!(Setting, "two records that are joined need the same exits and classes")
        }
        let logits = |exit: usize| [&self.raw[exit][..], &other.raw[exit]].concat();
        let labels = [self.labels(), other.labels()].concat();
        Self::from_logits_read((0..self.exits()).map(logits).collect(), labels, &self.readout)
    }

    /// The same samples with these labels, one for each.
    pub(super) fn labelled(&self, labels: Vec<u32>) -> Self {
        Self { labels, ..self.clone() }
    }

    /// The criterion that [`Self::predictions`], thresholds and answers are by.
    pub fn criterion(&self) -> &Criterion {
        &self.readout.criterion
    }

    /// How the exits are read.
    pub fn readout(&self) -> &Readout {
        &self.readout
    }

    /// The policy that reads the exits as this record does, with these thresholds, for [`Network::classify`]: it decides
    /// for each sample as the record.
    pub fn policy(&self, thresholds: &[f64]) -> ExitPolicy {
        ExitPolicy::new(self.readout.clone(), thresholds)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The number of exits.
    pub fn exits(&self) -> usize {
        self.logits.len()
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.logits[0].len() / self.labels.len()
    }

    /// The class of every sample.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// What exit `exit` (from 0) answers by, samples one after another: the logits that the network gave, unless the
    /// readout has temperatures or an ensemble. Panics where there is no such exit, as does [`Self::predictions`].
    pub fn logits(&self, exit: usize) -> &[f32] {
        &self.logits[exit]
    }

    /// What exit `exit` (from 0) says about every sample.
    pub fn predictions(&self, exit: usize) -> &[Prediction] {
        &self.predictions[exit]
    }

    /// Whether exit `exit` (from 0) is right about a sample.
    pub fn right(&self, exit: usize, sample: usize) -> bool {
        self.predictions[exit][sample].label == self.labels[sample] as usize
    }

    /// The accuracy (0..=1) of each exit, were all samples to leave there.
    pub fn exit_accuracy(&self) -> Vec<f64> {
        let count = |exit| (0..self.len()).filter(|&sample| self.right(exit, sample)).count();
        (0..self.exits()).map(|exit| count(exit) as f64 / self.len() as f64).collect()
    }

    /// Share of right answers (0..=1) if every sample left at the last exit.
    pub fn last_accuracy(&self) -> f64 {
        self.exit_accuracy()[self.exits() - 1]
    }

    /// The answers that [`Network::classify`] gives at these thresholds, without the network.
    pub fn answers(&self, thresholds: &[f64]) -> Result<Vec<Answer>> {
        let policy = self.policy(thresholds);
        policy.check(self.exits())?;
        policy::answers(&mut &*self, &policy, self.len())
    }

    /// What happens at these thresholds, given what it costs to leave at each exit (milliseconds,
    /// MACs, …). Fails when thresholds or costs do not fit the exits.
    pub fn operating_point(&self, thresholds: &[f64], costs: &[f64]) -> Result<OperatingPoint> {
        self.outcome(thresholds, self.answers(thresholds)?.iter().map(|answer| answer.exit), costs)
    }

    /// [`Self::operating_point`] at the thresholds of other outcomes, such as those of a front that was found on
    /// another split.
    pub fn operating_points(&self, at: &[OperatingPoint], costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        at.iter().map(|o| self.operating_point(&o.thresholds, costs)).collect()
    }

    pub(crate) fn check_costs(&self, costs: &[f64]) -> Result<()> {
        if costs.len() != self.exits() || costs.iter().any(|cost| !cost.is_finite() || *cost < 0.0) {
            bail!(Setting, "{} exits need as many costs, finite and at least 0, got {costs:?}", self.exits())
        }
        Ok(())
    }
}

/// What the exits said is known.
impl<R> Exits for &ExitRecord<R> {
    fn prediction(&mut self, exit: usize, _: usize, sample: usize) -> Prediction {
        self.predictions[exit][sample]
    }
}
