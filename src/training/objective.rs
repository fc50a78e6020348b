//! What a step makes smaller: the exits' losses, and ways to let exits help each other.

use super::cascade::cascade;
use super::config::{Config, changed};
use super::run::Epoch;
use crate::kernels::{self, Losses};
use crate::{Result, bail};
use candle_core::Tensor;
use candle_nn::ops::softmax;
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
    pub(super) fn check(&self, exits: usize, frozen: bool) -> Result<()> {
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
        if exits == 1
            && let Some([name, value, default]) = changed(self)?
        {
            bail!(
                Setting,
                "{name}={value} is for networks with early exits, and this one has none; set {name}={default}"
            )
        }
        Ok(())
    }

    /// The exits' weights for the epoch after this one. Divided by the losses, and with the same sum, they are the optimum
    /// of the weights by uncertainty of Kendall et al. 2018, <https://arxiv.org/abs/1705.07115>. That it hangs on the last
    /// epoch's losses alone lets a run go on from its checkpoint.
    pub(super) fn weights(&self, given: &[f64], before: Option<&Epoch>) -> Vec<f64> {
        let Some(before) = before.filter(|_| self.balanced) else {
            return given.to_vec();
        };
        let divided =
            given.iter().zip(&before.train.loss).map(|(weight, loss)| weight / loss.max(LEAST_LOSS));
        let divided: Vec<f64> = divided.collect();
        let scale = given.iter().sum::<f64>() / divided.iter().sum::<f64>();
        divided.iter().map(|weight| weight * scale).collect()
    }
}

