//! The Gaussian error linear unit `x · Φ(x)`, Φ the normal distribution's function (Hendrycks and Gimpel 2016,
//! <https://arxiv.org/abs/1606.08415>). candle's takes several times the convolution before it, and its
//! backward pass builds a dozen tensors.

use super::{Input, Op, Operation, contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::{self, Real};
use candle_core::cpu::erf::erf_f64;
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::f64::consts::{FRAC_1_SQRT_2, LOG2_E, PI};

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// `x · Φ(x)` of every element. f32, to some 1e-7, and f64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Gelu))
}

/// The gradient of [`gelu`] at `x`: `grad · (Φ(x) + x · φ(x))`.
pub fn gelu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(&grad.contiguous()?, &Op(GeluGrad))
}

/// f32 and f64, with the functions of the normal distribution.
pub trait Normal: Real {
    /// Φ(x), the chance to be below x.
    fn below(self) -> Self;
    /// φ(x), the density.
    fn density(self) -> Self;
}

impl Normal for f64 {
    fn below(self) -> f64 {
        0.5 * (1.0 + erf_f64(self * FRAC_1_SQRT_2))
    }
    fn density(self) -> f64 {
        (-0.5 * self * self).exp() / (2.0 * PI).sqrt()
    }
}

/// Only additions, products and one division, so that a loop over elements fills vector registers.
impl Normal for f32 {
    #[inline(always)]
    fn below(self) -> f32 {
        // The error function by Eigen's quotient of polynomials, within [-4, 4].
        let x = (self * FRAC_1_SQRT_2 as f32).clamp(-4.0, 4.0);
        let s = x * x;
        let above =
            [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2];
        let beneath = [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
        let p = above.iter().fold(-2.726_142_3e-10, |sum, &c| sum * s + c);
        let q = beneath.iter().fold(-1.456_607_2e-5, |sum, &c| sum * s + c);
        0.5 + 0.5 * x * p / q
    }
    #[inline(always)]
    fn density(self) -> f32 {
        // exp(t) = 2^n · exp(r), n whole, by rounding with a number whose last bit is 1.
        const ROUND: f32 = 12_582_912.0;
        let t = (-0.5 * self * self).max(-87.0);
        let shifted = t * LOG2_E as f32 + ROUND;
        let n = shifted - ROUND;
        let r = (t - n * 0.693_359_4) + n * 2.121_944_4e-4;
        let terms = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let exp = terms.iter().fold(1.0 / 720.0, |sum, &c| sum * r + c);
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        exp * power * (1.0 / (2.0 * PI).sqrt()) as f32
    }
}

/// `f` of the elements of `inputs` at each place, in vector registers and on all cores.
fn each<T: Real>(x: &[T], grad: Option<&[T]>, f: impl Fn(T, T) -> T + Sync) -> Vec<T> {
    struct Run<'a, T, F>(&'a [T], &'a [T], &'a mut [T], F);
    impl<T: Real, F: Fn(T, T) -> T> WithSimd for Run<'_, T, F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(x, grad, out, f) = self;
            for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                *out = f(x, grad);
            }
        }
    }
    let mut out = unset(x.len());
    let tasks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(grad.unwrap_or(x).par_chunks(CHUNK));
    tasks.for_each(|((out, x), grad)| simd::dispatch(Run(x, grad, out, &f)));
    out
}

struct Gelu;

impl Operation<1> for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(each(
            contiguous::<T>(x)?,
            None,
            #[inline(always)]
            |x, _| x * x.below(),
        )));
        Ok((out, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let shape = x.1.shape().clone();
        let out = cuda::map("gelu", x.0.dtype(), &[x], shape.elem_count(), &[])?;
        Ok((out, shape))
    }

    fn backward(&self, [x]: [&Tensor; 1], _out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(gelu_backward(x, grad)?)])
    }
}

struct GeluGrad;

impl Operation<2> for GeluGrad {
    fn name(&self) -> &'static str {
        "gelu_grad"
    }

    fn cpu(&self, [x, grad]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(each(
            contiguous::<T>(x)?,
            Some(contiguous::<T>(grad)?),
            #[inline(always)]
            |x, grad| grad * (x.below() + x * x.density()),
        )));
        Ok((out, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, grad]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let shape = x.1.shape().clone();
        let out = cuda::map(self.name(), x.0.dtype(), &[x, grad], shape.elem_count(), &[])?;
        Ok((out, shape))
    }
}
