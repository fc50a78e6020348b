//! Early exit inside a batch: what an exit says of each sample, and those that stay moved together.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::{Op, Operation, Real};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType, backend::BackendStorage};
use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// These samples of `x` (batch, …; f32), in this order, moved together where `x` lies.
pub fn gather(x: &Tensor, samples: &[u32]) -> Result<Tensor> {
    let x = x.contiguous()?;
    if x.device().is_cpu() {
        return x.apply_op1_no_bwd(&Op(Gather { samples }));
    }
    x.index_select(&Tensor::new(samples, x.device())?, 0)
}

/// candle's `index_select` copies on one thread.
struct Gather<'a> {
    samples: &'a [u32],
}

impl Operation<1> for Gather<'_> {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        let mut dims = x.dims().to_vec();
        dims[0] = self.samples.len();
        Ok(Shape::from(dims))
    }

    fn cpu<T: Real>(&self, [x]: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let batch = shape.dims()[0];
        let row = x.len() / batch;
        if let Some(outside) = self.samples.iter().find(|&&i| i as usize >= batch) {
            bail!("gather: there is no sample {outside} in a batch of {batch}")
        }
        let mut out = crate::unset(self.samples.len() * row);
        out.par_chunks_mut(row)
            .zip(self.samples)
            .for_each(|(out, &from)| out.copy_from_slice(&x[from as usize * row..][..row]));
        Ok(out)
    }
}

/// How unsure an exit is of a sample, as the GPU's kernel `read_exit` computes it.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// The entropy of the softmax, in nats.
    Entropy = 0,
    /// 1 less the largest probability.
    Probability = 1,
    /// 1 less the distance between the two largest probabilities.
    Margin = 2,
}

/// For logits (batch, classes; f32) on a GPU a row for each sample, f64: its most probable class and
/// how unsure the exit is of it.
#[cfg(feature = "cuda")]
pub fn read_exit(logits: &Tensor, measure: Measure) -> Result<Tensor> {
    logits.contiguous()?.apply_op1_no_bwd(&Op(ReadExit(measure)))
}

#[cfg(feature = "cuda")]
struct ReadExit(Measure);

#[cfg(feature = "cuda")]
impl Operation<1> for ReadExit {
    fn name(&self) -> &'static str {
        "read_exit"
    }

    fn shape(&self, [logits]: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from((logits.dims()[0], 2)))
    }

    fn cuda(&self, [logits]: [cuda::Input<'_>; 1]) -> Result<CudaStorage> {
        let (batch, classes) = logits.1.shape().dims2()?;
        let mut out = cuda::unset(logits.0.device(), DType::F64, 2 * batch)?;
        let (dtype, inputs) = (logits.0.dtype(), [logits]);
        let numbers = [classes, self.0 as usize].map(cuda::Number::from);
        cuda::update(self.name(), dtype, &inputs, &mut out, 0, batch, &numbers)?;
        Ok(out)
    }
}
