//! How an exit is read: its temperature, whether exits answer together, and by what criterion it is sure.

use super::criterion::{Criterion, Prediction, Seen};
use crate::{Result, bail};
use serde::{Deserialize, Serialize};

/// How the logits of an exit become an answer and a number that says how sure it is. Records, networks and plans read
/// exits in the same way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readout {
    /// How unsure an exit is.
    pub criterion: Criterion,
    /// What the logits of each exit are divided by (Guo et al. 2017, <https://arxiv.org/abs/1706.04599>): answers stay,
    /// how sure they are changes. None: 1 for each exit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub temperatures: Vec<f64>,
    /// Whether an exit answers together with those before it: by the geometric mean of their softmaxes at their
    /// temperatures, as in Zero-Time Waste (<https://arxiv.org/abs/2106.05409>) with equal weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ensemble: bool,
}

impl From<Criterion> for Readout {
    fn from(criterion: Criterion) -> Self {
        Self { criterion, ..Self::default() }
    }
}

impl Readout {
    /// Fails unless there is a temperature above 0 for each of so many exits, or none at all.
    pub fn check(&self, exits: usize) -> Result<()> {
        let temperatures = &self.temperatures;
        let given = temperatures.len() == exits && temperatures.iter().all(|t| t.is_finite() && *t > 0.0);
        if !temperatures.is_empty() && !given {
            bail!(Setting, "{exits} exits need as many temperatures, above 0, got {temperatures:?}")
        }
        Ok(())
    }

    /// Whether logits are read as they come.
    pub(super) fn is_plain(&self) -> bool {
        self.temperatures.is_empty() && !self.ensemble
    }

    /// Adds what the next exit answers by to what was seen of a sample so far, given its logits.
    pub(super) fn see(&self, seen: &mut Vec<f32>, logits: &[f32]) {
        let (before, exit) = (seen.len(), seen.len() / logits.len());
        match self.temperatures.get(exit) {
            Some(&temperature) => seen.extend(logits.iter().map(|&z| (f64::from(z) / temperature) as f32)),
            None => seen.extend_from_slice(logits),
        }
        if self.ensemble {
            let (before, own) = seen.split_at_mut(before);
            // What is the same for all classes makes no difference to one exit, and much to a mean.
            let largest = own.iter().copied().fold(f32::MIN, f32::max);
            let shift = largest + own.iter().map(|z| (z - largest).exp()).sum::<f32>().ln();
            own.iter_mut().for_each(|z| *z -= shift);
            if exit > 0 {
                let mean = &before[(exit - 1) * own.len()..];
                let share = 1.0 / (exit + 1) as f32;
                own.iter_mut().zip(mean).for_each(|(z, mean)| *z = (1.0 - share) * mean + share * *z);
            }
        }
    }

    /// [`Self::see`], and what the exit says then.
    pub(super) fn read(&self, seen: &mut Vec<f32>, logits: &[f32]) -> Prediction {
        self.see(seen, logits);
        self.criterion.read(Seen::new(seen, logits.len()))
    }
}
