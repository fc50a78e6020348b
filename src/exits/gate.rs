//! A criterion that is learned: for each exit the probability of a wrong answer.

use super::criterion::{Criterion, Seen};
use super::record::ExitRecord;
use crate::data::Validation;
use serde::{Deserialize, Serialize};

/// For each exit a logistic regression on the entropy, the two largest probabilities (as log odds), and whether the
/// exit before agrees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    exits: Vec<Logistic>,
}

const FEATURES: usize = 5;

/// A logistic regression on features that are scaled to mean 0 and deviation 1, but for the first, which is 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Logistic {
    /// Of each feature the mean and the deviation.
    scale: [(f64, f64); FEATURES],
    weights: [f64; FEATURES],
}

impl Gate {
    /// Learned from these samples. Thresholds for it want other samples than these.
    pub fn fit(record: &ExitRecord<Validation>) -> Self {
        let classes = record.classes();
        let of_exit = |exit: usize| {
            let sample = |sample: usize| {
                let so_far = (0..=exit).flat_map(|e| &record.logits(e)[sample * classes..][..classes]);
                let seen: Vec<f32> = so_far.copied().collect();
                (features(Seen::new(&seen, classes)), !record.right(exit, sample))
            };
            Logistic::fit(&(0..record.len()).map(sample).collect::<Vec<_>>())
        };
        Self { exits: (0..record.exits()).map(of_exit).collect() }
    }

    /// The probability that the exit that saw a sample last is wrong; not a number where the gate has no such exit.
    pub(super) fn wrong(&self, seen: Seen<'_>) -> f64 {
        let exit = seen.exits().count() - 1;
        self.exits.get(exit).map_or(f64::NAN, |exit| exit.probability(&features(seen)))
    }
}

/// What a gate looks at.
fn features(seen: Seen<'_>) -> [f64; FEATURES] {
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

impl Logistic {
    fn fit(samples: &[([f64; FEATURES], bool)]) -> Self {
        let n = samples.len() as f64;
        let scale = |i: usize| {
            let mean = samples.iter().map(|(x, _)| x[i]).sum::<f64>() / n;
            let variance = samples.iter().map(|(x, _)| (x[i] - mean).powi(2)).sum::<f64>() / n;
            if i == 0 { (0.0, 1.0) } else { (mean, variance.sqrt().max(1e-9)) }
        };
        let mut gate = Self { scale: std::array::from_fn(scale), weights: [0.0; FEATURES] };
        // Gradient descent with momentum on a convex function, with a little decay for features that say the same.
        let mut velocity = [0.0; FEATURES];
        for _ in 0..500 {
            let mut gradient = gate.weights.map(|w| 1e-4 * w);
            for (x, wrong) in samples {
                let error = gate.probability(x) - f64::from(u8::from(*wrong));
                gradient.iter_mut().zip(gate.scaled(x)).for_each(|(g, x)| *g += error * x / n);
            }
            for i in 0..FEATURES {
                velocity[i] = 0.9 * velocity[i] - gradient[i];
                gate.weights[i] += velocity[i];
            }
        }
        gate
    }

    fn scaled(&self, x: &[f64; FEATURES]) -> [f64; FEATURES] {
        std::array::from_fn(|i| (x[i] - self.scale[i].0) / self.scale[i].1)
    }

    fn probability(&self, x: &[f64; FEATURES]) -> f64 {
        let z: f64 = self.scaled(x).iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        1.0 / (1.0 + (-z).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    #[test]
    fn a_learned_gate_is_calibrated_where_the_softmax_is_not() -> Result<()> {
        // One exit, two classes: 0.99 and 0.7 sure, right in 150 and 100 of 200.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for (probability, right) in [(0.99f64, 150), (0.7, 100)] {
            for i in 0..200 {
                logits.extend([(probability / (1.0 - probability)).ln() as f32, 0.0]);
                labels.push(u32::from(i >= right));
            }
        }
        let sure = ExitRecord::<Validation>::from_logits(vec![logits], labels)?;
        let gated = sure.by(&Criterion::Gate(Gate::fit(&sure)));
        let unsure = |sample: usize| gated.predictions(0)[sample].uncertainty;
        let both = [unsure(0), unsure(399)];
        assert!((both[0] - 0.25).abs() < 0.01 && (both[1] - 0.5).abs() < 0.01, "{both:?}");
        Ok(())
    }
}
