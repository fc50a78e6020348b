//! Operations that candle lacks, gets wrong, or computes slowly, each with its own gradient.
//!
//! Everything else in this crate is candle's. Every gradient is tested against central
//! differences in f64 and against PyTorch's values (`tests/ops.rs`).

mod adam;
mod add;
mod avg_pool2d;
mod batch_norm;
mod conv2d;
mod cross_entropy;
mod decide;
mod dropout;
mod linear;
mod lrn;
mod max_pool2d;
mod relu;
mod shortcut;

pub(crate) use adam::Adam;
pub(crate) use add::add;
pub(crate) use avg_pool2d::AveragePool;
pub use avg_pool2d::avg_pool2d;
pub use batch_norm::{EPSILON, Moments, batch_norm, batch_norm_by, follow};
pub use conv2d::conv2d;
pub(crate) use conv2d::conv2d_backward;
pub(crate) use conv2d::{Geometry as ConvGeometry, Kernel as ConvKernel};
pub use cross_entropy::{Losses, cross_entropy};
pub(crate) use decide::{decide, keep, leaves};
pub use dropout::dropout;
pub(crate) use dropout::dropout_mask;
pub(crate) use linear::backward as linear_backward;
pub use linear::linear;
pub(crate) use linear::samples as linear_samples;
pub use lrn::{Lrn, lrn};
pub(crate) use max_pool2d::Pool;
pub use max_pool2d::max_pool2d;
pub use relu::relu;
pub(crate) use relu::relu_backward;
pub(crate) use shortcut::Shortcut;
pub use shortcut::add_shortcut;

use crate::simd::Real;
use candle_core::{CpuStorage, Layout, Result, bail};

/// The elements of a tensor that is known to be contiguous.
fn contiguous<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("internal error: an operation got a tensor that is not contiguous"),
    }
}

/// A vector of this length for a result of which every element is going to be written. Zeros would
/// cost a pass over memory, on one thread.
#[allow(clippy::uninit_vec)]
fn unset<T: Real>(len: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(len);
    // Safety: any bits are a float, and the callers write each element before it is read.
    unsafe { vector.set_len(len) };
    vector
}

/// Evaluates an expression with `T` bound to the element type of a CPU storage, f32 or f64.
macro_rules! dispatch {
    ($op:expr, $storage:expr, $t:ident => $body:expr) => {
        match $storage {
            CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            _ => candle_core::bail!("{} works on f32 and f64 only", $op.name()),
        }
    };
}
use dispatch;
