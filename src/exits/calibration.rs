//! How far an exit's probabilities can be trusted, how well they tell its right answers from its wrong ones, and
//! what makes them better: temperatures, exits that answer together, and a gate that is learned.

use super::criterion::{Criterion, Seen};
use super::record::ExitRecord;
use crate::Result;
use crate::data::{Role, Validation};
use crate::error::bail;

/// Answers of an exit that are about as sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// How many they are.
    pub count: usize,
    /// The mean of their largest probabilities.
    pub probability: f64,
    /// The share that is right.
    pub accuracy: f64,
}

impl<R: Role> ExitRecord<R> {
    /// The same samples with other logits: `logits` gets those of a sample at all exits up to one, and gives that
    /// exit's new ones. Fails where it gives another number of them.
    pub fn map(&self, logits: impl Fn(Seen<'_>) -> Vec<f32>) -> Result<Self> {
        let classes = self.classes();
        let mut all = vec![Vec::with_capacity(self.len() * classes); self.exits()];
        let mut seen = Vec::with_capacity(self.exits() * classes);
        for sample in 0..self.len() {
            seen.clear();
            for (exit, all) in all.iter_mut().enumerate() {
                seen.extend_from_slice(&self.logits(exit)[sample * classes..][..classes]);
                all.extend(logits(Seen::new(&seen, classes)));
            }
        }
        Self::from_logits_by(all, self.labels().to_vec(), self.criterion())
    }

    /// The same with every exit's logits divided by its temperature (Guo et al. 2017,
    /// <https://arxiv.org/abs/1706.04599>). Answers stay; how sure they are changes. Fails unless there is one for
    /// each exit, above 0.
    pub fn scaled(&self, temperatures: &[f64]) -> Result<Self> {
        if temperatures.len() != self.exits() || !temperatures.iter().all(|t| t.is_finite() && *t > 0.0) {
            bail!(Setting, "{} exits need as many temperatures, above 0, got {temperatures:?}", self.exits())
        }
        self.map(|seen| {
            let temperature = temperatures[seen.exits().count() - 1];
            seen.logits().iter().map(|&z| (f64::from(z) / temperature) as f32).collect()
        })
    }

    /// The same with every exit answering together with those before it: the geometric mean of their softmaxes,
    /// as in Zero-Time Waste (<https://arxiv.org/abs/2106.05409>) with equal weights.
    pub fn ensembled(&self) -> Result<Self> {
        self.map(|seen| {
            let exits = seen.exits().count() as f32;
            let mut mean = vec![0.0; seen.logits().len()];
            for logits in seen.exits() {
                // What is the same for all classes makes no difference.
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let total: f32 = logits.iter().map(|z| (z - largest).exp()).sum();
                let shift = largest + total.ln();
                mean.iter_mut().zip(logits).for_each(|(mean, z)| *mean += (z - shift) / exits);
            }
            mean
        })
    }

    /// The largest probability of each sample at an exit (from 0), and whether the answer is right.
    fn confidences(&self, exit: usize) -> Vec<(f64, bool)> {
        let classes = self.classes();
        let of = |sample: usize| {
            let logits = &self.logits(exit)[sample * classes..][..classes];
            let unsure = Criterion::Probability.read(Seen::new(logits, classes)).uncertainty;
            (1.0 - unsure, self.right(exit, sample))
        };
        (0..self.len()).map(of).collect()
    }

    /// The answers of an exit (from 0) in `bins` of equal width of their largest probability, empty ones left out:
    /// where it can be trusted, accuracy is that probability.
    pub fn reliability(&self, exit: usize, bins: usize) -> Vec<Bin> {
        let mut sums = vec![(0, 0.0, 0); bins.max(1)];
        for (probability, right) in self.confidences(exit) {
            let bin = ((probability * bins as f64) as usize).min(sums.len() - 1);
            let (count, sum, correct) = &mut sums[bin];
            (*count, *sum, *correct) = (*count + 1, *sum + probability, *correct + usize::from(right));
        }
        let filled = sums.into_iter().filter(|(count, ..)| *count > 0);
        let bin = |(count, sum, correct): (usize, f64, usize)| {
            let n = count as f64;
            Bin { count, probability: sum / n, accuracy: correct as f64 / n }
        };
        filled.map(bin).collect()
    }

    /// The expected calibration error of an exit (from 0): the mean distance of accuracy and probability over
    /// 15 bins, as is usual.
    pub fn calibration_error(&self, exit: usize) -> f64 {
        let error = |bin: Bin| bin.count as f64 * (bin.accuracy - bin.probability).abs();
        self.reliability(exit, 15).into_iter().map(error).sum::<f64>() / self.len() as f64
    }

    /// How well the record's criterion tells the wrong answers of an exit (from 0) from its right ones: the
    /// probability that it is less sure of a wrong one (AUROC). 0.5 is chance; not a number where all are right.
    pub fn failure_prediction(&self, exit: usize) -> f64 {
        let mut values: Vec<(f64, bool)> = self
            .readings(exit)
            .iter()
            .map(|reading| reading.uncertainty)
            .enumerate()
            .map(|(sample, unsure)| (unsure, self.right(exit, sample)))
            .collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut wins, mut right) = (0.0, 0usize);
        for equal in values.chunk_by(|a, b| a.0 == b.0) {
            let here = equal.iter().filter(|(_, right)| *right).count();
            wins += (equal.len() - here) as f64 * (right as f64 + here as f64 / 2.0);
            right += here;
        }
        wins / (right as f64 * (values.len() - right) as f64)
    }

