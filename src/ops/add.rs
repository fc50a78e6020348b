//! A sum on all cores: where gradients meet, candle's takes one.

use super::{contiguous, dispatch};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// `a + b` of two gradients of one shape; not differentiable.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Add)
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn sum<T: Real>(a: &[T], b: &[T]) -> Vec<T> {
            const CHUNK: usize = 1 << 14;
            let mut out = super::unset(a.len());
            out.par_chunks_mut(CHUNK)
                .zip(a.par_chunks(CHUNK))
                .zip(b.par_chunks(CHUNK))
                .for_each(|((out, a), b)| {
                    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                        *out = a + b;
                    }
                });
            out
        }
        let out = dispatch!(self, a, T => T::to_cpu_storage_owned(sum::<T>(
            contiguous(a, a_layout)?,
            contiguous(b, b_layout)?,
        )));
        Ok((out, a_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = a_layout.shape().clone();
        let inputs = [(a, a_layout), (b, b_layout)];
        let out = cuda::map("add", a.dtype(), &inputs, shape.elem_count(), &[])?;
        Ok((out, shape))
    }
}
