//! Convolution by cuBLAS: the image's pixels under each tap are laid out as columns, and the rest is
//! products of matrices. For builds without cuDNN.

use super::{Input, Number, map, product};
use crate::ConvGeometry as Geometry;
use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Layout, Result, Shape};

fn sizes(g: &Geometry) -> [Number; 8] {
    [g.inputs, g.height, g.width, g.kernel, g.padding, g.stride, g.out_height, g.out_width].map(Number::from)
}

fn columns(g: &Geometry, batch: usize, x: Input<'_>) -> Result<CudaStorage> {
    let len = batch * g.taps() * g.out_height * g.out_width;
    map("im2col", x.0.dtype(), &[x], len, &sizes(g))
}

/// The same matrix (rows, columns) for every sample.
fn for_each_sample(matrix: &Layout, batch: usize, rows: usize, columns: usize) -> Layout {
    Layout::new(Shape::from((batch, rows, columns)), vec![0, columns, 1], matrix.start_offset())
}

fn matrices(layout: &Layout, batch: usize, rows: usize, columns: usize) -> Layout {
    Layout::contiguous_with_offset((batch, rows, columns), layout.start_offset())
}

/// (batch, out, out_height, out_width) without bias.
pub fn forward(g: &Geometry, batch: usize, x: Input<'_>, weight: Input<'_>) -> Result<CudaStorage> {
    let (taps, pixels) = (g.taps(), g.out_height * g.out_width);
    let columns = columns(g, batch, x)?;
    let columns_layout = Layout::contiguous((batch, taps, pixels));
    let weight_layout = for_each_sample(weight.1, batch, g.outputs, taps);
    let sizes = (batch, g.outputs, pixels, taps);
    product((weight.0, &weight_layout), (&columns, &columns_layout), sizes)
}

/// The gradient of x: (batch, in, height, width).
pub fn grad_input(g: &Geometry, batch: usize, grad: Input<'_>, weight: Input<'_>) -> Result<CudaStorage> {
    let (taps, pixels) = (g.taps(), g.out_height * g.out_width);
    let weight_layout = for_each_sample(weight.1, batch, g.outputs, taps).transpose(1, 2)?;
    let grad_layout = matrices(grad.1, batch, g.outputs, pixels);
    let sizes_of_product = (batch, taps, pixels, g.outputs);
    let columns = product((weight.0, &weight_layout), (grad.0, &grad_layout), sizes_of_product)?;
    let layout = Layout::contiguous(batch * taps * pixels);
    let len = batch * g.inputs * g.height * g.width;
    map("col2im", grad.0.dtype(), &[(&columns, &layout)], len, &sizes(g))
}

/// The gradient of the kernel: (out, in, kernel, kernel).
pub fn grad_weight(g: &Geometry, batch: usize, x: Input<'_>, grad: Input<'_>) -> Result<CudaStorage> {
    let (taps, pixels) = (g.taps(), g.out_height * g.out_width);
    let columns = columns(g, batch, x)?;
    let columns_layout = Layout::contiguous((batch, taps, pixels)).transpose(1, 2)?;
    let grad_layout = matrices(grad.1, batch, g.outputs, pixels);
    let sizes = (batch, g.outputs, taps, pixels);
    let samples = product((grad.0, &grad_layout), (&columns, &columns_layout), sizes)?;
    let len = g.outputs * taps;
    let layout = Layout::contiguous(batch * len);
    map("sum_rows", x.0.dtype(), &[(&samples, &layout)], len, &[batch.into()])
}