    /// The mean negative log-likelihood of an exit (from 0) at a temperature.
    fn likelihood(&self, exit: usize, temperature: f64) -> f64 {
        let classes = self.classes();
        let of = |(logits, &label): (&[f32], &u8)| {
            let z = |i: usize| f64::from(logits[i]) / temperature;
            let largest = (0..classes).map(z).fold(f64::MIN, f64::max);
            (0..classes).map(|i| (z(i) - largest).exp()).sum::<f64>().ln() + largest - z(usize::from(label))
        };
        let samples = self.logits(exit).chunks(classes).zip(self.labels());
        samples.map(of).sum::<f64>() / self.len() as f64
    }
}

impl ExitRecord<Validation> {
    /// For each exit the temperature at which these samples are most likely, between 0.05 and 20.
    pub fn temperatures(&self) -> Vec<f64> {
        // The likelihood has one minimum: golden-section search on the logarithm.
        let ratio = (5f64.sqrt() - 1.0) / 2.0;
        let best = |exit: usize| {
            let at = |log: f64| self.likelihood(exit, log.exp());
            let (mut low, mut high) = (0.05f64.ln(), 20f64.ln());
            while high - low > 1e-4 {
                let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
                if at(left) < at(right) { high = right } else { low = left }
            }
            ((low + high) / 2.0).exp()
        };
        (0..self.exits()).map(best).collect()
    }

    /// A criterion that is learned from these samples: for each exit the probability of a wrong answer by a logistic
    /// regression on the entropy, the two largest probabilities (as log odds), and whether the exit before agrees.
    /// Thresholds for it want other samples than these.
    pub fn learned_gate(&self) -> Criterion {
        let classes = self.classes();
        let gates: Vec<Logistic> = (0..self.exits())
            .map(|exit| {
                let features = |sample: usize| {
                    let so_far = (0..=exit).flat_map(|e| &self.logits(e)[sample * classes..][..classes]);
                    let seen: Vec<f32> = so_far.copied().collect();
                    (features(Seen::new(&seen, classes)), !self.right(exit, sample))
                };
                Logistic::fit(&(0..self.len()).map(features).collect::<Vec<_>>())
            })
            .collect();
        Criterion::own("probability of a wrong answer, learned", move |seen| {
            let exit = seen.exits().count() - 1;
            gates.get(exit).map_or(f64::NAN, |gate| gate.probability(&features(seen)))
        })
    }
}

const FEATURES: usize = 5;

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

/// A logistic regression on features that are scaled to mean 0 and deviation 1, but for the first, which is 1.
struct Logistic {
    mean: [f64; FEATURES],
    deviation: [f64; FEATURES],
    weights: [f64; FEATURES],
}

