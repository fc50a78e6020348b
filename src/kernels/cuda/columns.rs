//! Convolution by cuBLAS: the image's pixels under each tap are laid out as columns, and the rest is
//! products of matrices. For builds without cuDNN.

use super::{Input, Number, map, product};
use crate::ConvGeometry as Geometry;
use crate::conv2d::Wanted;
use crate::launch::Thread;
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Result, Shape};

fn sizes(g: &Geometry) -> [Number; 8] {
    [g.inputs, g.height, g.width, g.kernel, g.padding, g.stride, g.out_height, g.out_width].map(Number::from)
}

/// The same matrix (rows, columns) for every sample.
fn for_each_sample(matrix: &Layout, batch: usize, rows: usize, columns: usize) -> Layout {
    Layout::new(Shape::from((batch, rows, columns)), vec![0, columns, 1], matrix.start_offset())
}

/// The wanted tensor from the other two: from image and kernel, from the output's gradient and kernel, or from image and
/// the output's gradient. The output is without bias.
pub fn compute(
    g: &Geometry,
    batch: usize,
    a: Input<'_>,
    b: Input<'_>,
    wanted: Wanted,
) -> Result<CudaStorage> {
    let (dtype, taps, pixels) = (a.0.dtype(), g.taps(), g.out_height * g.out_width);
    let columns = || map("im2col", dtype, &[a], batch * taps * pixels, Thread::Result, &sizes(g));
    let columns_layout = Layout::contiguous((batch, taps, pixels));
    let outputs =
        |grad: &Layout| Layout::contiguous_with_offset((batch, g.outputs, pixels), grad.start_offset());
    match wanted {
        Wanted::Out => {
            let weight = for_each_sample(b.1, batch, g.outputs, taps);
            product((b.0, &weight), (&columns()?, &columns_layout), (batch, g.outputs, pixels, taps))
        }
        Wanted::GradX => {
            let weight = for_each_sample(b.1, batch, g.outputs, taps).transpose(1, 2)?;
            let columns = product((b.0, &weight), (a.0, &outputs(a.1)), (batch, taps, pixels, g.outputs))?;
            let len = batch * g.inputs * g.height * g.width;
            map("col2im", dtype, &[(&columns, &columns_layout)], len, Thread::Result, &sizes(g))
        }
        Wanted::GradWeight => {
            let columns_layout = columns_layout.transpose(1, 2)?;
            let sizes = (batch, g.outputs, taps, pixels);
            let samples = product((b.0, &outputs(b.1)), (&columns()?, &columns_layout), sizes)?;
            let (len, layout) = (g.outputs * taps, Layout::contiguous(batch * g.outputs * taps));
            map("sum_rows", dtype, &[(&samples, &layout)], len, Thread::Result, &[batch.into()])
        }
    }
}
