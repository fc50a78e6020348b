//! Two-dimensional convolution with bias, fast in both directions on the CPU.
//!
//! candle's own `conv2d` has the right values, but its backward pass on the CPU goes through transposed
//! convolutions and is several times slower than PyTorch's. Here both directions are the convolutions that
//! inference uses too ([`crate::conv`]): a few images at a time are laid out with their channels side by
//! side, and what comes out is put back. The gradient of the image is a convolution itself, of the
//! output's gradient with the mirrored kernel.
//!
//! That is for f32. In f64, which is there so that gradients can be checked finely, everything is computed by the
//! definition.

use super::{Input, Op, Operation, contiguous, dispatch, unset};
use crate::conv::{Conv, Finish, Gradient, Image, Part, Shared, Tiles};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, Layout, backend::BackendStorage};
use rayon::prelude::*;

/// Bytes of images that are laid out at a time: with the weights they are to stay in the second-level cache.
const AT_A_TIME: usize = 256 << 10;

/// Convolves `x` (batch, in, height, width) with `weight` (out, in, kernel, kernel) and adds `bias`
/// (out).
///
/// `padding` zeros surround the image, the kernel moves by `stride`; the result is
/// (batch, out, ⌊(height + 2·padding − kernel) / stride⌋ + 1, likewise width). Differentiable in
/// all three arguments; f32 and f64. On an NVIDIA GPU by cuDNN with the feature `cudnn`, otherwise
/// by cuBLAS.
///
/// Fails when the channel counts of `x`, `weight` and `bias` differ or the kernel is larger than
/// the padded image or not larger than the padding.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    let op = Conv2d { geometry: Geometry::new(x, weight, bias.dims(), padding, stride)? };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Op(op))
}

/// The sizes of one convolution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
        if padding >= kernel {
            bail!(
                "conv2d: a padding of {padding} with a kernel of {kernel}: it has to be smaller than the kernel"
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
        })
    }

    pub fn taps(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    fn sizes(&self) -> [usize; 3] {
        [self.kernel, self.padding, self.stride]
    }

    /// Elements of an image, and of its output.
    fn lens(&self) -> (usize, usize) {
        (self.inputs * self.height * self.width, self.outputs * self.out_height * self.out_width)
    }

    /// Calls `term(output, pixel, weight)` with the places of all factors of one sample.
    fn terms(&self, mut term: impl FnMut(usize, usize, usize)) {
        let (s, k, p) = (self.stride, self.kernel, self.padding);
        for out in 0..self.lens().1 {
            let (o, y, x) = (
                out / (self.out_height * self.out_width),
                out / self.out_width % self.out_height,
                out % self.out_width,
            );
            for tap in 0..self.taps() {
                let (channel, y, x) = (tap / (k * k), y * s + tap / k % k, x * s + tap % k);
                if (p..p + self.height).contains(&y) && (p..p + self.width).contains(&x) {
                    let pixel = (channel * self.height + y - p) * self.width + x - p;
                    term(out, pixel, o * self.taps() + tap);
                }
            }
        }
    }
}

/// The layouts of the images of a convolution with these sizes, and the tiles that suit it.
fn layouts(from: [usize; 3], to: [usize; 3], sizes: [usize; 3]) -> (Image, Image, Option<Tiles>) {
    let ([kernel, padding, _], to) = (sizes, Image::new(to));
    let mut image = Image { border: padding, ..Image::new(from) };
    let tiles = Tiles::suit(&image, &to, sizes, 0);
    match tiles {
        Some(tiles) => {
            let beyond = |length: usize| tiles.beyond(length + 2 * padding, kernel);
            image.beyond = beyond(image.height).max(beyond(image.width));
        }
        None => image.depth = image.channels,
    }
    (image, to, tiles)
}

