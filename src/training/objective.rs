//! The settings of the joint loss: ways to let exits help each other.

use crate::{Result, bail};
use clap::builder::BoolishValueParser;
use serde::{Deserialize, Serialize};

/// How the joint loss differs from a weighted sum of cross-entropies. By default it does not; with one exit it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Objective {
    /// Distillation: the share of each early exit's loss that is its distance from what the last exit says
    #[arg(long, env, value_name = "X")]
    pub distillation: f64,
    /// Temperature of distillation, by which the logits of both exits are divided
    #[arg(long, env, value_name = "X")]
    pub distillation_temperature: f64,
    /// Gating: how much less an exit learns from an image that an exit before it gets right: 0 as from others, 1 less by
    /// the probability that the earlier exit gives to the label
    #[arg(long, env, value_name = "X")]
    pub gating: f64,
    /// Gradient equilibrium: the trunk follows the mean of the exits behind it, not their sum
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub equilibrium: bool,
    /// Balanced exits: in each epoch an exit's weight is divided by its loss in the epoch before
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub balanced: bool,
    /// Label smoothing at the last exit alone
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub smooth_last_only: bool,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            distillation: 0.0,
            distillation_temperature: 3.0,
            gating: 0.0,
            equilibrium: false,
            balanced: false,
            smooth_last_only: false,
        }
    }
}

/// An exit that hardly loses anything more would take all of the weight: a loss counts for at least so much, in nats.
const LEAST_LOSS: f64 = 0.01;

impl Objective {
    /// Fails on settings that make no sense, naming them.
    pub(super) fn check(&self, frozen: bool) -> Result<()> {
        let Self { distillation, distillation_temperature: temperature, gating, .. } = *self;
        if !(0.0..=1.0).contains(&distillation) || !(0.0..=1.0).contains(&gating) {
            bail!(Setting, "distillation and gating must be in 0..=1, got {distillation} and {gating}")
        }
        if !(temperature.is_finite() && temperature > 0.0) {
            bail!(Setting, "distillation_temperature must be above 0, got {temperature}")
        }
        if frozen && self.equilibrium {
            bail!(
                Setting,
                "equilibrium=yes is about what the trunk learns, and with frozen=yes it learns nothing"
            )
        }
        Ok(())
    }

    /// The exits' weights for an epoch, given the losses of the one before. Divided by the losses, and with the same sum, they
    /// are the optimum of the weights by uncertainty of Kendall et al. 2018, <https://arxiv.org/abs/1705.07115>. That they
    /// hang on the last epoch's losses alone lets a run go on from its checkpoint.
    pub(super) fn weights(&self, given: &[f64], before: Option<&[f64]>) -> Vec<f64> {
        let Some(before) = before.filter(|_| self.balanced) else {
            return given.to_vec();
        };
        let divided = given.iter().zip(before).map(|(weight, loss)| weight / loss.max(LEAST_LOSS));
        let divided: Vec<f64> = divided.collect();
        let scale = given.iter().sum::<f64>() / divided.iter().sum::<f64>();
        divided.iter().map(|weight| weight * scale).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_divided_by_the_losses_of_the_epoch_before() {
        const WEIGHTS: [f64; 3] = [1.0, 0.3, 0.7];
        const LOSSES: [f64; 3] = [0.5, 0.25, 0.0];
        let balanced = Objective { balanced: true, ..Objective::default() };
        assert_eq!(Objective::default().weights(&WEIGHTS, Some(&LOSSES)), WEIGHTS);
        assert_eq!(balanced.weights(&WEIGHTS, None), WEIGHTS);
        // 1 / 0.5, 0.3 / 0.25 and 0.7 / 0.01, of a sum of 2.
        let weights = balanced.weights(&WEIGHTS, Some(&LOSSES));
        for (weight, expected) in weights.iter().zip([2.0, 1.2, 70.0].map(|x| x * 2.0 / 73.2)) {
            assert!((weight - expected).abs() < 1e-12, "{weights:?}");
        }
    }
}
