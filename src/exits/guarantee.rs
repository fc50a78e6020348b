//! Thresholds with a guarantee for images that nobody has seen: fixed-sequence testing, as in "Learn then
//! Test" (Angelopoulos et al. 2021, <https://arxiv.org/abs/2110.01052>).

use super::operating_point::OperatingPoint;
use super::policy::ExitPolicy;
use super::promise::{Loss, Promise};
use super::record::ExitRecord;
use crate::data::{Role, Validation};
use crate::{Result, Rng, bail};
use rand::SeedableRng;
use rand::seq::SliceRandom;

impl ExitRecord<Validation> {
    /// The policy of [`Self::learn_then_test`]'s thresholds, with what they promise.
    pub fn promise(&self, loss: Loss, epsilon: f64, delta: f64, costs: &[f64]) -> Result<ExitPolicy> {
        let chosen = self.learn_then_test(loss, epsilon, delta, costs)?;
        let promise = Promise { loss, epsilon, delta, images: self.len() };
        Ok(ExitPolicy { promise: Some(promise), ..self.policy(&chosen.thresholds) })
    }

    /// Cheap thresholds at which at most the share `epsilon` of all answers is lost, with probability
    /// 1 − `delta`, over images of the kind of the validation images, of which these are a random draw.
    ///
    /// One half of the images orders thresholds, from those at which nothing leaves early to the cheapest: the
    /// front of cost and agreement with the last exit there. The other half tests them in this order, each by
    /// the exact binomial probability of so few losses if the share were `epsilon`; the last before the first
    /// that fails is chosen. The order is fixed before the test, so that one test at level `delta` is enough
    /// for all. With two exits there is one threshold, whose order needs no images, and all of them test.
    ///
    /// ```no_run
    /// use branchynet::prelude::*;
    ///
    /// # fn of(network: Network, data: Dataset) -> Result<()> {
    /// let (validation, costs) = (ExitRecord::collect(&network, &data.validation)?, network.macs());
    /// let chosen = validation.learn_then_test(Loss::Different, 0.01, 0.05, &costs)?;
    /// let test = ExitRecord::collect(&network, &data.test)?;
    /// println!("{:?}", test.operating_point(&chosen.thresholds, &costs)?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Fails where `epsilon` or `delta` is not between 0 and 1.
    pub fn learn_then_test(
        &self,
        loss: Loss,
        epsilon: f64,
        delta: f64,
        costs: &[f64],
    ) -> Result<OperatingPoint> {
        if !(delta > 0.0 && delta < 1.0) {
            bail!(Setting, "delta must be between 0 and 1, got {delta}")
        }
        self.walk(loss, epsilon, costs, |lost, n| at_most(lost, n, epsilon) <= delta)
    }

    /// How many images [`Self::learn_then_test`] needs at least to promise anything for a network with so many exits: with
    /// fewer, even a test without a loss does not speak against a share of `epsilon`, and nobody leaves early.
    pub fn images_needed(exits: usize, epsilon: f64, delta: f64) -> usize {
        // (1 − ε)^n ≤ δ
        let tested = (delta.ln() / (1.0 - epsilon).ln()).ceil() as usize;
        if exits <= 2 { tested } else { 2 * tested - 1 }
    }

    /// Cheap thresholds at which the share of answers that is lost is at most `epsilon` in the mean over draws of
    /// validation images: conformal risk control (Angelopoulos et al. 2022, <https://arxiv.org/abs/2208.02814>), less
    /// than [`Self::learn_then_test`] promises. The order is found as there; as bolder thresholds may lose
    /// less, the walk ends at the first that loses too much. Fails unless `epsilon` is between 0 and 1.
    pub fn conformal_risk_control(&self, loss: Loss, epsilon: f64, costs: &[f64]) -> Result<OperatingPoint> {
        self.walk(loss, epsilon, costs, |lost, n| (lost + 1) as f64 <= epsilon * (n + 1) as f64)
    }

    /// The cheapest thresholds at which at most the share `epsilon` of these samples is lost: no promise for
    /// others. Fails unless `epsilon` is between 0 and 1.
    pub fn choose_without_guarantee(
        &self,
        loss: Loss,
        epsilon: f64,
        costs: &[f64],
    ) -> Result<OperatingPoint> {
        let mut chosen = self.nobody();
        // Answers that differ from the last exit's need not be wrong.
        let times = if loss == Loss::Different { 1.0 } else { f64::INFINITY };
        for outcome in self.ordered(epsilon, times, costs)? {
            if self.lost(loss, &outcome.thresholds)? as f64 <= epsilon * self.len() as f64 {
                chosen = outcome.thresholds;
            }
        }
        self.operating_point(&chosen, costs)
    }

