//! Logistic regression.

use serde::{Deserialize, Serialize};

/// Numbers that are known of a sample, the first of which is 1.
pub const FEATURES: usize = 5;

/// A logistic regression on features that are scaled to mean 0 and deviation 1, but for the first, which is 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    /// Of each feature the mean and the deviation.
    scale: [(f64, f64); FEATURES],
    weights: [f64; FEATURES],
}

impl Logistic {
    /// Learned from features, and whether the answer was wrong.
    pub fn fit(samples: &[([f64; FEATURES], bool)]) -> Self {
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

    /// The probability that it is wrong.
    pub fn probability(&self, x: &[f64; FEATURES]) -> f64 {
        let z: f64 = self.scaled(x).iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        1.0 / (1.0 + (-z).exp())
    }
}
