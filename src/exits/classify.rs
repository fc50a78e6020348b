//! Inference that stops at the first exit that is sure (paper, figure 2).

use super::criterion::{Criterion, Prediction, Seen};
use super::plan::Plan;
use crate::error::bail;
use crate::networks::{Network, Pass, Shape};
use crate::{Result, kernels};
use candle_core::Tensor;

/// When a sample leaves: at the first exit whose uncertainty is below its threshold. The last exit
/// has none and answers for all that are left.
#[derive(Debug, Clone, PartialEq)]
pub struct ExitPolicy {
    /// How unsure an exit is.
    pub criterion: Criterion,
    /// One for each exit but the last; infinity lets everything leave whose uncertainty is a number.
    pub thresholds: Vec<f64>,
}

/// The answer for one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The most probable class at the exit that answered.
    pub label: usize,
    /// The exit that answered, from 0.
    pub exit: usize,
    /// How unsure that exit was, by the policy's criterion.
    pub uncertainty: f64,
}

impl Prediction {
    /// This prediction as the answer of exit `exit`, from 0.
    pub(super) fn at(self, exit: usize) -> Answer {
        let Self { label, uncertainty } = self;
        Answer { label, exit, uncertainty }
    }
}

impl ExitPolicy {
    /// A policy of this criterion with these thresholds.
    pub fn new(criterion: Criterion, thresholds: impl Into<Vec<f64>>) -> Self {
        let thresholds = thresholds.into();
        Self { criterion, thresholds }
    }

    /// The paper's: thresholds on the entropy, in nats.
    pub fn entropy(thresholds: impl Into<Vec<f64>>) -> Self {
        Self::new(Criterion::Entropy, thresholds)
    }

    /// Fails where the thresholds do not fit a network with `exits` exits: one is needed for every exit
    /// but the last, at least 0 unless the criterion is one's own, and none may be NaN.
    pub fn check(&self, exits: usize) -> Result<()> {
        let thresholds = &self.thresholds;
        if thresholds.len() + 1 != exits {
            bail!(
                Setting,
                "{exits} exits need {} thresholds, one for each exit but the last, which always answers; got {}: {thresholds:?}",
                exits.saturating_sub(1),
                thresholds.len()
            )
        }
        let least = self.criterion.never();
        if let Some(wrong) = thresholds.iter().find(|t| t.is_nan() || **t < least) {
            bail!(
                Setting,
                "a threshold for {} is at least {least}, got {wrong} in {thresholds:?}",
                self.criterion
            )
        }
        Ok(())
    }

    /// Whether a sample with this uncertainty leaves at exit `exit`, from 0.
    pub fn leaves(&self, exit: usize, uncertainty: f64) -> bool {
        // At the last exit all leave, also where the uncertainty is not a number.
        self.thresholds.get(exit).is_none_or(|&threshold| uncertainty < threshold)
    }
}

impl Network {
    /// Classifies images (batch, channels, height, width): each sample leaves at the first exit
    /// that is sure enough by `policy`, and the last exit answers for the rest. Samples that left are not
    /// computed any further. On the CPU the network is compiled first ([`super::Plan`], which serves many
    /// calls and takes as long as some ten images); on a GPU entropy, probability and margin are computed
    /// there, and the samples that stay are moved together there.
    ///
    /// One answer for each sample, in the order of the input. Fails when the policy does not fit the exits.
    pub fn classify(&self, images: &Tensor, policy: &ExitPolicy) -> Result<Vec<Answer>> {
        policy.check(self.exits())?;
        Engine::new(self)?.classify(images, policy)
    }
}

/// What computes a network's exits: its plan on the CPU, tensors on a GPU.
pub(super) struct Engine<'a> {
    network: &'a Network,
    plan: Option<Plan>,
}

impl<'a> Engine<'a> {
    pub(super) fn new(network: &'a Network) -> Result<Self> {
        let plan = if network.device().is_cpu() { Some(Plan::new(network)?) } else { None };
        Ok(Self { network, plan })
    }

