//! How sure is an exit of a sample?
//!
//! Each criterion gives a number that is smaller the surer the exit is; a sample leaves where it is below
//! the exit's threshold, and never where it is not a number. A new criterion is a new variant here, or
//! [`Criterion::own`] in a notebook cell.

use super::logistic::{FEATURES, Logistic};
#[cfg(feature = "cuda")]
use crate::kernels::Measure;
use crate::{Error, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How unsure an exit is. In JSON it is its name, or `{"gate": …}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Criterion {
    /// The entropy of the softmax in nats, −Σ p ln p (the paper's): 0 when certain, ln(classes) when
    /// clueless.
    #[default]
    Entropy,
    /// 1 less the largest probability (as in MSDNet, <https://arxiv.org/abs/1703.09844>).
    Probability,
    /// 1 less the distance between the two largest probabilities.
    Margin,
    /// 1/n when this exit and the n − 1 before it agree on the class (after PABEE,
    /// <https://arxiv.org/abs/2006.04152>): a threshold of 0.6 lets two leave that agree.
    Patience,
    /// The probability of a wrong answer, learned.
    Gate(Gate),
    /// One of the caller's, which no file can hold.
    #[serde(skip)]
    Own(Own),
}

/// For each exit a logistic regression on the entropy, the two largest probabilities (as log odds), and whether the
/// exit before agrees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub(super) exits: Vec<Logistic>,
}

impl Gate {
    /// The probability that the exit that saw a sample last is wrong; not a number where the gate has no such exit.
    fn wrong(&self, seen: Seen<'_>) -> f64 {
        let exit = seen.exits().count() - 1;
        self.exits.get(exit).map_or(f64::NAN, |exit| exit.probability(&features(seen)))
    }
}

/// What a gate looks at.
pub(super) fn features(seen: Seen<'_>) -> [f64; FEATURES] {
    let odds = |unsure: f64| (unsure.max(1e-9) / (1.0 - unsure).max(1e-9)).ln();
    let by = |criterion: Criterion| criterion.read(seen);
    let agrees = by(Criterion::Patience).uncertainty < 1.0;
    [
        1.0,
        by(Criterion::Entropy).uncertainty,
        odds(by(Criterion::Probability).uncertainty),
        odds(by(Criterion::Margin).uncertainty),
        f64::from(u8::from(agrees)),
    ]
}

/// A criterion that a program or a notebook cell made: see [`Criterion::own`].
#[derive(Clone)]
pub struct Own {
    name: Arc<str>,
    measure: Arc<dyn Fn(Seen<'_>) -> f64 + Send + Sync>,
}

/// The logits of one sample at all exits that have seen it. Minus infinity rules a class out; what is not a number, or
/// infinite, is not sure of anything.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    logits: &'a [f32],
    classes: usize,
}

/// What one exit says about one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The most probable class, the first of equals.
    pub label: usize,
    /// What the criterion says: smaller is surer.
    pub uncertainty: f64,
}

impl<'a> Seen<'a> {
    /// The logits of one exit after another, `classes` each; the last exit is the one that is asked. They must be at
    /// least one exit's, whole.
    pub fn new(logits: &'a [f32], classes: usize) -> Self {
        Self { logits, classes }
    }

    /// The logits of the exit that is asked.
    pub fn logits(&self) -> &'a [f32] {
        &self.logits[self.logits.len() - self.classes..]
    }

    /// The logits of every exit so far, the one that is asked last.
    pub fn exits(&self) -> impl DoubleEndedIterator<Item = &'a [f32]> + use<'a> {
        self.logits.chunks(self.classes)
    }

    /// The softmax of [`Self::logits`].
    pub fn probabilities(&self) -> Vec<f64> {
        let softmax = Softmax::of(self.logits());
        self.logits().iter().map(|&z| softmax.odds(z) / (1.0 + softmax.rest)).collect()
    }
}

/// The parts of a softmax, in f64: at a threshold of 1e-4 nothing may be lost to rounding.
struct Softmax {
    label: usize,
    max: f64,
    /// The sum over the other classes of e^(z − max).
    rest: f64,
}

impl Softmax {
    fn of(logits: &[f32]) -> Self {
        let (mut label, mut max) = (0, f32::NEG_INFINITY);
        for (i, &logit) in logits.iter().enumerate() {
            if logit > max {
                (label, max) = (i, logit);
            }
        }
        let mut softmax = Self {
            label,
            // What is not finite is not sure of anything.
            max: if max.is_finite() { f64::from(max) } else { f64::NAN },
            rest: 0.0,
        };
        for (i, &logit) in logits.iter().enumerate() {
            if i != label {
                softmax.rest += softmax.odds(logit);
            }
        }
        softmax
    }

    fn odds(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.max).exp()
    }
}

impl Criterion {
    /// The criteria that have names.
    pub const NAMED: [Self; 4] = [Self::Entropy, Self::Probability, Self::Margin, Self::Patience];

    /// A criterion of one's own: its name, for figures, and how unsure the exit is.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// // The largest logit, whatever the others are.
    /// let largest = Criterion::own("minus the largest logit", |seen| {
    ///     -f64::from(seen.logits().iter().copied().fold(f32::MIN, f32::max))
    /// });
    /// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
    /// let images = Tensor::zeros((3, 1, 28, 28), DType::F32, &Device::Cpu)?;
    /// let answers = network.classify(&images, &ExitPolicy::new(largest, [-0.5]))?;
    /// assert_eq!(answers.len(), 3);
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn own(name: &str, measure: impl Fn(Seen<'_>) -> f64 + Send + Sync + 'static) -> Self {
        Self::Own(Own { name: name.into(), measure: Arc::new(measure) })
    }

    /// What the exit that saw a sample last says about it.
    pub fn read(&self, seen: Seen<'_>) -> Prediction {
        let logits = seen.logits();
        let softmax = Softmax::of(logits);
        let uncertainty = match self {
            Self::Entropy => {
                // With d = z − max: −Σ p ln p = ln Σ e^d − Σ d e^d / Σ e^d.
                let (mut sum, mut weighted) = (0.0, 0.0);
                for &logit in logits {
                    let d = f64::from(logit) - softmax.max;
                    let e = d.exp();
                    // A class that a logit of minus infinity rules out adds nothing: 0 ln 0 = 0.
                    if e != 0.0 {
                        sum += e;
                        weighted += d * e;
                    }
                }
                sum.ln() - weighted / sum
            }
            Self::Probability => softmax.rest / (1.0 + softmax.rest),
            Self::Margin => {
                let others = logits.iter().enumerate();
                let second = others
                    .filter(|(i, _)| *i != softmax.label)
                    .map(|(_, &z)| softmax.odds(z))
                    .fold(0.0, f64::max);
                (softmax.rest + second) / (1.0 + softmax.rest)
            }
            Self::Patience => {
                let agree = |z: &&[f32]| Softmax::of(z).label == softmax.label;
                let streak = seen.exits().rev().take_while(agree).count();
                // Not a number where the softmax is not.
                1.0 / streak as f64 + 0.0 * softmax.rest
            }
            Self::Gate(gate) => gate.wrong(seen),
            Self::Own(own) => (own.measure)(seen),
        };
        Prediction { label: softmax.label, uncertainty }
    }

    /// The name, and for the axes of figures what is measured, with its unit.
    fn texts(&self) -> [&str; 2] {
        match self {
            Self::Entropy => ["entropy", "entropy of the softmax, nats"],
            Self::Probability => ["probability", "1 − largest probability"],
            Self::Margin => ["margin", "1 − margin of probabilities"],
            Self::Patience => ["patience", "1 / exits in a row that agree"],
            Self::Gate(_) => ["gate", "probability of a wrong answer, learned"],
            Self::Own(own) => [&*own.name; 2],
        }
    }

    /// The names of [`Self::NAMED`], for messages and help.
    pub fn names() -> String {
        Self::NAMED.map(|criterion| criterion.to_string()).join(", ")
    }

    /// For the axes of figures: what is measured, with its unit.
    pub fn axis(&self) -> &str {
        self.texts()[1]
    }

    /// A threshold at which nothing leaves.
    pub(crate) fn never(&self) -> f64 {
        match self {
            Self::Own(_) => f64::NEG_INFINITY,
            _ => 0.0,
        }
    }

    /// Thresholds for so many exits at which every sample leaves at `exit`, from 0: nobody before it, everybody at it.
    pub(crate) fn leaving_at(&self, exit: usize, exits: usize) -> Vec<f64> {
        let threshold = |i: usize| if i < exit { self.never() } else { f64::INFINITY };
        (0..exits - 1).map(threshold).collect()
    }

    /// What a GPU computes beside the logits; `None` where they have to come back.
    #[cfg(feature = "cuda")]
    pub(crate) fn measure(&self) -> Option<Measure> {
        match self {
            Self::Entropy => Some(Measure::Entropy),
            Self::Probability => Some(Measure::Probability),
            Self::Margin => Some(Measure::Margin),
            Self::Patience | Self::Gate(_) | Self::Own(_) => None,
        }
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts()[0])
    }
}

impl FromStr for Criterion {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let mut named = Self::NAMED.into_iter();
        match named.find(|criterion| criterion.to_string() == name) {
            Some(criterion) => Ok(criterion),
            None => bail!(Setting, "there is no criterion {name:?}: use {}", Self::names()),
        }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").field(&self.name).finish()
    }
}

/// The same name and the same function.
impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.measure, &other.measure)
    }
}
