//! Operations that candle lacks, gets wrong, or computes slowly, each with its own gradient, on the CPU
//! and on NVIDIA GPUs.
//!
//! This crate knows candle and nothing of networks, data or exits. Everything else in branchynet is
//! candle's own or is built from what is here. Begin with [`relu`], the simplest [`Operation`]; `conv`
//! is where the time goes, [`inference`] is for answers without training, [`Pixels`] for training on the CPU, `cuda` compiles and launches GPU kernels.
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
pub mod inference;
mod launch;
mod linear;
mod lrn;
mod normal;
mod operation;
mod pixels;
mod pool2d;
mod precision;
mod shortcut;
mod simd;

pub use batch_norm::{EPSILON, Moments, batch_norm, batch_norm_by, update_running};
pub use conv2d::{Geometry as ConvGeometry, conv2d, conv2d_backward};
pub use cross_entropy::{Losses, cross_entropy};
pub use elementwise::{add, dropout, dropout_mask, gelu, gelu_backward, relu, relu_backward};
pub use gather::gather;
#[cfg(feature = "cuda")]
pub use gather::{Measure, read_exit};
pub use launch::{Number, Thread};
pub use linear::{backward as linear_backward, linear};
pub use lrn::{Lrn, lrn};
pub use operation::{Input, Op, Operation, Update, contiguous};
pub use pixels::{Beside, ConvGrads, PixelGrad, Pixels};
pub use pool2d::{Pool, Pooling, pool2d};
pub use precision::{Precision, PrecisionScope};
pub use shortcut::{Shortcut, Zeros, add_shortcut};
pub use simd::{Real, instruction_set, instructions, vectorized};

use operation::slices;
use rayon::prelude::*;

/// A vector of this length for a result of which every element is going to be written. Zeros would
/// cost a pass over memory, on one thread.
#[allow(clippy::uninit_vec)]
fn unset<T: Real>(len: usize) -> Vec<T> {
    let mut vector = Vec::with_capacity(len);
    // Safety: any bits are a float, and the callers write each element before it is read.
    unsafe { vector.set_len(len) };
    vector
}

/// Writes `f` of the elements of the inputs at each place.
#[inline(always)]
fn each<T: Real, const N: usize>(out: &mut [T], inputs: [&[T]; N], f: impl Fn([T; N]) -> T) {
    let inputs = inputs.map(|input| &input[..out.len()]);
    for i in 0..out.len() {
        out[i] = f(inputs.map(|input| input[i]));
    }
}

/// A vector of `len` elements whose chunks `work` writes, on all cores and in vector registers: it gets the number of the
/// chunk, as large a share of each of the inputs, scratch that `scratch` makes, and the chunk. Give it
/// `#[inline(always)]`.
fn by_chunks<T: Real, U: Real, S, const N: usize>(
    inputs: [&[T]; N],
    (len, chunk): (usize, usize),
    scratch: impl Fn() -> S + Send + Sync,
    work: impl Fn(usize, [&[T]; N], &mut S, &mut [U]) + Sync,
) -> Vec<U> {
    let shares = inputs.map(|input| (input, input.len() * chunk / len.max(1)));
    // A task handles so many elements, so that starting it costs less than running it.
    let largest = shares.iter().fold(chunk, |largest, &(_, share)| largest.max(share));
    let at_least = ((1 << 14) / largest).max(1);
    let mut out = unset(len);
    out.par_chunks_mut(chunk).enumerate().with_min_len(at_least).for_each_init(
        scratch,
        |scratch, (i, out)| {
            let shares = shares.map(|(input, share)| &input[i * share..input.len().min((i + 1) * share)]);
            vectorized(
                #[inline(always)]
                || work(i, shares, scratch, out),
            );
        },
    );
    out
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