impl Logistic {
    fn fit(samples: &[([f64; FEATURES], bool)]) -> Self {
        let n = samples.len() as f64;
        let mut gate = Self { mean: [0.0; FEATURES], deviation: [1.0; FEATURES], weights: [0.0; FEATURES] };
        for i in 1..FEATURES {
            let mean = samples.iter().map(|(x, _)| x[i]).sum::<f64>() / n;
            let variance = samples.iter().map(|(x, _)| (x[i] - mean).powi(2)).sum::<f64>() / n;
            (gate.mean[i], gate.deviation[i]) = (mean, variance.sqrt().max(1e-9));
        }
        // Gradient descent with momentum on a convex function, with a little decay for features that say the same.
        let mut velocity = [0.0; FEATURES];
        for _ in 0..500 {
            let mut gradient = gate.weights.map(|w| 1e-4 * w);
            for (x, wrong) in samples {
                let error = gate.probability(x) - f64::from(u8::from(*wrong));
                let scaled = gate.scaled(x);
                gradient.iter_mut().zip(scaled).for_each(|(g, x)| *g += error * x / n);
            }
            for ((weight, velocity), gradient) in gate.weights.iter_mut().zip(&mut velocity).zip(gradient) {
                *velocity = 0.9 * *velocity - gradient;
                *weight += *velocity;
            }
        }
        gate
    }

    fn scaled(&self, x: &[f64; FEATURES]) -> [f64; FEATURES] {
        std::array::from_fn(|i| (x[i] - self.mean[i]) / self.deviation[i])
    }

    fn probability(&self, x: &[f64; FEATURES]) -> f64 {
        let scaled = self.scaled(x);
        let z: f64 = scaled.iter().zip(&self.weights).map(|(x, w)| x * w).sum();
        1.0 / (1.0 + (-z).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One exit, two classes; of each probability so many samples, and so many right.
    fn record(groups: &[(f64, usize, usize)]) -> Result<ExitRecord<Validation>> {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for &(probability, count, right) in groups {
            for i in 0..count {
                logits.extend([(probability / (1.0 - probability)).ln() as f32, 0.0]);
                labels.push(u8::from(i >= right));
            }
        }
        ExitRecord::from_logits(vec![logits], labels)
    }

    #[test]
    fn calibration_is_measured_and_mended_by_a_temperature() -> Result<()> {
        let exact = record(&[(0.9, 100, 90), (0.6, 100, 60)])?;
        assert!(exact.calibration_error(0) < 1e-6);
        assert!((exact.temperatures()[0] - 1.0).abs() < 0.01);
        // A wrong answer is less sure than a right one: 40 of 50 wrong ones are in the second group, …
        let expected = (40.0 * 90.0 + 40.0 * 60.0 / 2.0 + 10.0 * 90.0 / 2.0) / (50.0 * 150.0);
        assert!((exact.failure_prediction(0) - expected).abs() < 1e-12);
        // Twice the logits are too sure.
        let sure = exact.scaled(&[0.5])?;
        let probability = |p: f64| p * p / (p * p + (1.0 - p) * (1.0 - p));
        let error = (probability(0.9) - 0.9 + probability(0.6) - 0.6) / 2.0;
        assert!((sure.calibration_error(0) - error).abs() < 1e-6);
        assert!((sure.temperatures()[0] - 2.0).abs() < 0.02);
        assert_eq!(sure.failure_prediction(0), exact.failure_prediction(0));
        assert!(sure.scaled(&[1.0, 1.0]).is_err() && sure.scaled(&[0.0]).is_err());
        Ok(())
    }

    #[test]
    fn exits_that_answer_together_have_the_mean_of_their_log_probabilities() -> Result<()> {
        let logits = vec![vec![1.0, 0.0, -2.0], vec![0.5, 3.0, 0.0]];
        let both = ExitRecord::<Validation>::from_logits(logits.clone(), vec![1])?.ensembled()?;
        let softmax = |z: &[f32]| -> Vec<f64> { Seen::new(z, 3).probabilities() };
        let (a, b) = (softmax(&logits[0]), softmax(&logits[1]));
        let products: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a * b).sqrt()).collect();
        let sum: f64 = products.iter().sum();
        for (got, product) in softmax(both.logits(1)).into_iter().zip(products) {
            assert!((got - product / sum).abs() < 1e-6);
        }
        assert!(softmax(both.logits(0)).iter().zip(&a).all(|(got, a)| (got - a).abs() < 1e-6));
        Ok(())
    }

    #[test]
    fn a_learned_gate_is_calibrated_where_the_softmax_is_not() -> Result<()> {
        let sure = record(&[(0.99, 200, 150), (0.7, 200, 100)])?;
        let gated = sure.by(&sure.learned_gate());
        let unsure = |sample: usize| gated.readings(0)[sample].uncertainty;
        assert!(
            (unsure(0) - 0.25).abs() < 0.01 && (unsure(399) - 0.5).abs() < 0.01,
            "{} {}",
            unsure(0),
            unsure(399)
        );
        assert_eq!(gated.failure_prediction(0), sure.failure_prediction(0));
        Ok(())
    }
}
