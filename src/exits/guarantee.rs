//! Thresholds with a guarantee for images that nobody has seen: fixed-sequence testing, as in "Learn then
//! Test" (Angelopoulos et al. 2021, <https://arxiv.org/abs/2110.01052>).

use super::outcome::Outcome;
use super::record::ExitRecord;
use crate::data::Validation;
use crate::error::bail;
use crate::{Result, Rng};
use rand::SeedableRng;
use rand::seq::SliceRandom;

/// What early exit must not do too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Give another answer than the last exit would. This needs no labels.
    Different,
    /// Give a wrong answer where the last exit's is right; an upper bound for the accuracy that is lost.
    Wrong,
}

impl ExitRecord<Validation> {
    /// Cheap thresholds at which at most the share `epsilon` of all answers is lost, with probability
    /// 1 − `delta`, over images of the kind of the validation images, of which these are a random draw.
    ///
    /// One half of the images orders thresholds, from those at which nothing leaves early to the cheapest: the
    /// front of cost and agreement with the last exit there. The other half tests them in this order, each by
    /// the exact binomial probability of so few losses if the share were `epsilon`; the last before the first
    /// that fails is chosen. The order is fixed before the test, so that one test at level `delta` is enough
    /// for all.
    ///
    /// ```no_run
    /// use branchynet::prelude::*;
    ///
    /// let results = Session::from_environment("lenet")?.results()?;
    /// let costs = [220_150.0, 1_247_720.0];
    /// let chosen = results.validation.choose_with_guarantee(Loss::Different, 0.01, 0.05, &costs)?;
    /// println!("{:?}", results.test.outcome(&chosen.thresholds, &costs)?);
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails where `epsilon` or `delta` are not between 0 and 1.
    pub fn choose_with_guarantee(
        &self,
        loss: Loss,
        epsilon: f64,
        delta: f64,
        costs: &[f64],
    ) -> Result<Outcome> {
        self.check_costs(costs)?;
        if ![epsilon, delta].iter().all(|x| *x > 0.0 && *x < 1.0) {
            bail!(Setting, "epsilon and delta must be between 0 and 1, got {epsilon} and {delta}")
        }
        let mut samples: Vec<usize> = (0..self.len()).collect();
        samples.shuffle(&mut Rng::seed_from_u64(0));
        let (order, test) = samples.split_at(self.len() / 2);
        let mut chosen = vec![self.criterion().never(); self.exits() - 1];
        if order.is_empty() {
            return self.outcome(&chosen, costs);
        }
        let test = self.select(test)?;
        for outcome in self.select(order)?.front_of_agreement(costs)? {
            let lost = test.lost(loss, &outcome.thresholds)?;
            if at_most(lost, test.len(), epsilon) > delta {
                break;
            }
            chosen = outcome.thresholds;
        }
        self.outcome(&chosen, costs)
    }

    /// The thresholds that no others beat in both cost and agreement with the last exit, from full agreement on.
    fn front_of_agreement(&self, costs: &[f64]) -> Result<Vec<Outcome>> {
        let last = self.readings(self.exits() - 1);
        let agreed = last.iter().map(|reading| reading.label as u8).collect();
        let logits = (0..self.exits()).map(|exit| self.logits(exit).to_vec()).collect();
        let record = Self::from_logits(logits, agreed)?.by(self.criterion().clone());
        let mut front = record.pareto_front(costs)?;
        front.reverse();
        Ok(front)
    }

    /// How many samples lose at these thresholds.
    fn lost(&self, loss: Loss, thresholds: &[f64]) -> Result<usize> {
        let last = self.readings(self.exits() - 1);
        let answers = self.answers(thresholds)?;
        let lost = answers.iter().zip(last).zip(self.labels()).filter(|((answer, last), label)| {
            let right = |answer: usize| answer == usize::from(**label);
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
}