/// Images that are laid out at a time: what fits into the cache, or as many as have a block of tiles.
fn at_a_time(from: &Image, to: &Image, tiles: Option<Tiles>) -> usize {
    let bytes = size_of::<f32>() * (from.len() + to.len());
    let block = tiles.map_or(1, |tiles| tiles.block(from, to.depth).div_ceil(tiles.count(to)));
    (AT_A_TIME / bytes).clamp(1, 16).max(block)
}

/// Convolves the images in `x`, whose pixels are put `apart` from each other to images of shape `from`, to
/// images of shape `to`; kernel, padding, stride. `weight` is (outputs, inputs, kernel, kernel).
fn convolve(
    (x, apart): (&[f32], usize),
    [from, to]: [[usize; 3]; 2],
    sizes: [usize; 3],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: &[f32],
    batch: usize,
) -> Vec<f32> {
    let (from, to, tiles) = layouts(from, to, sizes);
    let conv = Conv::new(&from, &to, sizes, tiles, weight);
    let mut bias = bias.to_vec();
    bias.resize(to.depth, 0.0);
    let count = at_a_time(&from, &to, tiles);
    let (len, out_len) = (x.len() / batch, to.shape().iter().product());
    let mut out = unset(batch * out_len);
    out.par_chunks_mut(count * out_len).zip(x.par_chunks(count * len)).for_each_init(
        || (vec![0.0; count * from.len()], unset(count * to.len()), unset(conv.scratch(&from))),
        |(images, outs, scratch), (out, x)| {
            for (image, x) in images.chunks_mut(from.len()).zip(x.chunks(len)) {
                from.pack(x, apart, image);
            }
            let finish = Finish { bias: &bias, relu: false, addend: None };
            conv.run((&from, images), finish, (&to, Shared::new(outs)), scratch, x.len() / len, Part::WHOLE);
            for (outs, out) in outs.chunks(to.len()).zip(out.chunks_mut(out_len)) {
                to.unpack(outs, out);
            }
        },
    );
    out
}

struct Conv2d {
    geometry: Geometry,
}

impl Operation<3> for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu(&self, [x, weight, bias]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let batch = x.1.dims()[0];
        let shape = Shape::from((batch, g.outputs, g.out_height, g.out_width));
        if let CpuStorage::F32(_) = x.0 {
            let weight: &[f32] = contiguous(weight)?;
            let k = g.kernel;
            let at = |o: usize, c: usize, y: usize, x: usize| weight[((o * g.inputs + c) * k + y) * k + x];
            let shapes = [[g.inputs, g.height, g.width], [g.outputs, g.out_height, g.out_width]];
            let (x, bias) = (contiguous(x)?, contiguous(bias)?);
            return Ok((CpuStorage::F32(convolve((x, 1), shapes, g.sizes(), at, bias, batch)), shape));
        }
        fn forward<T: Real>(g: &Geometry, x: &[T], weight: &[T], bias: &[T]) -> Vec<T> {
            let (image, output) = g.lens();
            let mut out = unset(x.len() / image * output);
            out.par_chunks_mut(output).zip(x.par_chunks(image)).for_each(|(out, x)| {
                let pixels = out.len() / bias.len();
                out.chunks_mut(pixels).zip(bias).for_each(|(out, &bias)| out.fill(bias));
                g.terms(|o, i, w| out[o] += x[i] * weight[w]);
            });
            out
        }
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(forward::<T>(
            g,
            contiguous(x)?,
            contiguous(weight)?,
            contiguous(bias)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, weight, bias]: [cuda::Input<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, x.1.dims()[0]);
        let products = cuda::conv::forward(g, batch, x, weight)?;
        let shape = Shape::from((batch, g.outputs, g.out_height, g.out_width));
        let layout = Layout::contiguous(&shape);
        let terms = [(&products, &layout), bias];
        let numbers = [g.outputs.into(), (g.out_height * g.out_width).into()];
        let out = cuda::map_images("add_bias", x.0.dtype(), &terms, shape.elem_count(), &numbers)?;
        Ok((out, shape))
    }

    fn backward(
        &self,
        [x, weight, _bias]: [&Tensor; 3],
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        // Images need no gradient, and the first layer's would cost as much as its forward pass.
        let grads = backward(&self.geometry, x, weight, grad, x.track_op())?;
        Ok([grads.0, Some(grads.1), Some(grads.2)])
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
        let op = Op(GradInput { geometry: geometry() });
        Some(grad.apply_op2_no_bwd(weight, &op)?)
    } else {
        None
    };
    let op = Op(GradWeight { geometry: geometry() });
    let grad_weight = x.apply_op2_no_bwd(&grad, &op)?;
    Ok((grad_x, grad_weight, grad.apply_op1_no_bwd(&Op(GradBias))?))
}

