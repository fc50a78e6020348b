//! A fully connected layer whose result for a sample does not depend on its batch.
//!
//! candle's matrix product picks another kernel, and so another order of summation, for a single
//! row than for many. Early exit shrinks batches on the way: with a product of our own a sample
//! gets bit for bit the same logits alone, in a batch, and in a batch that others have left. On a
//! GPU the product is cuBLAS's, which makes no such promise.

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Number, Op, Operation, Thread, by_chunks};
use crate::precision::Precision;
use crate::simd::{Real, dots};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{DType, Result, Shape, Tensor, bail};

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

impl Operation<3> for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn shape(&self, [x, _, bias]: [&Shape; 3]) -> Result<Shape> {
        Ok(Shape::from((x.dims()[0], bias.dims()[0])))
    }

    fn cpu<T: Real>(&self, [x, weight, bias]: [&[T]; 3], shape: &Shape) -> Result<Vec<T>> {
        let (outputs, (batch, inputs)) = (bias.len(), shape.dims2()?);
        let work = |_, [x]: [&[T]; 1], products: &mut Vec<T>, out: &mut [T]| {
            let count = x.len() / inputs;
            // The products come out (output, sample): the rows of the weight are the long dimension.
            let products = &mut products[..out.len()];
            dots(weight, x, inputs, products);
            for (sample, out) in out.chunks_mut(outputs).enumerate() {
                for (o, out) in out.iter_mut().enumerate() {
                    *out = bias[o] + products[o * count + sample];
                }
            }
        };
        let chunk = SAMPLES_PER_TASK.min(batch) * outputs;
        Ok(by_chunks([x], (batch * outputs, chunk), || vec![T::zero(); chunk], work))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, weight, bias]: [cuda::Input<'_>; 3]) -> Result<CudaStorage> {
        let (batch, inputs) = x.1.shape().dims2()?;
        let outputs = bias.1.shape().dims1()?;
        let transposed = weight.1.transpose(0, 1)?;
        let products = cuda::product(x, (weight.0, &transposed), (1, batch, outputs, inputs))?;
        cuda::add_bias(&products, bias, batch * outputs, 1)
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
        "sum_rows"
    }

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from(x.dims()[1]))
    }

    fn cpu<T: Real>(&self, [x]: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let mut sums = vec![T::zero(); shape.dims()[1]];
        for row in x.chunks(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
        Ok(sums)
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, vec![shape.dims()[0].into()]))
    }
}
