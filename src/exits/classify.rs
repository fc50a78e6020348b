//! Inference that stops at the first exit that is sure (paper, figure 2), for batches on the network's device.

use super::criterion::{Prediction, Seen};
use super::plan::Plan;
use super::policy::{Answer, ExitPolicy, Exits, answers, with_logits};
use super::readout::Readout;
use crate::networks::{Network, Pass};
use crate::{Result, kernels};
use candle_core::Tensor;

impl Network {
    /// Classifies images (batch, channels, height, width): each sample leaves at the first exit
    /// that is sure enough by `policy`, and the last exit answers for the rest. Samples that left are not
    /// computed any further. On the CPU the network is compiled first ([`super::Plan`], which serves many
    /// calls and takes as long as some ten images); on a GPU entropy, probability and margin are computed
    /// there, and the samples that stay are moved together there.
    ///
    /// Images are in f32, prepared as those it was trained on: as [`crate::data::Split::batch`] gives them, not as bytes. One
    /// answer for each sample, in the order of the input. Fails on images of another size, and when the policy does not fit the
    /// exits.
    pub fn classify(&self, images: &Tensor, policy: &ExitPolicy) -> Result<Vec<Answer>> {
        let answers = Engine::new(self)?.classify(images, policy, false)?;
        Ok(answers.into_iter().map(|(answer, _)| answer).collect())
    }

    /// [`Self::classify`], each answer with the logits (one for each class) that it was read from.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
    /// let images = Tensor::zeros((3, 1, 28, 28), DType::F32, &Device::Cpu)?;
    /// for (answer, logits) in network.classify_with_logits(&images, &ExitPolicy::entropy([0.025]))? {
    ///     let seen = Seen::new(&logits, 10);
    ///     assert_eq!(Criterion::Entropy.read(seen).uncertainty, answer.uncertainty);
    ///     println!("{} with probability {:.3}", answer.label, seen.probabilities()[answer.label]);
    /// }
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn classify_with_logits(
        &self,
        images: &Tensor,
        policy: &ExitPolicy,
    ) -> Result<Vec<(Answer, Vec<f32>)>> {
        Engine::new(self)?.classify(images, policy, true)
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
            self.network.check_images(images)?;
            return plan.logits(&images.flatten_all()?.to_vec1::<f32>()?);
        }
        let logits = self.network.forward(images, &mut Pass::Evaluate)?;
        let rows = logits.iter().map(|logits| logits.flatten_all()?.to_vec1());
        Ok(rows.collect::<candle_core::Result<_>>()?)
    }

    /// As [`Network::classify`], with the logits that each answer was read from if `keep`.
    pub(super) fn classify(
        &mut self,
        images: &Tensor,
        policy: &ExitPolicy,
        keep: bool,
    ) -> Result<Vec<(Answer, Vec<f32>)>> {
        self.network.check_images(images)?;
        match &mut self.plan {
            Some(plan) => plan.answers(&images.flatten_all()?.to_vec1::<f32>()?, policy, keep),
            None => by_tensors(self.network, images, policy, keep),
        }
    }
}

/// The answers for images, with the logits that each was read from if `keep`: these have to come to the host.
fn by_tensors(
    network: &Network,
    images: &Tensor,
    policy: &ExitPolicy,
    keep: bool,
) -> Result<Vec<(Answer, Vec<f32>)>> {
    policy.check(network.exits())?;
    let batch = images.dim(0)?;
    let mut exits = Tensors {
        network,
        readout: &policy.readout,
        keep,
        x: images.clone(),
        rows: Vec::new(),
        predictions: Vec::new(),
        seen: vec![Vec::new(); batch],
    };
    let answers = answers(&mut exits, policy, batch)?;
    Ok(with_logits(answers, &exits.seen, network.classes(), keep))
}

/// A network's exits on its device, for a batch.
struct Tensors<'a> {
    network: &'a Network,
    readout: &'a Readout,
    keep: bool,
    /// What the trunk gave for the samples that the last exit was asked about.
    x: Tensor,
    /// Those of them that stay.
    rows: Vec<u32>,
    /// What the last exit said about them.
    predictions: Vec<Prediction>,
    seen: Vec<Vec<f32>>,
}