    /// The logits of every exit for images (batch, channels, height, width): for each exit a row for each
    /// image.
    pub(super) fn logits(&mut self, images: &Tensor) -> Result<Vec<Vec<f32>>> {
        if let Some(plan) = &mut self.plan {
            return plan.logits(&pixels(self.network, images)?);
        }
        let logits = self.network.forward(images, &mut Pass::Evaluate)?;
        let rows = logits.iter().map(|logits| logits.flatten_all()?.to_vec1());
        Ok(rows.collect::<candle_core::Result<_>>()?)
    }

    /// As [`Network::classify`].
    pub(super) fn classify(&mut self, images: &Tensor, policy: &ExitPolicy) -> Result<Vec<Answer>> {
        match &mut self.plan {
            Some(plan) => plan.classify_all(&pixels(self.network, images)?, policy),
            None => by_tensors(self.network, images, policy),
        }
    }
}

fn pixels(network: &Network, images: &Tensor) -> Result<Vec<f32>> {
    let Shape::Image(channels, height, width) = network.input() else {
        bail!(Shape, "{} takes no images", network.name())
    };
    match images.dims()[..] {
        [_, c, h, w] if (c, h, w) == (channels, height, width) => Ok(images.flatten_all()?.to_vec1()?),
        _ => bail!(
            Shape,
            "{} takes images (batch, {channels}, {height}, {width}), got {:?}",
            network.name(),
            images.shape()
        ),
    }
}

fn by_tensors(network: &Network, images: &Tensor, policy: &ExitPolicy) -> Result<Vec<Answer>> {
    let (batch, exits) = (images.dim(0)?, network.exits());
    let mut predictions =
        Predictions { criterion: &policy.criterion, exits, classes: network.classes(), seen: Vec::new() };
    let mut answers = vec![None; batch];
    // Where in the input the samples that are still on their way came from.
    let mut staying: Vec<usize> = (0..batch).collect();
    let mut x = images.clone();
    for exit in 0..exits {
        if staying.is_empty() {
            break;
        }
        x = network.segment(exit, &x, &mut Pass::Evaluate)?;
        let logits = network.exit(exit, &x, &mut Pass::Evaluate)?;
        let (mut rows, mut next) = (Vec::new(), Vec::new());
        let of_exit = predictions.of(&logits, exit, &staying, batch)?;
        for (row, (prediction, &sample)) in of_exit.into_iter().zip(&staying).enumerate() {
            if policy.leaves(exit, prediction.uncertainty) {
                answers[sample] = Some(prediction.at(exit));
            } else {
                rows.push(row as u32);
                next.push(sample);
            }
        }
        if !rows.is_empty() && rows.len() < staying.len() {
            x = kernels::gather(&x, &rows)?;
        }
        staying = next;
    }
    Ok(answers.into_iter().flatten().collect())
}

/// What the exits say about the samples of a batch.
struct Predictions<'a> {
    criterion: &'a Criterion,
    exits: usize,
    classes: usize,
    /// (batch, exits, classes): the logits so far, where they came to the host.
    seen: Vec<f32>,
}

impl Predictions<'_> {
    /// What exit `exit` says about the samples that reached it, given their logits (samples, classes).
    fn of(
        &mut self,
        logits: &Tensor,
        exit: usize,
        samples: &[usize],
        batch: usize,
    ) -> Result<Vec<Prediction>> {
        #[cfg(feature = "cuda")]
        if logits.device().is_cuda()
            && let Some(measure) = self.criterion.measure()
        {
            let rows = kernels::read_exit(logits, measure)?.to_vec2::<f64>()?;
            let prediction = |row: &Vec<f64>| Prediction { label: row[0] as usize, uncertainty: row[1] };
            return Ok(rows.iter().map(prediction).collect());
        }
        let (exits, classes) = (self.exits, self.classes);
        self.seen.resize(batch * exits * classes, 0.0);
        let logits = logits.flatten_all()?.to_vec1::<f32>()?;
        let predictions = logits.chunks(classes).zip(samples).map(|(z, sample)| {
            let seen = &mut self.seen[sample * exits * classes..][..(exit + 1) * classes];
            seen[exit * classes..].copy_from_slice(z);
            self.criterion.read(Seen::new(seen, classes))
        });
        Ok(predictions.collect())
    }
}