/// The gradients of image (where `of_image`), kernel and bias for tensors as [`conv2d`] takes them.
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

/// The gradient of the image: a convolution of the output's gradient with the mirrored kernel.
struct GradInput {
    geometry: Geometry,
}

impl Operation<2> for GradInput {
    fn name(&self) -> &'static str {
        "conv2d-grad-input"
    }

    fn cpu(&self, [grad, weight]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let batch = grad.1.dims()[0];
        let shape = Shape::from((batch, g.inputs, g.height, g.width));
        if let CpuStorage::F32(_) = grad.0 {
            // With a stride there are zeros between the gradients, and at the end pixels that no output has seen.
            let k = g.kernel;
            let size = |length: usize| length + 2 * g.padding + 1 - k;
            let shapes = [[g.outputs, size(g.height), size(g.width)], [g.inputs, g.height, g.width]];
            let (grad, weight): (_, &[f32]) = (contiguous(grad)?, contiguous(weight)?);
            let mirrored = |c: usize, o: usize, y: usize, x: usize| {
                weight[((o * g.inputs + c) * k + k - 1 - y) * k + k - 1 - x]
            };
            let sizes = [k, k - 1 - g.padding, 1];
            let out = convolve((grad, g.stride), shapes, sizes, mirrored, &vec![0.0; g.inputs], batch);
            return Ok((CpuStorage::F32(out), shape));
        }
        fn backward<T: Real>(g: &Geometry, grad: &[T], weight: &[T]) -> Vec<T> {
            let (image, output) = g.lens();
            let mut out = vec![T::zero(); grad.len() / output * image];
            out.par_chunks_mut(image).zip(grad.par_chunks(output)).for_each(|(out, grad)| {
                g.terms(|o, i, w| out[i] += grad[o] * weight[w]);
            });
            out
        }
        let out = dispatch!(self, grad.0, T => T::to_cpu_storage_owned(backward::<T>(
            g,
            contiguous(grad)?,
            contiguous(weight)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [grad, weight]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, grad.1.dims()[0]);
        let out = cuda::conv::grad_input(g, batch, grad, weight)?;
        Ok((out, Shape::from((batch, g.inputs, g.height, g.width))))
    }
}

/// The gradient of the kernel: products of image and gradient, summed over pixels and samples.
struct GradWeight {
    geometry: Geometry,
}

impl Operation<2> for GradWeight {
    fn name(&self) -> &'static str {
        "conv2d-grad-weight"
    }

    fn cpu(&self, [x, grad]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let shape = Shape::from((g.outputs, g.inputs, g.kernel, g.kernel));
        if let CpuStorage::F32(_) = x.0 {
            let out = kernel_gradient(g, contiguous(x)?, contiguous(grad)?);
            return Ok((CpuStorage::F32(out), shape));
        }
        fn backward<T: Real>(g: &Geometry, x: &[T], grad: &[T]) -> Vec<T> {
            let (image, output) = g.lens();
            let mut sums = vec![T::zero(); g.outputs * g.taps()];
            for (x, grad) in x.chunks(image).zip(grad.chunks(output)) {
                g.terms(|o, i, w| sums[w] += x[i] * grad[o]);
            }
            sums
        }
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(backward::<T>(
            g,
            contiguous(x)?,
            contiguous(grad)?,
        )));
        Ok((out, shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, grad]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (g, batch) = (&self.geometry, x.1.dims()[0]);
        let out = cuda::conv::grad_weight(g, batch, x, grad)?;
        Ok((out, Shape::from((g.outputs, g.inputs, g.kernel, g.kernel))))
    }
}