/// Of the logits (batch, classes) of each exit: the cross-entropy of every sample with its label, and the gradient of the
/// objective by the logits.
///
/// The objective is the mean over the batch of `Σ_n w_n g_n ((1 − d) CE(softmax(z_n), y) + d t² KL(softmax(z_N / t) ‖
/// softmax(z_n / t)))`, with d = 0 for the last exit N: its answer is what the others learn, and it does not learn from
/// them (as Phuong and Lampert 2019, <https://openaccess.thecvf.com/content_ICCV_2019/html/Phuong_Distillation-Based_Training_for_Multi-Exit_Architectures_ICCV_2019_paper.html>).
/// The gate `g_n = 1 − gating · max_{m < n} p_m(y)` is a soft form of the cascade and of confidence-gated training
/// (Mokssit et al. 2025, <https://arxiv.org/abs/2509.17885>); through it no gradient flows.
pub(super) fn gradients(
    logits: &[Tensor],
    labels: &Tensor,
    weights: &[f64],
    config: &Config,
) -> Result<(Vec<Losses>, Vec<Tensor>)> {
    let Objective { distillation, distillation_temperature: temperature, gating, .. } = config.objective;
    let (batch, last) = (labels.elem_count() as f64, logits.len() - 1);
    let mut losses = Vec::with_capacity(logits.len());
    for (exit, (z, weight)) in logits.iter().zip(weights).enumerate() {
        let smoothed = exit == last || !config.objective.smooth_last_only;
        let smoothing = if smoothed { config.label_smoothing } else { 0.0 };
        losses.push(kernels::cross_entropy(z, labels, weight / batch, smoothing)?);
    }
    let mut gradients: Vec<_> = losses.iter().map(|loss| loss.gradient.clone()).collect();
    if distillation > 0.0 {
        let softened = |z: &Tensor| softmax(&(z / temperature)?, 1);
        let taught = softened(&logits[last])?;
        for ((gradient, z), weight) in gradients.iter_mut().zip(&logits[..last]).zip(weights) {
            let apart = ((softened(z)? - &taught)? * (distillation * temperature * weight / batch))?;
            *gradient = ((&*gradient * (1.0 - distillation))? + apart)?;
        }
    }
    if gating > 0.0 {
        let labels = labels.unsqueeze(1)?;
        let mut right: Option<Tensor> = None;
        for (gradient, z) in gradients[1..].iter_mut().zip(logits) {
            let here = softmax(z, 1)?.gather(&labels, 1)?;
            let most = right.map_or(Ok(here.clone()), |before| before.maximum(&here))?;
            *gradient = gradient.broadcast_mul(&most.affine(-gating, 1.0)?)?;
            right = Some(most);
        }
    }
    if config.cascade_fraction < 1.0 {
        cascade(logits, &mut gradients, config.cascade_fraction)?;
    }
    Ok((losses, gradients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const WEIGHTS: [f64; 3] = [1.0, 0.3, 0.7];
    const CLASSES: usize = 4;
    const LABELS: [u32; 5] = [2, 0, 3, 1, 0];
    type Logits = [[[f64; CLASSES]; 5]; 3];

    fn logits() -> Logits {
        let mut next = 0.0f64;
        [[[0.0; CLASSES]; 5]; 3].map(|exit| {
            exit.map(|sample| {
                sample.map(|_| {
                    next += 1.0;
                    3.0 * (next * next).sin()
                })
            })
        })
    }

    fn probabilities(logits: [f64; CLASSES], temperature: f64) -> [f64; CLASSES] {
        let exps = logits.map(|z| (z / temperature).exp());
        exps.map(|exp| exp / exps.iter().sum::<f64>())
    }

    /// The objective as its documentation says it, where the last exit teaches, and gates stand, as at `fixed`.
    fn objective(logits: &Logits, fixed: &Logits, config: &Config) -> f64 {
        let Objective { distillation, distillation_temperature: t, gating, smooth_last_only, .. } =
            config.objective;
        let mut sum = 0.0;
        for (exit, weight) in WEIGHTS.into_iter().enumerate() {
            for (sample, label) in LABELS.into_iter().map(|label| label as usize).enumerate() {
                let (last, p) = (exit == 2, probabilities(logits[exit][sample], 1.0));
                let smoothing = if smooth_last_only && !last { 0.0 } else { config.label_smoothing };
                let target = |c| smoothing / CLASSES as f64 + if c == label { 1.0 - smoothing } else { 0.0 };
                let entropy: f64 = (0..CLASSES).map(|c| -target(c) * p[c].ln()).sum();
                let (soft, taught) =
                    (probabilities(logits[exit][sample], t), probabilities(fixed[2][sample], t));
                let apart: f64 = (0..CLASSES).map(|c| taught[c] * (taught[c] / soft[c]).ln()).sum();
                let d = if last { 0.0 } else { distillation };
                let right = (0..exit).map(|before| probabilities(fixed[before][sample], 1.0)[label]);
                let gate = 1.0 - gating * right.fold(0.0, f64::max);
                sum += weight * gate * ((1.0 - d) * entropy + d * t * t * apart);
            }
        }
        sum / LABELS.len() as f64
    }

    #[test]
    fn gradients_agree_with_central_differences() -> Result<()> {
        let at = logits();
        let tensors =
            at.iter().map(|exit| Tensor::new(exit, &Device::Cpu)).collect::<candle_core::Result<Vec<_>>>()?;
        let labels = Tensor::new(&LABELS, &Device::Cpu)?;
        let plain = Config { label_smoothing: 0.1, ..Config::default() };
        let with = |objective| Config { objective, ..plain.clone() };
        let none = Objective::default();
        for config in [
            plain.clone(),
            with(Objective { smooth_last_only: true, ..none }),
            with(Objective { distillation: 0.4, distillation_temperature: 2.0, ..none }),
            with(Objective { gating: 0.8, ..none }),
            with(Objective { distillation: 1.0, gating: 1.0, smooth_last_only: true, ..none }),
        ] {
            let (losses, gradients) = gradients(&tensors, &labels, &WEIGHTS, &config)?;
            assert_eq!(losses.len(), 3);
            for (exit, gradient) in gradients.iter().enumerate() {
                for (sample, row) in gradient.to_vec2::<f64>()?.into_iter().enumerate() {
                    for (class, ours) in row.into_iter().enumerate() {
                        let moved = |by: f64| {
                            let mut logits = at;
                            logits[exit][sample][class] += by;
                            objective(&logits, &at, &config)
                        };
                        let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                        assert!(
                            (ours - difference).abs() < 1e-9,
                            "{exit} {sample} {class}: {ours} and {difference}"
                        );
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn weights_are_divided_by_the_losses_of_the_epoch_before() -> Result<()> {
        let scores = |loss: Vec<f64>| crate::training::Scores { accuracy: vec![0.5; loss.len()], loss };
        let before = Epoch {
            epoch: 1,
            train: scores(vec![0.5, 0.25, 0.0]),
            validation: scores(vec![9.0; 3]),
            device: String::new(),
            images_per_second: 1.0,
            seconds: 1.0,
        };
        let balanced = Objective { balanced: true, ..Objective::default() };
        assert_eq!(Objective::default().weights(&WEIGHTS, Some(&before)), WEIGHTS);
        assert_eq!(balanced.weights(&WEIGHTS, None), WEIGHTS);
        // 1 / 0.5, 0.3 / 0.25 and 0.7 / 0.01, of a sum of 2.
        let weights = balanced.weights(&WEIGHTS, Some(&before));
        for (weight, expected) in weights.iter().zip([2.0, 1.2, 70.0].map(|x| x * 2.0 / 73.2)) {
            assert!((weight - expected).abs() < 1e-12, "{weights:?}");
        }
        Ok(())
    }
}
