//! A step of Adam (Kingma and Ba 2015) on one parameter, in place.

use super::contiguous;
#[cfg(feature = "cuda")]
use crate::cuda;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

/// How far and how smoothly Adam steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    /// Step size and epsilon, both with the corrections of the moments' start at zero.
    pub(crate) rate: f64,
    pub(crate) epsilon: f64,
}

impl Adam {
    /// Moves `moments` (2, …), the running means of gradient and squared gradient, and then `weight`,
    /// f32 of the gradient's shape.
    pub(crate) fn step(&self, weight: &Tensor, moments: &Tensor, grad: &Tensor) -> Result<()> {
        moments.inplace_op2(&grad.contiguous()?, &Moments(*self))?;
        weight.inplace_op2(moments, &Step(*self))
    }
}

/// The elements of a tensor that is all of its storage.
fn elements(storage: &mut CpuStorage) -> Result<&mut [f32]> {
    match storage {
        CpuStorage::F32(elements) => Ok(elements),
        _ => bail!("Adam works on f32 only"),
    }
}

struct Moments(Adam);

impl InplaceOp2 for Moments {
    fn name(&self) -> &'static str {
        "adam-moments"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        _: &Layout,
        grad: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let grad = contiguous::<f32>(grad, layout)?;
        let (mean, square) = elements(moments)?.split_at_mut(grad.len());
        let (beta1, rest1) = (self.0.beta1 as f32, (1.0 - self.0.beta1) as f32);
        let (beta2, rest2) = (self.0.beta2 as f32, (1.0 - self.0.beta2) as f32);
        for ((mean, square), &g) in mean.iter_mut().zip(square).zip(grad) {
            *mean = *mean * beta1 + g * rest1;
            *square = *square * beta2 + g * g * rest2;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        moments: &mut CudaStorage,
        moments_layout: &Layout,
        grad: &CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (start, len) = (moments_layout.start_offset(), layout.shape().elem_count());
        let numbers = [self.0.beta1.into(), self.0.beta2.into()];
        let inputs = [(grad, layout)];
        cuda::update(
            "adam_moments",
            grad.dtype(),
            &inputs,
            moments,
            start,
            len,
            &numbers,
        )
    }
}

struct Step(Adam);

impl InplaceOp2 for Step {
    fn name(&self) -> &'static str {
        "adam-step"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        _: &Layout,
        moments: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (weight, moments) = (elements(weight)?, contiguous::<f32>(moments, layout)?);
        let (mean, square) = moments.split_at(weight.len());
        let (rate, epsilon) = (self.0.rate as f32, self.0.epsilon as f32);
        for ((weight, &mean), &square) in weight.iter_mut().zip(mean).zip(square) {
            *weight -= mean / (square.sqrt() + epsilon) * rate;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weight: &mut CudaStorage,
        weight_layout: &Layout,
        moments: &CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (start, len) = (
            weight_layout.start_offset(),
            weight_layout.shape().elem_count(),
        );
        let numbers = [self.0.rate.into(), self.0.epsilon.into()];
        let inputs = [(moments, layout)];
        cuda::update(
            "adam_step",
            moments.dtype(),
            &inputs,
            weight,
            start,
            len,
            &numbers,
        )
    }
}
