//! Two-dimensional convolution with bias, fast in both directions on the CPU.
//!
//! candle's own `conv2d` has the right values, but its backward pass on the CPU goes through
//! transposed convolutions and is several times slower than PyTorch's. Here the forward pass and
//! both gradients are one kind of product over a zero-padded copy of a single image that stays in
//! the cache (see [`crate::simd`]). A stride `s` splits the padded image into `s²` *phases*
//! (pixels of equal coordinates modulo `s`), inside which the convolution has stride 1.

use super::{contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::{
    MORE_PIXELS, MORE_TAPS, OuterProducts, Packed, Real, SLACK, ShiftedDots, channel_product, outer_products,
    shifted_dots, shifted_product,
};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// Samples whose kernel gradients one task sums before the partial sums are added up. Fixed, so
/// that the result does not depend on the number of threads.
const SAMPLES_PER_TASK: usize = 4;

/// Convolves `x` (batch, in, height, width) with `weight` (out, in, kernel, kernel) and adds `bias`
/// (out).
///
/// `padding` zeros surround the image, the kernel moves by `stride`; the result is
/// (batch, out, ⌊(height + 2·padding − kernel) / stride⌋ + 1, likewise width). Differentiable in
/// all three arguments; f32 and f64. On an NVIDIA GPU by cuDNN with the feature `cudnn`, otherwise
/// by cuBLAS.
///
/// Fails when the channel counts of `x`, `weight` and `bias` differ or the kernel is larger than
/// the padded image.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    let op = Conv2d { geometry: Geometry::new(x, weight, bias.dims(), padding, stride)? };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

/// The sizes of one convolution, and where its padded image lies in a scratch buffer.
#[derive(Debug, Clone)]
pub struct Geometry {
    pub inputs: usize,
    pub height: usize,
    pub width: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub padding: usize,
    pub stride: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Rows and columns of one phase plane of the padded image.
    rows: usize,
    row: usize,
}

impl Geometry {
    fn new(x: &Tensor, weight: &Tensor, bias: &[usize], padding: usize, stride: usize) -> Result<Self> {
        let (_, inputs, height, width) = x.dims4()?;
        let (outputs, in_weight, kernel, kernel_width) = weight.dims4()?;
        if in_weight != inputs || kernel != kernel_width || bias != [outputs] {
            bail!(
                "conv2d: an image of shape {:?} needs a weight (out, {inputs}, k, k) and a bias (out), got {:?} and {:?}",
                x.shape(),
                weight.shape(),
                bias
            )
        }
        Self::of(inputs, height, width, outputs, kernel, padding, stride)
    }

    pub fn of(
        inputs: usize,
        height: usize,
        width: usize,
        outputs: usize,
        kernel: usize,
        padding: usize,
        stride: usize,
    ) -> Result<Self> {
        let (padded_height, padded_width) = (height + 2 * padding, width + 2 * padding);
        if stride == 0 || kernel == 0 || kernel > padded_height || kernel > padded_width {
            bail!(
                "conv2d: a kernel of {kernel} with stride {stride} does not fit an image of {padded_height}x{padded_width} (padding {padding} included)"
            )
        }
        Ok(Self {
            inputs,
            height,
            width,
            outputs,
            kernel,
            padding,
            stride,
            out_height: (padded_height - kernel) / stride + 1,
            out_width: (padded_width - kernel) / stride + 1,
            rows: padded_height.div_ceil(stride),
            row: padded_width.div_ceil(stride),
        })
    }

    /// Elements of one phase plane, with slack so that whole vectors can be written to its end.
    fn plane(&self) -> usize {
        self.rows * self.row + SLACK
    }

    /// Elements of the scratch buffer that [`Self::pad`] fills.
    fn padded_len(&self) -> usize {
        self.inputs * self.stride * self.stride * self.plane() + SLACK
    }

    /// Elements from the first to the last pixel of an output plane whose rows are `row` apart.
    fn columns(&self) -> usize {
        (self.out_height - 1) * self.row + self.out_width
    }

    /// Distance of two output planes in scratch: whole vectors can be written without overlap.
    fn out_plane(&self) -> usize {
        self.columns() + SLACK
    }

    pub fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Where in the padded image the pixel under tap (channel, y, x) of the first output lies, for
    /// all taps in the order of the weight.
    fn offsets(&self) -> Vec<usize> {
        let (s, k) = (self.stride, self.kernel);
        (0..self.taps())
            .map(|tap| {
                let (channel, y, x) = (tap / (k * k), tap / k % k, tap % k);
                ((channel * s + y % s) * s + x % s) * self.plane() + y / s * self.row + x / s
            })
            .collect()
    }

    /// Copies one image (in, height, width) into the padded scratch buffer, which is zero elsewhere.
    fn pad<T: Real>(&self, image: &[T], padded: &mut [T]) {
        self.each_row(|channel, y, at| {
            let source = &image[(channel * self.height + y) * self.width..][..self.width];
            if self.stride == 1 {
                padded[at..at + self.width].copy_from_slice(source);
            } else {
                for (x, &value) in source.iter().enumerate() {
                    padded[self.column(at, x)] = value;
                }
            }
        });
    }

    /// The inverse of [`Self::pad`].
    fn unpad<T: Real>(&self, padded: &[T], image: &mut [T]) {
        self.each_row(|channel, y, at| {
            let target = &mut image[(channel * self.height + y) * self.width..][..self.width];
            if self.stride == 1 {
                target.copy_from_slice(&padded[at..at + self.width]);
            } else {
                for (x, value) in target.iter_mut().enumerate() {
                    *value = padded[self.column(at, x)];
                }
            }
        });
    }

    /// Calls `row(channel, y, place)` for every image row. The place in the padded buffer is that
    /// of the row's first pixel with stride 1; with a larger stride that of the row's phase 0,
    /// where [`Self::column`] finds pixels.
    fn each_row(&self, mut row: impl FnMut(usize, usize, usize)) {
        let s = self.stride;
        let left = if s == 1 { self.padding } else { 0 };
        for channel in 0..self.inputs {
            for y in 0..self.height {
                let at = y + self.padding;
                row(channel, y, (channel * s + at % s) * s * self.plane() + at / s * self.row + left);
            }
        }
    }

    fn column(&self, row_start: usize, x: usize) -> usize {
        let at = x + self.padding;
        row_start + at % self.stride * self.plane() + at / self.stride
    }
}

/// A convolution's weights in the order in which its product reads them.
enum Kernel<T> {
    /// For [`shifted_product`].
    Rows(Packed<T>),
    /// For [`channel_product`]: (tap, output), and the place of every output pixel.
    Channels(Vec<T>, Vec<usize>),
}

impl<T: Real> Kernel<T> {
    /// Packs the weight whose value for an output channel and tap is `at(output, tap)`.
    fn new(g: &Geometry, at: impl Fn(usize, usize) -> T) -> Self {
        let (taps, pixels) = (g.taps(), g.out_height * g.out_width);
        // Whole rows of whole registers are computed, gaps between rows included. Channels in the
        // lanes waste nothing, but the result has to be transposed: about one element per cycle,
        // where a tap takes 1/32 of a cycle per element.
        let wasted = g.columns().next_multiple_of(SLACK) as f64 / pixels as f64 - 1.0;
        let fits = g.outputs > SLACK && g.outputs.is_multiple_of(SLACK);
        if fits && wasted > 0.05 + 32.0 / taps as f64 {
            let weights = (0..taps * g.outputs).map(|i| at(i % g.outputs, i / g.outputs));
            let mut places: Vec<usize> =
                (0..pixels).map(|p| p / g.out_width * g.row + p % g.out_width).collect();
            places.resize(pixels + MORE_PIXELS, 0);
            Self::Channels(weights.collect(), places)
        } else {
            Self::Rows(Packed::new(g.outputs, taps, at))
        }
    }

    /// Elements of the scratch buffer that [`Self::run`] needs.
    fn scratch(&self, g: &Geometry) -> usize {
        match self {
            Self::Rows(_) => g.outputs * g.out_plane() + SLACK,
            Self::Channels(_, places) => places.len() * g.outputs,
        }
    }

    /// Convolves one padded image into `out` (out, height, width).
    fn run(
        &self,
        g: &Geometry,
        offsets: &[usize],
        padded: &[T],
        bias: &[T],
        scratch: &mut [T],
        out: &mut [T],
    ) {
        let pixels = g.out_height * g.out_width;
        match self {
            Self::Rows(packed) => {
                let plane = g.out_plane();
                shifted_product(packed, offsets, padded, Some(bias), scratch, plane, g.columns());
                for (out, product) in out.chunks_mut(pixels).zip(scratch.chunks(plane)) {
                    for (out, row) in out.chunks_mut(g.out_width).zip(product.chunks(g.row)) {
                        out.copy_from_slice(&row[..g.out_width]);
                    }
                }
            }
            Self::Channels(weights, places) => {
                channel_product(weights, offsets, padded, places, bias, scratch);
                transpose(scratch, g.outputs, out, pixels);
            }
        }
    }
}

/// Transposes the matrix `from`, whose rows have `columns` elements, into `to`. In blocks, so that both
/// stay in the cache.
fn transpose<T: Copy>(from: &[T], columns: usize, to: &mut [T], rows: usize) {
    const BLOCK: usize = 16;
    for top in (0..rows).step_by(BLOCK) {
        for column in 0..columns {
            let to = &mut to[column * rows + top..column * rows + rows.min(top + BLOCK)];
            for (to, from) in to.iter_mut().zip(from[top * columns + column..].iter().step_by(columns)) {
                *to = *from;
            }
        }
    }
}

struct Conv2d {
    geometry: Geometry,
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(g: &Geometry, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
            let batch = x.len() / (g.inputs * g.height * g.width);
            let kernel = Kernel::new(g, |o, tap| weight[o * g.taps() + tap]);
            let offsets = g.offsets();
            let mut out = unset(batch * g.outputs * g.out_height * g.out_width);
            out.par_chunks_mut(g.outputs * g.out_height * g.out_width)
                .zip(x.par_chunks(g.inputs * g.height * g.width))
                .for_each_init(
                    || {
                        let scratch = vec![T::zero(); kernel.scratch(g)];
                        (vec![T::zero(); g.padded_len()], scratch)
                    },
                    |(padded, scratch), (out, image)| {
                        g.pad(image, padded);
                        kernel.run(g, &offsets, padded, bias, scratch, out);
                    },
                );
            out
        }
        let g = &self.geometry;
        let batch = x_layout.dims()[0];
        let shape = Shape::from((batch, g.outputs, g.out_height, g.out_width));
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(forward::<T>(
            g,
            contiguous(x, x_layout)?,
            contiguous(weight, weight_layout)?,
            contiguous(bias, bias_layout)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
        bias: &CudaStorage,
        bias_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, x_layout.dims()[0]);
        let products = cuda::conv::forward(g, batch, (x, x_layout), (weight, weight_layout))?;
        let shape = Shape::from((batch, g.outputs, g.out_height, g.out_width));
        let layout = Layout::contiguous(&shape);
        let terms = [(&products, &layout), (bias, bias_layout)];
        let numbers = [g.outputs.into(), (g.out_height * g.out_width).into()];
        let out = cuda::map("add_bias", x.dtype(), &terms, shape.elem_count(), &numbers)?;
        Ok((out, shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // Images need no gradient, and the first layer's would cost as much as its forward pass.
        let grads = backward(&self.geometry, x, weight, grad, x.track_op())?;
        Ok((grads.0, Some(grads.1), Some(grads.2)))
    }
}

/// The gradients of image (where `of_image`), kernel and bias, given the output's.
fn backward(
    geometry: &Geometry,
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    of_image: bool,
) -> Result<(Option<Tensor>, Tensor, Tensor)> {
    let grad = grad.contiguous()?;
    let geometry = || geometry.clone();
    let grad_x = if of_image {
        let op = GradInput { geometry: geometry() };
        Some(grad.apply_op2_no_bwd(weight, &op)?)
    } else {
        None
    };
    let op = GradWeight { geometry: geometry() };
    let grad_weight = x.apply_op2_no_bwd(&grad, &op)?;
    Ok((grad_x, grad_weight, grad.apply_op1_no_bwd(&GradBias)?))
}

/// [`backward`] for tensors as [`conv2d`] takes them.
pub fn conv2d_backward(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    (padding, stride): (usize, usize),
    of_image: bool,
) -> Result<(Option<Tensor>, Tensor, Tensor)> {
    let geometry = Geometry::new(x, weight, &[weight.dim(0)?], padding, stride)?;
    backward(&geometry, x, &weight.contiguous()?, grad, of_image)
}

/// Gradients of the output planes laid out like the padded image: rows `row` apart, zeros between
/// and `margin` zeros before each plane, so that reading `margin − shift` further on never leaves
/// it.
struct SpreadGrad {
    margin: usize,
    plane: usize,
}

impl SpreadGrad {
    fn new(g: &Geometry) -> Self {
        let reach = (g.kernel - 1) / g.stride;
        let margin = reach * g.row + reach;
        Self { margin, plane: margin + g.plane() }
    }

    fn len(&self, g: &Geometry) -> usize {
        g.outputs * self.plane + SLACK
    }

    fn fill<T: Real>(&self, g: &Geometry, grad: &[T], spread: &mut [T]) {
        for (grad, plane) in grad.chunks(g.out_height * g.out_width).zip(spread.chunks_mut(self.plane)) {
            for (y, row) in grad.chunks(g.out_width).enumerate() {
                let at = self.margin + y * g.row;
                plane[at..at + g.out_width].copy_from_slice(row);
            }
        }
    }
}

/// The gradient of the image: a convolution of the output's gradient with the mirrored kernel.
struct GradInput {
    geometry: Geometry,
}

impl CustomOp2 for GradInput {
    fn name(&self) -> &'static str {
        "conv2d-grad-input"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(g: &Geometry, grad: &[T], weight: &[T]) -> Vec<T> {
            let (s, k, area) = (g.stride, g.kernel, g.kernel * g.kernel);
            let spread = SpreadGrad::new(g);
            // For every phase: the kernel positions that reach it, as a matrix and its shifts.
            let phases: Vec<_> = (0..s * s)
                .map(|phase| {
                    let (phase_y, phase_x) = (phase / s, phase % s);
                    let taps: Vec<usize> = (0..g.outputs * area)
                        .filter(|tap| tap / k % k % s == phase_y && tap % k % s == phase_x)
                        .collect();
                    let packed = Packed::new(g.inputs, taps.len(), |channel, i| {
                        let (output, position) = (taps[i] / area, taps[i] % area);
                        weight[(output * g.inputs + channel) * area + position]
                    });
                    // Only rows that hold image pixels are computed, not the padding.
                    let first = (g.padding - phase_y.min(g.padding)) / s;
                    let last = (g.height + g.padding - 1 - phase_y.min(g.height + g.padding - 1)) / s;
                    let start = first * g.row;
                    let columns = (last + 1 - first) * g.row;
                    let offsets: Vec<usize> = taps
                        .iter()
                        .map(|tap| {
                            let shift = tap / k % k / s * g.row + tap % k / s;
                            tap / area * spread.plane + spread.margin + start - shift
                        })
                        .collect();
                    (phase * g.plane() + start, columns, packed, offsets)
                })
                .collect();
            let batch = grad.len() / (g.outputs * g.out_height * g.out_width);
            let mut out = unset(batch * g.inputs * g.height * g.width);
            out.par_chunks_mut(g.inputs * g.height * g.width)
                .zip(grad.par_chunks(g.outputs * g.out_height * g.out_width))
                .for_each_init(
                    || (vec![T::zero(); spread.len(g)], vec![T::zero(); g.padded_len()]),
                    |(spreaded, padded), (out, grad)| {
                        spread.fill(g, grad, spreaded);
                        for (start, columns, packed, offsets) in &phases {
                            let target = &mut padded[*start..];
                            let plane = s * s * g.plane();
                            if !offsets.is_empty() {
                                shifted_product(packed, offsets, spreaded, None, target, plane, *columns);
                            }
                        }
                        g.unpad(padded, out);
                    },
                );
            out
        }
        let g = &self.geometry;
        let shape = Shape::from((grad_layout.dims()[0], g.inputs, g.height, g.width));
        let out = dispatch!(self, grad, T => T::to_cpu_storage_owned(backward::<T>(
            g,
            contiguous(grad, grad_layout)?,
            contiguous(weight, weight_layout)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        grad: &CudaStorage,
        grad_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, grad_layout.dims()[0]);
        let (grad, weight) = ((grad, grad_layout), (weight, weight_layout));
        let out = cuda::conv::grad_input(g, batch, grad, weight)?;
        Ok((out, Shape::from((batch, g.inputs, g.height, g.width))))
    }
}

/// The gradient of the kernel: products of image and gradient, summed over pixels and samples.
struct GradWeight {
    geometry: Geometry,
}

impl CustomOp2 for GradWeight {
    fn name(&self) -> &'static str {
        "conv2d-grad-weight"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(g: &Geometry, x: &[T], grad: &[T]) -> Vec<T> {
            let image = g.inputs * g.height * g.width;
            let output = g.outputs * g.out_height * g.out_width;
            let spread = SpreadGrad { margin: 0, plane: g.plane() };
            if g.outputs > SLACK && g.outputs.is_multiple_of(SLACK) {
                return by_channels(g, x, grad);
            }
            let offsets = g.offsets();
            let (padded_len, spread_len) = (g.padded_len(), spread.len(g));
            let partial: Vec<Vec<T>> = x
                .par_chunks(image * SAMPLES_PER_TASK)
                .zip(grad.par_chunks(output * SAMPLES_PER_TASK))
                .map_init(
                    || {
                        let task = SAMPLES_PER_TASK;
                        (vec![T::zero(); padded_len * task], vec![T::zero(); spread_len * task])
                    },
                    |(padded, spreaded), (images, grads)| {
                        for (image, padded) in images.chunks(image).zip(padded.chunks_mut(padded_len)) {
                            g.pad(image, padded);
                        }
                        for (grad, spreaded) in grads.chunks(output).zip(spreaded.chunks_mut(spread_len)) {
                            spread.fill(g, grad, spreaded);
                        }
                        let mut sums = vec![T::zero(); g.outputs * g.taps()];
                        let dots = ShiftedDots {
                            a: spreaded,
                            a_stride: spread.plane,
                            a_step: spread_len,
                            b: padded,
                            b_step: padded_len,
                            offsets: &offsets,
                            rows: g.outputs,
                            // Whole registers: behind the last pixel the gradient is zero.
                            columns: g.columns().next_multiple_of(SLACK),
                            samples: images.len() / image,
                        };
                        shifted_dots(&dots, &mut sums);
                        sums
                    },
                )
                .collect();
            let mut sums = vec![T::zero(); g.outputs * g.taps()];
            for part in partial {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += part;
                }
            }
            sums
        }
        let g = &self.geometry;
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(backward::<T>(
            g,
            contiguous(x, x_layout)?,
            contiguous(grad, grad_layout)?,
        )));
        Ok((out, Shape::from((g.outputs, g.inputs, g.kernel, g.kernel))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, x_layout.dims()[0]);
        let (x, grad) = ((x, x_layout), (grad, grad_layout));
        let out = cuda::conv::grad_weight(g, batch, x, grad)?;
        Ok((out, Shape::from((g.outputs, g.inputs, g.kernel, g.kernel))))
    }
}

/// The gradient of the kernel where the output's channels fill several registers.
fn by_channels<T: Real>(g: &Geometry, x: &[T], grad: &[T]) -> Vec<T> {
    // Fixed, as above; a task adds up the samples of a few steps, each of which stays in the cache.
    const SAMPLES_PER_STEP: usize = 4;
    const STEPS: usize = 4;
    let (image, pixels) = (g.inputs * g.height * g.width, g.out_height * g.out_width);
    let output = g.outputs * pixels;
    let (padded_len, taps) = (g.padded_len(), g.taps());
    let mut offsets = g.offsets();
    offsets.resize(taps + MORE_TAPS, 0);
    let task = STEPS * SAMPLES_PER_STEP;
    let partial: Vec<Vec<T>> = x
        .par_chunks(image * task)
        .zip(grad.par_chunks(output * task))
        .map_init(
            || {
                let padded = vec![T::zero(); padded_len * SAMPLES_PER_STEP];
                (padded, vec![T::zero(); output * SAMPLES_PER_STEP])
            },
            |(padded, transposed), (images, grads)| {
                let mut sums = vec![T::zero(); offsets.len() * g.outputs];
                for (images, grads) in
                    images.chunks(image * SAMPLES_PER_STEP).zip(grads.chunks(output * SAMPLES_PER_STEP))
                {
                    for (image, padded) in images.chunks(image).zip(padded.chunks_mut(padded_len)) {
                        g.pad(image, padded);
                    }
                    for (grad, transposed) in grads.chunks(output).zip(transposed.chunks_mut(output)) {
                        transpose(grad, pixels, transposed, g.outputs);
                    }
                    let outer = OuterProducts {
                        grads: &transposed[..grads.len()],
                        channels: g.outputs,
                        images: padded,
                        image_len: padded_len,
                        offsets: &offsets,
                        height: g.out_height,
                        width: g.out_width,
                        row: g.row,
                        samples: images.len() / image,
                    };
                    outer_products(&outer, &mut sums);
                }
                sums
            },
        )
        .collect();
    // From (tap, output) to (output, tap).
    let mut sums = unset(g.outputs * taps);
    sums.par_chunks_mut(taps).enumerate().for_each(|(output, sums)| {
        for (tap, sum) in sums.iter_mut().enumerate() {
            let at = tap * g.outputs + output;
            *sum = partial.iter().fold(T::zero(), |sum, part| sum + part[at]);
        }
    });
    sums
}

/// The gradient of the bias: the sum of each channel. candle's sum over outer dimensions walks
/// strided indices one by one and took longer than the whole rest of the backward pass.
struct GradBias;

impl CustomOp1 for GradBias {
    fn name(&self) -> &'static str {
        "conv2d-grad-bias"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn sums<T: Real>(grad: &[T], outputs: usize, area: usize) -> Vec<T> {
            let per_sample: Vec<Vec<T>> = grad
                .par_chunks(outputs * area)
                .map(|sample| {
                    // Sixteen sums side by side, so that they fill vector registers.
                    let sum = |plane: &[T]| {
                        let mut lanes = [T::zero(); 16];
                        let (whole, rest) = plane.as_chunks::<16>();
                        for chunk in whole {
                            lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x);
                        }
                        lanes.iter().chain(rest).fold(T::zero(), |sum, &x| sum + x)
                    };
                    sample.chunks(area).map(sum).collect()
                })
                .collect();
            let mut sums = vec![T::zero(); outputs];
            for sample in per_sample {
                sums.iter_mut().zip(sample).for_each(|(sum, part)| *sum += part);
            }
            sums
        }
        let (_, outputs, height, width) = layout.shape().dims4()?;
        let out = dispatch!(self, grad, T => T::to_cpu_storage_owned(
            sums::<T>(contiguous(grad, layout)?, outputs, height * width)
        ));
        Ok((out, Shape::from(outputs)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, outputs, height, width) = layout.shape().dims4()?;
        let (dtype, sizes) = (grad.dtype(), (batch, outputs, height * width));
        let sums = cuda::channel_sums("channel_sums", dtype, &[(grad, layout)], sizes, &[])?;
        let out = cuda::add_slices("first_sums", dtype, &sums, &[], outputs, &[])?;
        Ok((out, Shape::from(outputs)))
    }
}
