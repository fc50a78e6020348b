//! Dropout whose mask comes from a seeded generator: candle's generator on the CPU cannot be
//! seeded.

use crate::Rng;
use candle_core::{Result, Tensor, bail};
use rand::Rng as _;

/// Sets each element of `x` to zero with probability `p` and scales the rest by `1 / (1 − p)`, so
/// that the expectation stays (any shape). Fails unless 0 ≤ p < 1.
pub fn dropout(x: &Tensor, p: f32, rng: &mut Rng) -> Result<Tensor> {
    x * dropout_mask(x, p, rng)?
}

/// What [`dropout`] multiplies `x` by.
pub(crate) fn dropout_mask(x: &Tensor, p: f32, rng: &mut Rng) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: the probability must be in 0..1, got {p}")
    }
    let keep = 1.0 / (1.0 - p);
    let mask: Vec<f32> = (0..x.elem_count())
        .map(|_| if rng.random::<f32>() < p { 0.0 } else { keep })
        .collect();
    Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())
}
