//! Operations on one element at a time: the rectifier, the Gaussian error linear unit, the sum of two gradients, and
//! dropout.
//!
//! candle's rectifier has the right values, but its backward pass builds three tensors of the input's
//! size, which cost more than the convolution before it; its sum runs on one thread; and its random
//! generator on the CPU cannot be seeded. Its Gaussian error linear unit takes several times the convolution before it,
//! and the backward pass builds a dozen tensors.

use super::{Number, Op, Operation, Thread, by_chunks, each, unset};
use crate::simd::Real;
use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `max(x, 0)` of every element; NaN stays NaN. The gradient at 0 is 0, as in PyTorch. f32 and f64.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Unit::Relu))
}

/// `grad` where `out`, which was rectified, is above 0, and 0 elsewhere.
pub fn relu_backward(out: &Tensor, grad: &Tensor) -> Result<Tensor> {
    out.apply_op2_no_bwd(&grad.contiguous()?, &Op(Pairwise::ReluGrad))
}

/// `x · Φ(x)` of every element, Φ the normal distribution's function (Hendrycks and Gimpel 2016,
/// <https://arxiv.org/abs/1606.08415>). f32, to some 1e-7, and f64.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Unit::Gelu))
}

/// The gradient of [`gelu`] at `x`: `grad · (Φ(x) + x · φ(x))`.
pub fn gelu_backward(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(&grad.contiguous()?, &Op(Pairwise::GeluGrad))
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
        return x.contiguous()?.apply_op1_no_bwd(&Op(DropoutMask { seed, p }));
    }
    let keep = 1.0 / (1.0 - p);
    let mask: Vec<f32> =
        (0..x.elem_count()).map(|_| if rng.random::<f32>() < p { 0.0 } else { keep }).collect();
    Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())
}

/// Elements that one task handles.
const CHUNK: usize = 1 << 14;

/// `f` of the elements of `inputs` at each place, where memory is the limit: the widest registers, which cross the
/// cache's lines, make it a fifth slower.
fn map<T: Real, const N: usize>(inputs: [&[T]; N], f: impl Fn([T; N]) -> T + Sync) -> Result<Vec<T>> {
    let mut out = unset(inputs[0].len());
    let tasks = out.par_chunks_mut(CHUNK).enumerate();
    tasks.for_each(|(i, out)| each(out, inputs.map(|input| &input[i * CHUNK..]), &f));
    Ok(out)
}

/// The same in the widest registers, for an `f` that computes much.
fn map_wide<T: Real, const N: usize>(inputs: [&[T]; N], f: impl Fn([T; N]) -> T + Sync) -> Result<Vec<T>> {
    Ok(by_chunks(
        inputs,
        (inputs[0].len(), CHUNK),
        || (),
        #[inline(always)]
        |_, inputs: [&[T]; N], (): &mut (), out: &mut [T]| each(out, inputs, &f),
    ))
}

/// What a network applies to every element.
enum Unit {
    Relu,
    Gelu,
}

impl Operation<1> for Unit {
    fn name(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Gelu => "gelu",
        }
    }

    fn cpu<T: Real>(&self, x: [&[T]; 1], _: &Shape) -> Result<Vec<T>> {
        match self {
            Self::Relu => map(x, |[x]| if x < T::zero() { T::zero() } else { x }),
            Self::Gelu => map_wide(
                x,
                #[inline(always)]
                |[x]| x * x.below(),
            ),
        }
    }

    fn backward(&self, [x]: [&Tensor; 1], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let grad = match self {
            Self::Relu => relu_backward(out, grad)?,
            Self::Gelu => gelu_backward(x, grad)?,
        };
        Ok([Some(grad)])
    }
}

/// Two tensors of one shape, element by element.
enum Pairwise {
    /// The first is the rectifier's output, the second the gradient of it.
    ReluGrad,
    /// The first is the unit's input, the second the gradient of its output.
    GeluGrad,
    Add,
}

impl Operation<2> for Pairwise {
    fn name(&self) -> &'static str {
        match self {
            Self::ReluGrad => "relu_grad",
            Self::GeluGrad => "gelu_grad",
            Self::Add => "add",
        }
    }

    fn cpu<T: Real>(&self, inputs: [&[T]; 2], _: &Shape) -> Result<Vec<T>> {
        match self {
            Self::ReluGrad => map(inputs, |[out, grad]| if out > T::zero() { grad } else { T::zero() }),
            Self::GeluGrad => map_wide(
                inputs,
                #[inline(always)]
                |[x, grad]| grad * (x.below() + x * x.density()),
            ),
            Self::Add => map(inputs, |[a, b]| a + b),
        }
    }
}

/// For a GPU. Of the input it needs no more than the size.
struct DropoutMask {
    seed: [i32; 2],
    p: f32,
}

impl Operation<1> for DropoutMask {
    fn name(&self) -> &'static str {
        "dropout_mask"
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        let (p, [low, high]) = (f64::from(self.p), self.seed.map(Number::Int));
        Ok((Thread::Result, vec![low, high, p.into(), (1.0 / (1.0 - p)).into()]))
    }
}
