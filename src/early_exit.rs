//! Inference that stops at the first exit that is sure (paper, figure 2).

use crate::error::bail;
use crate::{Network, Pass, Result, ops};
use candle_core::Tensor;

/// What one exit says about one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The most probable class, the first of equals.
    pub label: usize,
    /// Entropy of the softmax in nats: 0 when certain, ln(classes) when clueless.
    pub entropy: f64,
}

/// Softmax, entropy and decision for the logits of one sample. In f64: at a threshold of 1e-4
/// nothing may be lost to rounding.
pub fn read(logits: &[f32]) -> Reading {
    let (mut label, mut max) = (0, f32::NEG_INFINITY);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > max {
            (label, max) = (i, logit);
        }
    }
    // With d = z - max: entropy = -Σ p ln p = ln Σ e^d - Σ d e^d / Σ e^d.
    let (mut sum, mut weighted) = (0.0, 0.0);
    for &logit in logits {
        let d = f64::from(logit) - f64::from(max);
        let e = d.exp();
        sum += e;
        weighted += d * e;
    }
    Reading {
        label,
        entropy: sum.ln() - weighted / sum,
    }
}

impl Reading {
    /// This reading as the answer of exit `exit`, from 0.
    pub(crate) fn at(self, exit: usize) -> Answer {
        let Self { label, entropy } = self;
        Answer {
            label,
            exit,
            entropy,
        }
    }
}

/// The answer for one sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// The most probable class at the exit that answered.
    pub label: usize,
    /// The exit that answered, from 0.
    pub exit: usize,
    /// Entropy at that exit in nats.
    pub entropy: f64,
}

/// Refuses thresholds that do not fit a network with `exits` exits: one is needed for every exit
/// but the last, at least 0 (infinity lets everything leave).
pub(crate) fn check_thresholds(thresholds: &[f64], exits: usize) -> Result<()> {
    if thresholds.len() != exits - 1 {
        bail!(
            "{} exits need {} thresholds, one for each exit but the last, which always answers; got {}: {thresholds:?}",
            exits,
            exits - 1,
            thresholds.len()
        )
    }
    if let Some(wrong) = thresholds.iter().find(|t| t.is_nan() || **t < 0.0) {
        bail!("a threshold is an entropy in nats, at least 0, got {wrong} in {thresholds:?}")
    }
    Ok(())
}

impl Network {
    /// Classifies images (batch, channels, height, width): each sample leaves at the first exit
    /// whose entropy is below that exit's threshold, and the last exit answers for the rest.
    /// Samples that left are not computed any further; on a GPU they are read, judged and removed
    /// there.
    ///
    /// One answer for each sample, in the order of the input. Fails when thresholds are missing,
    /// negative or NaN.
    pub fn classify(&self, images: &Tensor, thresholds: &[f64]) -> Result<Vec<Answer>> {
        check_thresholds(thresholds, self.exits())?;
        let batch = images.dim(0)?;
        let mut answers = vec![
            Answer {
                label: 0,
                exit: 0,
                entropy: 0.0
            };
            batch
        ];
        // Where in the input the samples that are still on their way came from.
        let mut staying: Vec<u32> = (0..batch as u32).collect();
        let mut x = images.clone();
        for exit in 0..self.exits() {
            if staying.is_empty() {
                break;
            }
            x = self.segment(exit, &x, &mut Pass::Evaluate)?;
            let last = exit + 1 == self.exits();
            // At the last exit all leave, also where the entropy is not a number.
            let threshold = thresholds.get(exit).copied().unwrap_or(f64::INFINITY);
            let logits = self.exit(exit, &x, &mut Pass::Evaluate)?;
            let decisions = ops::decide(&logits, threshold)?;
            // All that comes back from a GPU: three numbers a sample, once for each exit.
            let mut next = Vec::new();
            for (row, &from) in decisions.to_vec2::<f64>()?.iter().zip(&staying) {
                let (label, entropy) = (row[0] as usize, row[1]);
                if last || ops::leaves(entropy, threshold) {
                    answers[from as usize] = Reading { label, entropy }.at(exit);
                } else {
                    next.push(from);
                }
            }
            if !last && !next.is_empty() && next.len() < staying.len() {
                x = ops::keep(&x, &decisions, next.len())?;
            }
            staying = next;
        }
        Ok(answers)
    }
}
