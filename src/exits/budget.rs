//! A budget that is held while images shift, without labels: thresholds follow running quantiles.
//!
//! Where images become harder, exits are less sure, fewer images leave at fixed thresholds, and the mean cost grows. Here each
//! threshold is a quantile of the uncertainties that validation images had at its exit, and its level moves after each
//! image that reaches the exit: up by `step` times the share that is to leave where the image stays, down by `step` times
//! the rest where it leaves. This is the subgradient of the pinball loss, whose least is the quantile of the images that
//! come, on the scale of adaptive conformal inference (Gibbs and Candès 2021, <https://arxiv.org/abs/2106.00170>): the
//! same step suits every criterion.

use super::policy::ExitPolicy;
use super::record::ExitRecord;
use super::shares::threshold;
use crate::data::Validation;
use crate::{Result, bail};
use serde::{Deserialize, Serialize};

/// Thresholds that move so that given shares of the images leave at each exit.
///
/// Whatever images come, in whatever order: of n images that reached an exit and of which it was sure or unsure by a number,
/// the share that left there is off by at most (1 + `step`) / (`step` n). For the level then stays within a step of 0..=1,
/// beyond which all leave or none does, and the sum of its moves is what the share is off by, times `step` n. The
/// level forgets in about 1/`step` images, and trembles the more the larger the step is. What is held is the share,
/// and so the mean cost; a promise about answers is not: see [`super::Watch`].
///
/// ```
/// use branchynet::prelude::*;
///
/// // One image is as hard as the next; half of them are to leave at exit 1.
/// let logits = vec![(0..100).flat_map(|i| [i as f32 / 20.0, 0.0]).collect(), vec![9.0; 200]];
/// let record = ExitRecord::<Validation>::from_logits(logits, vec![0; 100])?;
/// let mut budget = Budget::new(&record, &[0.5, 0.5], 0.01)?;
/// let network = Network::new("small", [1, 2, 2], [branch([linear(4, 2)]), relu(), linear(4, 2)], 0, &Device::Cpu)?;
/// let mut plan = Plan::new(&network)?;
/// for image in [[0.1; 4], [0.9; 4]] {
///     let answer = plan.classify(&image, budget.policy())?;
///     budget.see(answer.exit);
/// }
/// # Ok::<(), branchynet::Error>(())
/// ```
///
/// As JSON it is whole, and a stream goes on with it as if it had not been interrupted, bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    policy: ExitPolicy,
    step: f64,
    exits: Vec<Quantile>,
}

/// What holds the share at one exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantile {
    /// Of the images that reach the exit, in 0..=1.
    share: f64,
    level: f64,
    /// The uncertainties of the validation images that reach the exit, in order.
    scale: Vec<f64>,
}

impl Budget {
    /// Begins at the thresholds at which these shares of the validation images leave at each exit
    /// ([`ExitRecord::thresholds_for`]). The shares of an operating point that was chosen for its cost
    /// ([`super::OperatingPoint::shares`]) hold that cost. Fails where they do not fit the exits, or `step` is not between
    /// 0 and 1; 0.005 is a good one.
    pub fn new(record: &ExitRecord<Validation>, shares: &[f64], step: f64) -> Result<Self> {
        if !(step > 0.0 && step < 1.0) {
            bail!(Setting, "the step of a budget must be between 0 and 1, got {step}")
        }
        let thresholds = record.thresholds_for(shares)?;
        let answers = record.answers(&thresholds)?;
        let mut reach = 1.0;
        let quantile = |(exit, share): (usize, &f64)| {
            let here =
                record.predictions(exit).iter().zip(&answers).filter(|(_, answer)| answer.exit >= exit);
            let mut scale: Vec<f64> = here.map(|(p, _)| p.uncertainty).filter(|u| u.is_finite()).collect();
            scale.sort_by(f64::total_cmp);
            let share = if reach > 0.0 { (share / reach).min(1.0) } else { 0.0 };
            reach *= 1.0 - share;
            Quantile { share, level: share, scale }
        };
        let exits = shares[..shares.len() - 1].iter().enumerate().map(quantile).collect();
        Ok(Self { policy: record.policy(&thresholds), step, exits })
    }

    /// The policy as it is now.
    pub fn policy(&self) -> &ExitPolicy {
        &self.policy
    }