fn kernel_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let shapes = [[g.inputs, g.height, g.width], [g.outputs, g.out_height, g.out_width]];
    let (from, mut to, tiles) = layouts(shapes[0], shapes[1], g.sizes());
    if let Some(Tiles { results, .. }) = tiles {
        let beyond = |length: usize| length.next_multiple_of(results) - length;
        to.beyond = beyond(to.height).max(beyond(to.width));
    }
    let gradient = Gradient { from: &from, to: &to, sizes: g.sizes(), tiles };
    let (len, scratch) = gradient.lens();
    let (image, output) = g.lens();
    // One task sums the gradients of so many samples before the partial sums are added up: it depends on the size
    // of the batch alone, so that the result does not depend on the number of threads.
    let task = (x.len() / image / 8).clamp(4, 64);
    let count = at_a_time(&from, &to, tiles).min(task);
    let partial: Vec<Vec<f32>> = x
        .par_chunks(image * task)
        .zip(grad.par_chunks(output * task))
        .map_init(
            || (vec![0.0; count * from.len()], vec![0.0; count * to.len()], unset(scratch)),
            |(images, grads, scratch), (x, grad)| {
                let mut sums = vec![0.0; len];
                for (x, grad) in x.chunks(count * image).zip(grad.chunks(count * output)) {
                    for (to, x) in images.chunks_mut(from.len()).zip(x.chunks(image)) {
                        from.pack(x, 1, to);
                    }
                    for (into, grad) in grads.chunks_mut(to.len()).zip(grad.chunks(output)) {
                        to.pack(grad, 1, into);
                    }
                    gradient.add(images, grads, x.len() / image, scratch, &mut sums);
                }
                gradient.finish(sums)
            },
        )
        .collect();
    let mut sums = vec![0.0; g.taps() * to.depth];
    sums.par_chunks_mut(to.depth).enumerate().for_each(|(row, sums)| {
        for part in &partial {
            sums.iter_mut().zip(&part[row * to.depth..]).for_each(|(sum, &part)| *sum += part);
        }
    });
    // From (kernel, kernel, input, output) to (output, input, kernel, kernel).
    let (area, taps) = (g.kernel * g.kernel, g.taps());
    let mut out = unset(g.outputs * taps);
    out.par_chunks_mut(taps).enumerate().for_each(|(output, out)| {
        for (tap, out) in out.iter_mut().enumerate() {
            *out = sums[(tap % area * g.inputs + tap / area) * to.depth + output];
        }
    });
    out
}

/// The gradient of the bias: the sum of each channel. candle's sum over outer dimensions walks
/// strided indices one by one and took longer than the whole rest of the backward pass.
struct GradBias;

impl Operation<1> for GradBias {
    fn name(&self) -> &'static str {
        "conv2d-grad-bias"
    }

    fn cpu(&self, [grad]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
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
        let (_, outputs, height, width) = grad.1.shape().dims4()?;
        let out = dispatch!(self, grad.0, T => T::to_cpu_storage_owned(
            sums::<T>(contiguous(grad)?, outputs, height * width)
        ));
        Ok((out, Shape::from(outputs)))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [grad]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let (batch, outputs, height, width) = grad.1.shape().dims4()?;
        let (dtype, sizes) = (grad.0.dtype(), (batch, outputs, height * width));
        let out = cuda::channel_sums("channel_sums", dtype, &[grad], sizes, &[], outputs)?;
        Ok((out, Shape::from(outputs)))
    }
}
