//! Dropout whose mask comes from a seeded generator: candle's generator on the CPU cannot be
//! seeded.

use crate::Rng;
#[cfg(feature = "cuda")]
use crate::cuda;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rand::Rng as _;

/// Sets each element of `x` to zero with probability `p` and scales the rest by `1 / (1 − p)`, so
/// that the expectation stays (any shape). On a GPU the mask is drawn there, from a seed drawn from
/// `rng`. Fails unless 0 ≤ p < 1.
pub fn dropout(x: &Tensor, p: f32, rng: &mut Rng) -> Result<Tensor> {
    x * dropout_mask(x, p, rng)?
}

/// What [`dropout`] multiplies `x` by.
pub(crate) fn dropout_mask(x: &Tensor, p: f32, rng: &mut Rng) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: the probability must be in 0..1, got {p}")
    }
    if x.device().is_cuda() {
        let seed = rng.random();
        return x.apply_op1_no_bwd(&MaskOnGpu { seed, p });
    }
    let keep = 1.0 / (1.0 - p);
    let mask: Vec<f32> = (0..x.elem_count())
        .map(|_| if rng.random::<f32>() < p { 0.0 } else { keep })
        .collect();
    Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
struct MaskOnGpu {
    seed: [i32; 2],
    p: f32,
}

impl CustomOp1 for MaskOnGpu {
    fn name(&self) -> &'static str {
        "dropout-mask"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("internal error: this mask is for the GPU")
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = layout.shape().clone();
        let (p, [low, high]) = (f64::from(self.p), self.seed.map(cuda::Number::Int));
        let numbers = [low, high, p.into(), (1.0 / (1.0 - p)).into()];
        let mut mask = cuda::unset(x.device(), x.dtype(), shape.elem_count())?;
        cuda::update(
            "dropout_mask",
            x.dtype(),
            &[],
            &mut mask,
            0,
            shape.elem_count(),
            &numbers,
        )?;
        Ok((mask, shape))
    }
}
