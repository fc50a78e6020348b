//! Early exit inside a batch: who leaves, and the rest moved together, where the batch lies.

use super::contiguous;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::early_exit::read;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, DType, backend::BackendStorage};
use rayon::prelude::*;

/// For logits (batch, classes; f32) a row for each sample, f64: its most probable class, the entropy
/// of its softmax in nats, and in row k the number of the k-th sample that stays, because its entropy
/// is not below the threshold; the third numbers of the remaining rows mean nothing.
pub(crate) fn decide(logits: &Tensor, threshold: f64) -> Result<Tensor> {
    logits.contiguous()?.apply_op1_no_bwd(&Decide { threshold })
}

/// The first `count` samples that stay of `x` (batch, …), by what [`decide`] said.
pub(crate) fn keep(x: &Tensor, decisions: &Tensor, count: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(decisions, &Keep { count })
}

struct Decide {
    threshold: f64,
}

impl CustomOp1 for Decide {
    fn name(&self) -> &'static str {
        "decide"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, classes) = layout.shape().dims2()?;
        let mut decisions = vec![0.0; 3 * batch];
        let mut staying = 0;
        for (sample, z) in contiguous::<f32>(logits, layout)?
            .chunks(classes)
            .enumerate()
        {
            let reading = read(z);
            decisions[3 * sample] = reading.label as f64;
            decisions[3 * sample + 1] = reading.entropy;
            // As below: what is not a number stays.
            if !leaves(reading.entropy, self.threshold) {
                decisions[3 * staying + 2] = sample as f64;
                staying += 1;
            }
        }
        Ok((CpuStorage::F64(decisions), Shape::from((batch, 3))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, classes) = layout.shape().dims2()?;
        let mut out = cuda::unset(logits.device(), DType::F64, 3 * batch)?;
        let (dtype, inputs) = (logits.dtype(), [(logits, layout)]);
        cuda::update(
            "read_exit",
            dtype,
            &inputs,
            &mut out,
            0,
            batch,
            &[classes.into()],
        )?;
        let numbers = [self.threshold.into()];
        cuda::launch(
            "number_staying",
            dtype,
            &[],
            &mut out,
            0,
            (1, batch),
            &numbers,
        )?;
        Ok((out, Shape::from((batch, 3))))
    }
}

/// Whether a sample of this entropy leaves at this threshold.
pub(crate) fn leaves(entropy: f64, threshold: f64) -> bool {
    entropy < threshold
}

struct Keep {
    count: usize,
}

impl CustomOp2 for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        decisions: &CpuStorage,
        layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, decisions) = (
            contiguous::<f32>(x, x_layout)?,
            contiguous::<f64>(decisions, layout)?,
        );
        let row = x.len() / x_layout.dims()[0];
        let mut out = super::unset(self.count * row);
        out.par_chunks_mut(row).enumerate().for_each(|(k, out)| {
            let from = decisions[3 * k + 2] as usize;
            out.copy_from_slice(&x[from * row..][..row]);
        });
        Ok((f32::to_cpu_storage_owned(out), shape(x_layout, self.count)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        decisions: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let row = x_layout.shape().elem_count() / x_layout.dims()[0];
        let inputs = [(x, x_layout), (decisions, layout)];
        let out = cuda::map("keep", x.dtype(), &inputs, self.count * row, &[row.into()])?;
        Ok((out, shape(x_layout, self.count)))
    }
}

fn shape(layout: &Layout, count: usize) -> Shape {
    let mut dims = layout.dims().to_vec();
    dims[0] = count;
    Shape::from(dims)
}
