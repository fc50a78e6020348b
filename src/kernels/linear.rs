//! A fully connected layer whose result for a sample does not depend on its batch.
//!
//! candle's matrix product picks another kernel, and so another order of summation, for a single
//! row than for many. Early exit shrinks batches on the way: with a product of our own a sample
//! gets bit for bit the same logits alone, in a batch, and in a batch that others have left. On a
//! GPU the product is cuBLAS's, which makes no such promise.

use super::{Input, Op, Operation, contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::precision::Precision;
use crate::simd::{Real, dots};
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, Layout, backend::BackendStorage};
use rayon::prelude::*;

/// Samples that one task multiplies.
const SAMPLES_PER_TASK: usize = 32;

/// `x · weightᵀ + bias`: (batch, in), (out, in) and (out) give (batch, out). Differentiable in all
/// three arguments. Fails when the sizes do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    if x.rank() != 2 || x.dims()[1] != inputs || bias.dims() != [outputs] {
        bail!(
            "linear: a weight of shape {:?} needs an input (batch, {inputs}) and a bias ({outputs}), got {:?} and {:?}",
            weight.shape(),
            x.shape(),
            bias.shape()
        )
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Op(Linear))
}

struct Linear;

/// `out[s][o] = bias[o] + weight[o] · x[s]` for the samples in `x`; `products` is scratch of the
/// size of `out`.
fn samples<T: Real>(x: &[T], weight: &[T], bias: &[T], products: &mut [T], out: &mut [T]) {
    let outputs = bias.len();
    let inputs = weight.len() / outputs;
    let count = x.len() / inputs;
    // The products come out (output, sample): the rows of the weight are the long dimension.
    dots(weight, x, inputs, products);
    for (sample, out) in out.chunks_mut(outputs).enumerate() {
        for (o, out) in out.iter_mut().enumerate() {
            *out = bias[o] + products[o * count + sample];
        }
    }
}

impl Operation<3> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu(&self, [x, weight, bias]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
            let outputs = bias.len();
            let inputs = weight.len() / outputs;
            let mut out = unset(x.len() / inputs * outputs);
            out.par_chunks_mut(SAMPLES_PER_TASK * outputs)
                .zip(x.par_chunks(SAMPLES_PER_TASK * inputs))
                .for_each(|(out, x)| {
                    let mut products = vec![T::zero(); out.len()];
                    samples(x, weight, bias, &mut products, out);
                });
            out
        }
        let shape = Shape::from((x.1.dims()[0], bias.1.dims()[0]));
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(forward::<T>(
            contiguous(x)?,
            contiguous(weight)?,
            contiguous(bias)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, weight, bias]: [cuda::Input<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        let (batch, inputs) = x.1.shape().dims2()?;
        let outputs = bias.1.shape().dims1()?;
        let transposed = weight.1.transpose(0, 1)?;
        let sizes = (1, batch, outputs, inputs);
        let products = cuda::product(x, (weight.0, &transposed), sizes)?;
        let shape = Shape::from((batch, outputs));
        let layout = Layout::contiguous(&shape);
        let terms = [(&products, &layout), bias];
        let numbers = [outputs.into(), 1.into()];
        let out = cuda::map_images("add_bias", x.0.dtype(), &terms, batch * outputs, &numbers)?;
        Ok((out, shape))
    }

    fn backward(
        &self,
        [x, weight, _bias]: [&Tensor; 3],
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let grads = backward(x, weight, grad)?;
        Ok([Some(grads.0), Some(grads.1), Some(grads.2)])
    }
}

/// The gradients of input, weight and bias, given the output's.
pub fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let bias = grad.contiguous()?.apply_op1_no_bwd(&Op(SumRows))?;
    Ok((product(grad, weight)?, product(&grad.t()?, x)?, bias))
}

/// The product of matrices, on a GPU at the current [`Precision`].
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let bf16 = Precision::current() == Precision::Bf16;
    if !(bf16 && a.device().is_cuda() && a.dtype() == DType::F32) {
        return a.matmul(b);
    }
    let product = a.to_dtype(DType::BF16)?.matmul(&b.to_dtype(DType::BF16)?)?;
    product.to_dtype(DType::F32)
}

/// The sum of all rows: (rows, columns) to (columns).
struct SumRows;

impl Operation<1> for SumRows {
    fn name(&self) -> &'static str {
        "sum-rows"
    }

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        fn sums<T: Real>(x: &[T], columns: usize) -> Vec<T> {
            let mut sums = vec![T::zero(); columns];
            for row in x.chunks(columns) {
                sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
            }
            sums
        }
        let (_, columns) = x.1.shape().dims2()?;
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(sums::<T>(contiguous(x)?, columns)));
        Ok((out, Shape::from(columns)))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let (rows, columns) = x.1.shape().dims2()?;
        let out = cuda::map("sum_rows", x.0.dtype(), &[x], columns, &[rows.into()])?;
        Ok((out, Shape::from(columns)))
    }
}
