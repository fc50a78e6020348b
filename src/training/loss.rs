//! What a step makes smaller: the exits' losses, joined as the settings say.

use super::cascade::cascade;
use super::config::Config;
use super::objective::Objective;
use crate::Result;
use crate::kernels::{self, Losses};
use candle_core::Tensor;
use candle_nn::ops::softmax;

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
}
