//! The rectifier. candle's has the right values, but builds three tensors of the input's size in
//! its backward pass, which cost more than the convolution before it.

use super::{contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// `max(x, 0)` of every element; NaN stays NaN. The gradient at 0 is 0, as in PyTorch. f32 and f64.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Relu)
}

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(x: &[T]) -> Vec<T> {
            let mut out = unset(x.len());
            out.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK))
                .for_each(|(out, x)| {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = if x < T::zero() { T::zero() } else { x };
                    }
                });
            out
        }
        let out =
            dispatch!(self, x, T => T::to_cpu_storage_owned(forward::<T>(contiguous(x, layout)?)));
        Ok((out, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let shape = layout.shape().clone();
        let out = cuda::map("relu", x.dtype(), &[(x, layout)], shape.elem_count(), &[])?;
        Ok((out, shape))
    }

    fn bwd(&self, _x: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(relu_backward(out, grad)?))
    }
}

/// `grad` where `out`, which was rectified, is above 0, and 0 elsewhere.
pub(crate) fn relu_backward(out: &Tensor, grad: &Tensor) -> Result<Tensor> {
    out.apply_op2_no_bwd(&grad.contiguous()?, &ReluGrad)
}

struct ReluGrad;

impl CustomOp2 for ReluGrad {
    fn name(&self) -> &'static str {
        "relu-grad"
    }

    fn cpu_fwd(
        &self,
        out: &CpuStorage,
        out_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(out: &[T], grad: &[T]) -> Vec<T> {
            let mut masked = unset(out.len());
            masked
                .par_chunks_mut(CHUNK)
                .zip(out.par_chunks(CHUNK))
                .zip(grad.par_chunks(CHUNK))
                .for_each(|((masked, out), grad)| {
                    for ((masked, &out), &grad) in masked.iter_mut().zip(out).zip(grad) {
                        *masked = if out > T::zero() { grad } else { T::zero() };
                    }
                });
            masked
        }
        let masked = dispatch!(self, out, T => T::to_cpu_storage_owned(backward::<T>(
            contiguous(out, out_layout)?,
            contiguous(grad, grad_layout)?,
        )));
        Ok((masked, out_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        out: &CudaStorage,
        out_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = out_layout.shape().clone();
        let inputs = [(out, out_layout), (grad, grad_layout)];
        let masked = cuda::map("relu_grad", out.dtype(), &inputs, shape.elem_count(), &[])?;
        Ok((masked, shape))
    }
}
