//! Operations that candle lacks, gets wrong, or computes slowly, each with its own gradient, on the CPU
//! and on NVIDIA GPUs.
//!
//! This crate knows candle and nothing of networks, data or exits. Everything else in branchynet is
//! candle's own or is built from what is here. Begin with [`relu`], the simplest [`Operation`]; `conv`
//! is where the time goes, [`inference`] is for answers without training, `cuda` compiles and launches GPU kernels.
//! Every gradient is tested against central differences in f64 and against PyTorch's values
//! (`tests/ops.rs`).

mod batch_norm;
mod conv;
mod conv2d;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
mod elementwise;
mod gather;
mod gelu;
pub mod inference;
mod linear;
mod lrn;
mod operation;
mod pool2d;
mod precision;
mod shortcut;
mod simd;

pub use batch_norm::{EPSILON, Moments, batch_norm, batch_norm_by, update_running};
pub use conv2d::{Geometry as ConvGeometry, conv2d, conv2d_backward};
pub use cross_entropy::{Losses, cross_entropy};
pub use elementwise::{add, dropout, dropout_mask, relu, relu_backward};
pub use gather::gather;
#[cfg(feature = "cuda")]
pub use gather::{Measure, read_exit};
pub use gelu::{gelu, gelu_backward};
pub use linear::{backward as linear_backward, linear};
pub use lrn::{Lrn, lrn};
pub use operation::{Input, Op, Operation, Update, contiguous};
pub use pool2d::{Pool, Pooling, pool2d};
pub use precision::{Precision, PrecisionScope};
pub use shortcut::{Shortcut, add_shortcut};
pub use simd::{Real, instruction_set, instructions};

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
            candle_core::CpuStorage::F32(_) => {
                type $t = f32;
                $body
            }
            candle_core::CpuStorage::F64(_) => {
                type $t = f64;
                $body
            }
            _ => candle_core::bail!("{} works on f32 and f64 only", $op.name()),
        }
    };
}
use dispatch;
