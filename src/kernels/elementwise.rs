//! Operations on one element at a time: the rectifier, the sum of two gradients, and dropout.
//!
//! candle's rectifier has the right values, but its backward pass builds three tensors of the input's
//! size, which cost more than the convolution before it; its sum runs on one thread; and its random
//! generator on the CPU cannot be seeded.

use super::{Input, Op, Operation, contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// `max(x, 0)` of every element; NaN stays NaN. The gradient at 0 is 0, as in PyTorch. f32 and f64.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Relu))
}

/// `grad` where `out`, which was rectified, is above 0, and 0 elsewhere.
pub fn relu_backward(out: &Tensor, grad: &Tensor) -> Result<Tensor> {
    out.apply_op2_no_bwd(&grad.contiguous()?, &Op(Pairwise::ReluGrad))
}

/// `a + b` of two gradients of one shape; not differentiable.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Op(Pairwise::Add))
}

/// Sets each element of `x` to zero with probability `p` and scales the rest by `1 / (1 − p)`, so
/// that the expectation stays (any shape). On a GPU the mask is drawn there, from a seed drawn from
/// `rng`. Fails unless 0 ≤ p < 1.
pub fn dropout(x: &Tensor, p: f32, rng: &mut impl rand::Rng) -> Result<Tensor> {
    x * dropout_mask(x, p, rng)?
}

/// What [`dropout`] multiplies `x` by.
pub fn dropout_mask(x: &Tensor, p: f32, rng: &mut impl rand::Rng) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: the probability must be in 0..1, got {p}")
    }
    if x.device().is_cuda() {
        let seed = rng.random();
        return x.apply_op1_no_bwd(&Op(DropoutMask { seed, p }));
    }
    let keep = 1.0 / (1.0 - p);
    let mask: Vec<f32> =
        (0..x.elem_count()).map(|_| if rng.random::<f32>() < p { 0.0 } else { keep }).collect();
    Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())
}

struct Relu;

impl Operation<1> for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(x: &[T]) -> Vec<T> {
            let mut out = unset(x.len());
            out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(out, x)| {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = if x < T::zero() { T::zero() } else { x };
                }
            });
            out
        }
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(forward::<T>(contiguous(x)?)));
        Ok((out, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let shape = x.1.shape().clone();
        let out = cuda::map("relu", x.0.dtype(), &[x], shape.elem_count(), &[])?;
        Ok((out, shape))
    }

    fn backward(&self, [_x]: [&Tensor; 1], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(relu_backward(out, grad)?)])
    }
}

/// Two tensors of one shape, element by element.
enum Pairwise {
    /// The first is the rectifier's output, the second the gradient of it.
    ReluGrad,
    Add,
}

/// `f` of each pair, on all cores.
fn pairs<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    let mut out = unset(a.len());
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((out, a), b)| {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = f(a, b);
        }
    });
    out
}

impl Operation<2> for Pairwise {
    fn name(&self) -> &'static str {
        match self {
            Self::ReluGrad => "relu_grad",
            Self::Add => "add",
        }
    }

    fn cpu(&self, [a, b]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let out = dispatch!(self, a.0, T => {
            let (a, b) = (contiguous::<T>(a)?, contiguous::<T>(b)?);
            let mask = |out: T, grad: T| if out > 0.0 { grad } else { 0.0 };
            T::to_cpu_storage_owned(match self {
                Self::ReluGrad => pairs(a, b, mask),
                Self::Add => pairs(a, b, |a, b| a + b),
            })
        });
        Ok((out, a.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [a, b]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let shape = a.1.shape().clone();
        let out = cuda::map(self.name(), a.0.dtype(), &[a, b], shape.elem_count(), &[])?;
        Ok((out, shape))
    }
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
struct DropoutMask {
    seed: [i32; 2],
    p: f32,
}

impl Operation<1> for DropoutMask {
    fn name(&self) -> &'static str {
        "dropout_mask"
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let shape = x.1.shape().clone();
        let (p, [low, high]) = (f64::from(self.p), self.seed.map(cuda::Number::Int));
        let numbers = [low, high, p.into(), (1.0 / (1.0 - p)).into()];
        let (dtype, len) = (x.0.dtype(), shape.elem_count());
        let mut mask = cuda::unset(x.0.device(), dtype, len)?;
        cuda::update(self.name(), dtype, &[], &mut mask, 0, len, &numbers)?;
        Ok((mask, shape))
    }
}