    /// Moves the thresholds of the exits that an image has reached, given the exit (from 0) where it left by
    /// [`Self::policy`]. In batches: one image after the other, when all have their answers.
    pub fn see(&mut self, left: usize) {
        let never = self.policy.readout.criterion.never();
        for (exit, quantile) in self.exits.iter_mut().enumerate().take(left + 1) {
            let leaves = f64::from(u8::from(exit == left));
            let level = quantile.level + self.step * (quantile.share - leaves);
            // Numbers never pass these ends; exits whose logits are none would go on for ever.
            quantile.level = level.clamp(-self.step, 1.0 + self.step);
            let leaving = (quantile.level * quantile.scale.len() as f64).round() as usize;
            self.policy.thresholds[exit] = threshold(&quantile.scale, leaving, never);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Criterion;
    use rand::{Rng as _, SeedableRng};

    /// Three exits, and 400 images of which each exit is differently sure: logits of two classes that lie `by` apart.
    fn record(by: f32) -> Result<ExitRecord<Validation>> {
        let exit =
            |step: usize| (0..400).flat_map(|i| [by * ((i * step) % 401) as f32 / 100.0, 0.0]).collect();
        ExitRecord::from_logits(vec![exit(7), exit(11), exit(17)], vec![0; 400])
    }

    #[test]
    fn levels_move_as_computed_by_hand() -> Result<()> {
        // Two exits, four images, of which exit 1 is the surer the larger the logit: 3/4 are to leave.
        let logits = vec![vec![1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0], vec![1.0; 8]];
        let record = ExitRecord::<Validation>::from_logits(logits, vec![0; 4])?.by(&Criterion::Probability);
        let unsure = |logit: f64| 1.0 / (1.0 + logit.exp());
        let mut budget = Budget::new(&record, &[0.75, 0.25], 0.2)?;
        assert_eq!(budget.policy(), &record.policy(&record.thresholds_for(&[0.75, 0.25])?));
        // Levels: 0.75, 0.9, 1.05, 1, 0.95, 0.9, 0.85; all leave from 7/8 on.
        for (exit, expected) in
            [(1, f64::INFINITY), (1, f64::INFINITY), (0, f64::INFINITY), (0, f64::INFINITY)]
        {
            budget.see(exit);
            assert_eq!(budget.policy().thresholds, [expected]);
        }
        budget.see(0);
        budget.see(0);
        let between = (unsure(1.0) + unsure(2.0)) / 2.0;
        assert!((budget.policy().thresholds[0] - between).abs() < 1e-12);
        assert!((budget.exits[0].level - 0.85).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn the_share_is_held_whatever_comes() -> Result<()> {
        let (record, step, shares) = (record(1.0)?, 0.02, [0.5, 0.3, 0.2]);
        let conditional = [0.5, 0.6];
        let mut rng = crate::Rng::seed_from_u64(2);
        // How sure the exits are: as before, of nothing, of everything, in turn, and of one image and not of the next.
        let worlds: [fn(usize, f64) -> f64; 4] = [
            |_, u| u,
            |_, u| 2.0 + u,
            |_, u| u / 1e9,
            |i, u| if i / 300 % 2 == 0 { u / 9.0 } else { 9.0 * u },
        ];
        for (number, world) in worlds.into_iter().enumerate() {
            let mut budget = Budget::new(&record, &shares, step)?;
            let mut left = [(0, 0); 2];
            for i in 0..5_000 {
                let mut exit = 0;
                while exit < 2 {
                    let sample = rng.random_range(0..record.len());
                    let leaves =
                        budget.policy().leaves(exit, world(i, record.predictions(exit)[sample].uncertainty));
                    left[exit].0 += usize::from(leaves);
                    left[exit].1 += 1;
                    if leaves {
                        break;
                    }
                    exit += 1;
                }
                budget.see(exit);
                for ((left, reached), share) in left.into_iter().zip(conditional).filter(|((_, n), _)| *n > 0)
                {
                    let off = (left as f64 / reached as f64 - share).abs();
                    assert!(off <= (1.0 + step) / (step * reached as f64) + 1e-9, "world {number}: {off}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn logits_that_are_no_numbers_leave_a_budget_able_to_come_back() -> Result<()> {
        let mut budget = Budget::new(&record(1.0)?, &[0.5, 0.3, 0.2], 0.02)?;
        (0..10_000).for_each(|_| budget.see(2));
        (0..30).for_each(|_| budget.see(0));
        assert!(budget.policy().thresholds[0].is_finite());
        Ok(())
    }

    #[test]
    fn a_restored_budget_goes_on_bit_for_bit() -> Result<()> {
        let other = record(0.3)?;
        let run = |interrupted: bool| -> Result<(Budget, Vec<usize>)> {
            let (mut budget, mut exits) = (Budget::new(&record(1.0)?, &[0.5, 0.3, 0.2], 0.02)?, Vec::new());
            for sample in (0..800).map(|i| i * 7 % 400) {
                let leaves =
                    |&exit: &usize| budget.policy().leaves(exit, other.predictions(exit)[sample].uncertainty);
                let exit = (0..3).find(leaves).unwrap_or(2);
                budget.see(exit);
                exits.push(exit);
                if interrupted && sample % 10 == 0 {
                    budget = serde_json::from_str(&serde_json::to_string(&budget)?)?;
                }
            }
            Ok((budget, exits))
        };
        assert_eq!(run(false)?, run(true)?);
        Ok(())
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() -> Result<()> {
        let record = record(1.0)?;
        for step in [0.0, 1.0, -0.1, f64::NAN] {
            let refused = Budget::new(&record, &[0.5, 0.3, 0.2], step).unwrap_err().to_string();
            assert!(refused.contains("step"), "{refused}");
        }
        assert!(Budget::new(&record, &[0.5, 0.5], 0.01).is_err());
        // Nobody is to reach exit 2, or nobody to leave at all.
        for shares in [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]] {
            let mut budget = Budget::new(&record, &shares, 0.01)?;
            let leaving = if shares[0] == 1.0 { 0 } else { 2 };
            budget.see(leaving);
            assert_eq!(budget.policy().thresholds[0], if leaving == 0 { f64::INFINITY } else { 0.0 });
        }
        Ok(())
    }
}