    /// The last thresholds before the first that fail: ordered on one half of the samples and tested on the other, or
    /// on all where there is one threshold, by `passes`, which gets how many of how many are lost.
    fn walk(
        &self,
        loss: Loss,
        epsilon: f64,
        costs: &[f64],
        passes: impl Fn(usize, usize) -> bool,
    ) -> Result<OperatingPoint> {
        let mut samples: Vec<usize> = (0..self.len()).collect();
        samples.shuffle(&mut Rng::seed_from_u64(0));
        let (order, test) = match self.exits() {
            // A single threshold loses more the higher it is: the order is known without looking.
            2 => (&samples[..], &samples[..]),
            _ => samples.split_at(self.len() / 2),
        };
        let mut chosen = self.nobody();
        if order.is_empty() {
            return self.operating_point(&chosen, costs);
        }
        let (order, test) = (self.select(order)?, self.select(test)?);
        // Most walks end near `epsilon`, and the rest of the front is most of the work.
        for times in [2.0, f64::INFINITY] {
            for outcome in order.ordered(epsilon, times, costs)? {
                if !passes(test.lost(loss, &outcome.thresholds)?, test.len()) {
                    return self.operating_point(&chosen, costs);
                }
                chosen = outcome.thresholds;
            }
        }
        self.operating_point(&chosen, costs)
    }

    /// Thresholds at which nobody leaves early.
    fn nobody(&self) -> Vec<f64> {
        self.criterion().leaving_at(self.exits() - 1, self.exits())
    }

    /// The thresholds that no others beat in both cost and agreement with the last exit, from full agreement on,
    /// until more than `times` `epsilon` of the answers differ; all, where the front has no such part.
    fn ordered(&self, epsilon: f64, times: f64, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        if !(epsilon > 0.0 && epsilon < 1.0) {
            bail!(
                Setting,
                "the share of answers that may be lost must be above 0 and below 1 (0.01 is 1 %), got {epsilon}"
            )
        }
        let last = self.predictions(self.exits() - 1);
        let agreed = self.labelled(last.iter().map(|prediction| prediction.label as u32).collect());
        let differ = ((times * epsilon).min(1.0) * self.len() as f64) as usize;
        let mut front = agreed.front_from(self.len() - differ, costs)?;
        front.reverse();
        Ok(front)
    }
}

impl<R: Role> ExitRecord<R> {
    /// How many samples lose at these thresholds.
    pub fn lost(&self, loss: Loss, thresholds: &[f64]) -> Result<usize> {
        let last = self.predictions(self.exits() - 1);
        let answers = self.answers(thresholds)?;
        let lost = answers.iter().zip(last).zip(self.labels()).filter(|((answer, last), label)| {
            let right = |answer: usize| answer == **label as usize;
            match loss {
                Loss::Different => answer.label != last.label,
                Loss::Wrong => right(last.label) && !right(answer.label),
            }
        });
        Ok(lost.count())
    }
}

/// The probability that at most `k` of `n` independent samples lose where each does with probability `p`.
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    // Logarithms: (1 − p)^n may be too small for a double.
    let odds = (p / (1.0 - p)).ln();
    let mut term = n as f64 * (1.0 - p).ln();
    let mut sum = term.exp();
    for i in 0..k.min(n) {
        term += ((n - i) as f64 / (i + 1) as f64).ln() + odds;
        sum += term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binomial_distribution_is_exact() {
        // 0.9^3 + 3 · 0.1 · 0.9^2
        assert!((at_most(1, 3, 0.1) - 0.972).abs() < 1e-12);
        assert!((at_most(3, 3, 0.1) - 1.0).abs() < 1e-12);
        // Of 5,000 samples 38 may lose for at most 1 % with 95 % confidence, and of 50,000 with 20 % 9,852:
        // scipy.stats.binom.ppf(0.05, …) − 1
        assert!(at_most(38, 5_000, 0.01) <= 0.05 && at_most(39, 5_000, 0.01) > 0.05);
        assert!(at_most(9_851, 50_000, 0.2) <= 0.05 && at_most(9_853, 50_000, 0.2) > 0.05);
    }

    #[test]
    fn so_many_images_are_needed() -> Result<()> {
        let needed = |exits| ExitRecord::<Validation>::images_needed(exits, 0.01, 0.05);
        assert_eq!((needed(2), needed(3)), (299, 597));
        for (exits, enough) in [(2, 299), (3, 597)] {
            for (images, leave) in [(enough - 1, false), (enough, true)] {
                // All exits sure of the right class.
                let record = ExitRecord::<Validation>::from_logits(
                    vec![[9.0, 0.0].repeat(images); exits],
                    vec![0; images],
                )?;
                let costs: Vec<f64> = (1..=exits).map(|exit| exit as f64).collect();
                let chosen = record.learn_then_test(Loss::Different, 0.01, 0.05, &costs)?;
                assert_eq!(chosen.leaving[0] == images, leave, "{exits} exits, {images} images");
            }
        }
        Ok(())
    }

    #[test]
    fn a_part_of_the_front_is_as_in_the_whole() -> Result<()> {
        use rand::Rng as _;
        let (n, mut rng) = (300, Rng::seed_from_u64(1));
        let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..3)).collect();
        let logits =
            (0..3).map(|_| (0..3 * n).map(|_| rng.random_range(0..9) as f32 / 2.0).collect()).collect();
        let record = ExitRecord::<Validation>::from_logits(logits, labels)?;
        for costs in [[1.0, 2.0, 3.0], [1.0, 4.0, 3.0]] {
            let whole = record.pareto_front(&costs)?;
            assert!(whole.len() > 5);
            for OperatingPoint { right: least, .. } in &whole {
                let mut part = whole.clone();
                part.retain(|outcome| outcome.right >= *least);
                assert_eq!(record.front_from(*least, &costs)?, part);
            }
        }
        Ok(())
    }
}
