//! Loss and accuracy, summed up batch by batch.

use crate::checked_file::numbers;
use crate::data::{Role, Split};
use crate::kernels::{self, Losses};
use crate::networks::{Network, Pass};
use crate::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

/// Loss and accuracy at every exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Mean cross-entropy in nats, one for each exit; NaN where an earlier epoch's was not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: Vec<f64>,
    /// Share of right answers in 0..=1, one for each exit.
    pub accuracy: Vec<f64>,
}

/// On Validation the first epochs of a deep network may have a loss that is not finite, while its running statistics are
/// those of the start.
fn null_is_nan<'de, D: Deserializer<'de>>(json: D) -> std::result::Result<Vec<f64>, D::Error> {
    numbers(json, f64::NAN)
}

/// Running sums of loss and right answers for each exit.
pub(super) struct Sums {
    pub(super) samples: usize,
    loss: Vec<f64>,
    right: Vec<usize>,
}

impl Sums {
    pub(super) fn new(exits: usize) -> Self {
        Self { samples: 0, loss: vec![0.0; exits], right: vec![0; exits] }
    }

    /// Adds a batch and returns its mean loss for each exit.
    pub(super) fn add(&mut self, losses: &[Losses], samples: usize) -> Result<Vec<f64>> {
        let mut means = Vec::new();
        for (exit, losses) in losses.iter().enumerate() {
            let (loss, right) = losses.sums()?;
            self.loss[exit] += loss;
            self.right[exit] += right;
            means.push(loss / samples as f64);
        }
        self.samples += samples;
        Ok(means)
    }

    pub(super) fn means(&self) -> Scores {
        let n = self.samples as f64;
        Scores {
            loss: self.loss.iter().map(|sum| sum / n).collect(),
            accuracy: self.right.iter().map(|&right| right as f64 / n).collect(),
        }
    }
}

/// Loss and accuracy of every exit on a whole split, by [`Network::forward`]. Records and [`Network::classify`] run the
/// compiled plan on the CPU ([`crate::exits::Plan`]), which rounds differently: an image on which two classes are all but
/// equal may count here and not there. What histories of recorded runs hold is from here.
pub fn evaluate<R: Role>(network: &Network, split: &Split<R>) -> Result<Scores> {
    if split.is_empty() {
        bail!(Setting, "the {} split is empty", R::NAME)
    }
    split.check_labels(network.classes())?;
    let mut sums = Sums::new(network.exits());
    let samples: Vec<usize> = (0..split.len()).collect();
    for batch in samples.chunks(super::EVALUATION_BATCH) {
        let logits = network.forward(&split.batch(batch, network.device())?, &mut Pass::Evaluate)?;
        let labels = split.batch_labels(batch, network.device())?;
        let losses = logits
            .iter()
            .map(|logits| kernels::cross_entropy(logits, &labels, 1.0, 0.0))
            .collect::<candle_core::Result<Vec<_>>>()?;
        sums.add(&losses, batch.len())?;
    }
    Ok(sums.means())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_not_finite_is_read_again() -> Result<()> {
        let scores = Scores { loss: vec![0.5, f64::INFINITY], accuracy: vec![0.5, 0.25] };
        let read: Scores = serde_json::from_str(&serde_json::to_string(&scores)?)?;
        assert!(read.loss[0] == 0.5 && read.loss[1].is_nan() && read.accuracy == scores.accuracy);
        Ok(())
    }
}