impl Exits for Tensors<'_> {
    fn advance(&mut self, exit: usize, staying: &[usize]) -> Result<()> {
        if staying.len() < self.x.dim(0)? {
            self.x = kernels::gather(&self.x, &self.rows)?;
        }
        self.rows.clear();
        self.x = self.network.segment(exit, &self.x, &mut Pass::Evaluate)?;
        let logits = self.network.exit(exit, &self.x, &mut Pass::Evaluate)?;
        let there = on_device(self.readout, &logits)?;
        let classes = self.network.classes();
        if self.keep || there.is_none() {
            let logits = logits.flatten_all()?.to_vec1::<f32>()?;
            for (logits, &sample) in logits.chunks(classes).zip(staying) {
                self.readout.see(&mut self.seen[sample], logits);
            }
        }
        let read = |&sample: &usize| self.readout.criterion.read(Seen::new(&self.seen[sample], classes));
        self.predictions = there.unwrap_or_else(|| staying.iter().map(read).collect());
        Ok(())
    }

    fn prediction(&mut self, _: usize, place: usize, _: usize) -> Prediction {
        self.predictions[place]
    }

    fn stay(&mut self, _: usize, place: usize, _: usize) {
        self.rows.push(place as u32);
    }
}

/// What an exit with these logits (samples, classes) says, where the device can tell: the logits then stay there.
#[cfg(feature = "cuda")]
fn on_device(readout: &Readout, logits: &Tensor) -> Result<Option<Vec<Prediction>>> {
    let there = readout.is_plain() && logits.device().is_cuda();
    let Some(measure) = readout.criterion.measure().filter(|_| there) else {
        return Ok(None);
    };
    let rows = kernels::read_exit(logits, measure)?.to_vec2::<f64>()?;
    let prediction = |row: &Vec<f64>| Prediction { label: row[0] as usize, uncertainty: row[1] };
    Ok(Some(rows.iter().map(prediction).collect()))
}

#[cfg(not(feature = "cuda"))]
fn on_device(_: &Readout, _: &Tensor) -> Result<Option<Vec<Prediction>>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Test;
    use crate::exits::{Criterion, ExitRecord};
    use crate::networks::{branch, conv, linear, max_pool, relu};
    use candle_core::Device;

    /// On the CPU a plan answers instead, so that only a GPU's tests would see it.
    #[test]
    fn tensors_answer_as_their_record_does() -> Result<()> {
        let layers = [
            conv(1, 4, 3, 1),
            branch([max_pool(2, 2), linear(64, 5)]),
            relu(),
            conv(4, 6, 3, 1),
            branch([linear(384, 5)]),
            relu(),
            linear(384, 5),
        ];
        let network = Network::new("test", [1, 8, 8], layers, 0, &Device::Cpu)?;
        let pixels: Vec<f32> = (0..60 * 64).map(|i| (i as f32 * 1.7).sin()).collect();
        let images = Tensor::from_vec(pixels, (60, 1, 8, 8), &Device::Cpu)?;
        let logits = network.forward(&images, &mut Pass::Evaluate)?;
        let logits = logits.iter().map(|logits| Ok(logits.flatten_all()?.to_vec1()?));
        let record = ExitRecord::<Test>::from_logits(logits.collect::<Result<_>>()?, vec![0; 60])?;
        for criterion in Criterion::NAMED {
            let record = record.by(&criterion);
            let median = |exit: usize| {
                let mut all: Vec<f64> = record.predictions(exit).iter().map(|p| p.uncertainty).collect();
                all.sort_by(f64::total_cmp);
                all[30]
            };
            for thresholds in [vec![0.0; 2], vec![median(0), median(1)], vec![f64::INFINITY; 2]] {
                let expected = record.answers(&thresholds)?;
                let answers = by_tensors(&network, &images, &record.policy(&thresholds), true)?;
                for (i, ((answer, logits), expected)) in answers.into_iter().zip(expected).enumerate() {
                    assert_eq!(answer, expected);
                    assert_eq!(logits, record.logits(answer.exit)[i * 5..][..5]);
                }
            }
        }
        Ok(())
    }
}
