//! Who leaves where: thresholds, answers, and the loop of the paper's figure 2.

use super::criterion::{Criterion, Prediction, Seen};
use super::promise::Promise;
use super::readout::Readout;
use crate::checked_file::numbers;
use crate::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

/// When a sample leaves: at the first exit whose uncertainty is below its threshold. The last exit
/// has none and answers for all that are left.
///
/// As JSON it is whole: how exits are read, thresholds, and what was promised; infinity is null there. A criterion of
/// one's own cannot be written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitPolicy {
    /// How exits are read.
    pub readout: Readout,
    /// One for each exit but the last; infinity lets everything leave whose uncertainty is a number.
    #[serde(deserialize_with = "null_is_infinite")]
    pub thresholds: Vec<f64>,
    /// What the thresholds were promised to keep, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
}

fn null_is_infinite<'de, D: Deserializer<'de>>(json: D) -> std::result::Result<Vec<f64>, D::Error> {
    numbers(json, f64::INFINITY)
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

impl Answer {
    /// Before any exit was asked.
    pub(super) const NONE: Self = Self { label: 0, exit: 0, uncertainty: f64::NAN };
}

impl ExitPolicy {
    /// A policy of this criterion, or of a whole readout, with these thresholds.
    pub fn new(readout: impl Into<Readout>, thresholds: impl Into<Vec<f64>>) -> Self {
        Self { readout: readout.into(), thresholds: thresholds.into(), promise: None }
    }

    /// The same readout with thresholds at which every sample goes to the last exit: what is left where a promise cannot be
    /// kept.
    pub fn to_the_end(&self) -> Self {
        let exits = self.thresholds.len() + 1;
        Self::new(self.readout.clone(), self.readout.criterion.leaving_at(exits - 1, exits))
    }

    /// The paper's: thresholds on the entropy, in nats.
    pub fn entropy(thresholds: impl Into<Vec<f64>>) -> Self {
        Self::new(Criterion::Entropy, thresholds)
    }

    /// Fails where temperatures or thresholds do not fit a network with `exits` exits: a threshold is needed for every exit
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
        self.readout.check(exits)?;
        let criterion = &self.readout.criterion;
        let least = criterion.never();
        if let Some(wrong) = thresholds.iter().find(|t| t.is_nan() || **t < least) {
            bail!(Setting, "a threshold for {criterion} is at least {least}, got {wrong} in {thresholds:?}")
        }
        Ok(())
    }

    /// Whether a sample with this uncertainty leaves at exit `exit`, from 0.
    pub fn leaves(&self, exit: usize, uncertainty: f64) -> bool {
        // At the last exit all leave, also where the uncertainty is not a number.
        self.thresholds.get(exit).is_none_or(|&threshold| uncertainty < threshold)
    }
}

/// Exits that are asked one after another, from whatever computes them. It holds the samples that are still there side by
/// side, in the order of their numbers.
pub(super) trait Exits {
    /// Computes exit `exit` for the samples that are still there, whose numbers these are.
    fn advance(&mut self, _exit: usize, _staying: &[usize]) -> Result<()> {
        Ok(())
    }

    /// What exit `exit` says about sample number `sample`, which is at `place` among those that are still there.
    fn prediction(&mut self, exit: usize, place: usize, sample: usize) -> Prediction;

    /// The sample at `place` stays behind exit `exit`, and is at `to` from then on: asked in order, `to` counts up.
    fn stay(&mut self, _exit: usize, _place: usize, _to: usize) {}
}

/// Asks one exit after another about the samples that these are the numbers of, each of which leaves at the first that
/// is sure by `policy`; those that left are not computed any further. Sample number i gets its answer at `answers[i]`.
pub(super) fn leave(
    exits: &mut impl Exits,
    policy: &ExitPolicy,
    samples: &mut [usize],
    answers: &mut [Answer],
) -> Result<()> {
    let mut staying = samples.len();
    for exit in 0..=policy.thresholds.len() {
        if staying == 0 {
            break;
        }
        exits.advance(exit, &samples[..staying])?;
        let mut to = 0;
        for place in 0..staying {
            let sample = samples[place];
            let Prediction { label, uncertainty } = exits.prediction(exit, place, sample);
            if policy.leaves(exit, uncertainty) {
                answers[sample] = Answer { label, exit, uncertainty };
            } else {
                exits.stay(exit, place, to);
                samples[to] = sample;
                to += 1;
            }
        }
        staying = to;
    }
    Ok(())
}

/// [`leave`] for all of so many samples.
pub(super) fn answers(exits: &mut impl Exits, policy: &ExitPolicy, samples: usize) -> Result<Vec<Answer>> {
    let mut answers = vec![Answer::NONE; samples];
    leave(exits, policy, &mut (0..samples).collect::<Vec<_>>(), &mut answers)?;
    Ok(answers)
}

/// Each answer with the logits of its exit, given those of the exits that its sample has seen; without any unless `keep`.
pub(super) fn with_logits(
    answers: Vec<Answer>,
    seen: &[Vec<f32>],
    classes: usize,
    keep: bool,
) -> Vec<(Answer, Vec<f32>)> {
    let logits = |seen| if keep { Seen::new(seen, classes).logits().to_vec() } else { Vec::new() };
    answers.into_iter().zip(seen).map(|(answer, seen)| (answer, logits(seen))).collect()
}
