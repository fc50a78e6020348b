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

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Input, Number, Op, Operation, Thread, by_chunks, slices, unset};
use crate::conv::{Conv, Finish, Gradient, Image, Share, Shared, Tiles};
use crate::simd::{Aligned, Real};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, Result, Shape, Tensor, bail};
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
/// the padded image.
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

    /// Kernel, padding, stride.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.kernel, self.padding, self.stride]
    }

    /// (channels, height, width) of an image and of its output.
    pub(crate) fn shapes(&self) -> [[usize; 3]; 2] {
        [[self.inputs, self.height, self.width], [self.outputs, self.out_height, self.out_width]]
    }

    /// Elements of an image, and of its output.
    pub(crate) fn lens(&self) -> (usize, usize) {
        let [image, output] = self.shapes().map(|shape| shape.iter().product());
        (image, output)
    }

    /// Of the convolution that gives the gradient of the image, from the output's with zeros between the pixels where
    /// there is a stride: [`Self::shapes`] and [`Self::sizes`]. The padding must be smaller than the kernel.
    pub(crate) fn back(&self) -> ([[usize; 3]; 2], [usize; 3]) {
        let size = |length: usize| length + 2 * self.padding + 1 - self.kernel;
        let shapes = [[self.outputs, size(self.height), size(self.width)], self.shapes()[0]];
        (shapes, [self.kernel, self.kernel - 1 - self.padding, 1])
    }

    /// The weight (outputs, inputs, kernel, kernel) at a place.
    pub(crate) fn weights<'a>(
        &self,
        weight: &'a [f32],
    ) -> impl Fn(usize, usize, usize, usize) -> f32 + Sync + 'a {
        let (inputs, k) = (self.inputs, self.kernel);
        move |o, c, y, x| weight[((o * inputs + c) * k + y) * k + x]
    }

    /// The weight of [`Self::back`] at a place: mirrored, from outputs to inputs.
    pub(crate) fn mirrored<'a>(
        &self,
        weight: &'a [f32],
    ) -> impl Fn(usize, usize, usize, usize) -> f32 + Sync + 'a {
        let (at, k) = (self.weights(weight), self.kernel);
        move |c, o, y, x| at(o, c, k - 1 - y, k - 1 - x)
    }

    /// The shape of a tensor of a batch.
    pub(crate) fn shape(&self, wanted: Wanted, batch: usize) -> Shape {
        let [image, output] = self.shapes().map(|[channels, height, width]| (batch, channels, height, width));
        Shape::from(match wanted {
            Wanted::Out => output,
            Wanted::GradX => image,
            Wanted::GradWeight => (self.outputs, self.inputs, self.kernel, self.kernel),
        })
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

/// Which of the three tensors of a convolution is computed from the other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    Out,
    GradX,
    GradWeight,
}

/// The layouts of the images of a convolution with these sizes, and the tiles that suit it.
pub(crate) fn layouts([from, to]: [[usize; 3]; 2], sizes: [usize; 3]) -> (Image, Image, Option<Tiles>) {
    let ([kernel, padding, _], to) = (sizes, Image::new(to));
    let mut image = Image { border: padding, ..Image::new(from) };
    let tiles = Tiles::suit(&image, &to, sizes, (1, 0));
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
pub(crate) fn at_a_time(from: &Image, to: &Image, tiles: Option<Tiles>) -> usize {
    let bytes = size_of::<f32>() * (from.len() + to.len());
    let block = tiles.map_or(1, |tiles| tiles.block(from, to.depth).div_ceil(tiles.count(to)));
    (AT_A_TIME / bytes).clamp(1, 16).max(block)
}

/// Convolves the images in `x`, whose pixels are put `apart` from each other to images of the first shape, to
/// images of the second; kernel, padding, stride. `weight` is (outputs, inputs, kernel, kernel).
fn convolve(
    (x, apart): (&[f32], usize),
    shapes: [[usize; 3]; 2],
    sizes: [usize; 3],
    weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: &[f32],
    batch: usize,
) -> Vec<f32> {
    let (from, to, tiles) = layouts(shapes, sizes);
    let conv = Conv::new(&from, &to, sizes, tiles, weight);
    let mut bias = bias.to_vec();
    bias.resize(to.depth, 0.0);
    let count = at_a_time(&from, &to, tiles);
    let (len, out_len) = (x.len() / batch, to.shape().iter().product());
    let mut out = unset(batch * out_len);
    out.par_chunks_mut(count * out_len).zip(x.par_chunks(count * len)).for_each_init(
        || {
            (
                Aligned::zeros(count * from.len()),
                Aligned::unset(count * to.len()),
                Aligned::unset(conv.scratch(&from)),
            )
        },
        |(images, outs, scratch), (out, x)| {
            for (image, x) in images.chunks_mut(from.len()).zip(x.chunks(len)) {
                from.pack(x, apart, image);
            }
            let finish = Finish { bias: &bias, relu: false, addend: None };
            conv.run((&from, images), finish, (&to, Shared::new(outs)), scratch, x.len() / len, Share::WHOLE);
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

    fn shape(&self, [x, ..]: [&Shape; 3]) -> Result<Shape> {
        Ok(self.geometry.shape(Wanted::Out, x.dims()[0]))
    }

    fn cpu_storage(&self, inputs: [Input<'_>; 3]) -> Result<CpuStorage> {
        let g = &self.geometry;
        let batch = inputs[0].1.dims()[0];
        if let CpuStorage::F32(_) = inputs[0].0 {
            let [x, weight, bias] = slices::<f32, 3>(inputs)?;
            let out = convolve((x, 1), g.shapes(), g.sizes(), g.weights(weight), bias, batch);
            return Ok(CpuStorage::F32(out));
        }
        let [x, weight, bias] = by_definition(self.name(), inputs)?;
        let (image, output) = g.lens();
        let mut out = vec![0.0; batch * output];
        for (out, x) in out.chunks_mut(output).zip(x.chunks(image)) {
            out.chunks_mut(output / g.outputs).zip(bias).for_each(|(out, &bias)| out.fill(bias));
            g.terms(|o, i, w| out[o] += x[i] * weight[w]);
        }
        Ok(CpuStorage::F64(out))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, weight, bias]: [cuda::Input<'_>; 3]) -> Result<CudaStorage> {
        let (g, batch) = (&self.geometry, x.1.dims()[0]);
        let products = cuda::conv::compute(g, batch, x, weight, Wanted::Out)?;
        cuda::add_bias(&products, bias, batch * g.lens().1, g.out_height * g.out_width)
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
    let op = |wanted| Op(Grad { geometry: geometry.clone(), wanted });
    let grad_x = of_image.then(|| grad.apply_op2_no_bwd(weight, &op(Wanted::GradX))).transpose()?;
    let grad_weight = x.apply_op2_no_bwd(&grad, &op(Wanted::GradWeight))?;
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

/// The f64 of the inputs of an operation that has another way for f32.
fn by_definition<'a, const N: usize>(name: &str, inputs: [Input<'a>; N]) -> Result<[&'a [f64]; N]> {
    match inputs[0].0 {
        CpuStorage::F64(_) => slices(inputs),
        _ => bail!("{name} works on f32 and f64 only"),
    }
}

/// The gradient of the image, from the output's and the kernel; or of the kernel, from the image and the output's gradient.
struct Grad {
    geometry: Geometry,
    wanted: Wanted,
}

impl Operation<2> for Grad {
    fn name(&self) -> &'static str {
        "conv2d_grad"
    }

    fn shape(&self, [a, _]: [&Shape; 2]) -> Result<Shape> {
        Ok(self.geometry.shape(self.wanted, a.dims()[0]))
    }

    fn cpu_storage(&self, inputs: [Input<'_>; 2]) -> Result<CpuStorage> {
        let (g, batch, of_image) = (&self.geometry, inputs[0].1.dims()[0], self.wanted == Wanted::GradX);
        if let CpuStorage::F32(_) = inputs[0].0 {
            let [a, b] = slices(inputs)?;
            let gradient = if of_image { image_gradient(g, a, b, batch) } else { kernel_gradient(g, a, b) };
            return Ok(CpuStorage::F32(gradient));
        }
        let [a, b] = by_definition(self.name(), inputs)?;
        let (image, output) = g.lens();
        let mut out = vec![0.0; g.shape(self.wanted, batch).elem_count()];
        if of_image {
            for (out, grad) in out.chunks_mut(image).zip(a.chunks(output)) {
                g.terms(|o, i, w| out[i] += grad[o] * b[w]);
            }
        } else {
            for (x, grad) in a.chunks(image).zip(b.chunks(output)) {
                g.terms(|o, i, w| out[w] += x[i] * grad[o]);
            }
        }
        Ok(CpuStorage::F64(out))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [a, b]: [cuda::Input<'_>; 2]) -> Result<CudaStorage> {
        cuda::conv::compute(&self.geometry, a.1.dims()[0], a, b, self.wanted)
    }
}

/// A convolution of the output's gradient with the mirrored kernel. With a stride there are zeros between the gradients,
/// and at the end pixels that no output has seen.
fn image_gradient(g: &Geometry, grad: &[f32], weight: &[f32], batch: usize) -> Vec<f32> {
    // Where the kernel fits into the padding, its outermost zeros are taken for pixels, whose gradients nobody wants.
    let zeros = (g.padding + 1).saturating_sub(g.kernel);
    if zeros > 0 {
        let [height, width] = [g.height, g.width].map(|length| length + 2 * zeros);
        let larger = Geometry { height, width, padding: g.padding - zeros, ..g.clone() };
        let all = image_gradient(&larger, grad, weight, batch);
        let planes = all.chunks(height * width);
        let rows = planes.flat_map(|plane| plane.chunks(width).skip(zeros).take(g.height));
        return rows.flat_map(|row| &row[zeros..][..g.width]).copied().collect();
    }
    let (shapes, sizes) = g.back();
    convolve((grad, g.stride), shapes, sizes, g.mirrored(weight), &vec![0.0; g.inputs], batch)
}

/// Products of image and gradient, summed over pixels and samples.
fn kernel_gradient(g: &Geometry, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let (from, mut to, tiles) = layouts(g.shapes(), g.sizes());
    if let Some(tiles) = tiles {
        to.beyond = tiles.beyond_results(&to);
    }
    let gradient = Gradient { from: &from, to: &to, sizes: g.sizes(), tiles };
    let (len, scratch) = gradient.lens();
    let (image, output) = g.lens();
    let task = task(x.len() / image);
    let count = at_a_time(&from, &to, tiles).min(task);
    let partial: Vec<Vec<f32>> = x
        .par_chunks(image * task)
        .zip(grad.par_chunks(output * task))
        .map_init(
            || {
                (
                    Aligned::zeros(count * from.len()),
                    Aligned::zeros(count * to.len()),
                    Aligned::unset(scratch),
                )
            },
            |(images, grads, scratch), (x, grad)| {
                let mut sums = Aligned::zeros(len);
                for (x, grad) in x.chunks(count * image).zip(grad.chunks(count * output)) {
                    for (to, x) in images.chunks_mut(from.len()).zip(x.chunks(image)) {
                        from.pack(x, 1, to);
                    }
                    for (into, grad) in grads.chunks_mut(to.len()).zip(grad.chunks(output)) {
                        to.pack(grad, 1, into);
                    }
                    gradient.add(images, grads, x.len() / image, scratch, &mut sums);
                }
                gradient.finish(&sums)
            },
        )
        .collect();
    let partial: Vec<_> = partial.iter().map(Vec::as_slice).collect();
    of_kernel(g, &partial, to.depth)
}

/// Samples whose gradients one task sums before the partial sums are added up: it depends on the size of the batch alone,
/// so that the result does not depend on the number of threads.
pub(crate) fn task(batch: usize) -> usize {
    (batch / 8).clamp(4, 64)
}

/// The gradient of the kernel (outputs, inputs, kernel, kernel), from parts (kernel, kernel, inputs, `depth` of outputs).
pub(crate) fn of_kernel(g: &Geometry, parts: &[&[f32]], depth: usize) -> Vec<f32> {
    let mut sums = vec![0.0; g.taps() * depth];
    sums.par_chunks_mut(depth).enumerate().for_each(|(row, sums)| {
        for part in parts {
            sums.iter_mut().zip(&part[row * depth..]).for_each(|(sum, &part)| *sum += part);
        }
    });
    let (area, taps) = (g.kernel * g.kernel, g.taps());
    let mut out = unset(g.outputs * taps);
    out.par_chunks_mut(taps).enumerate().for_each(|(output, out)| {
        for (tap, out) in out.iter_mut().enumerate() {
            *out = sums[(tap % area * g.inputs + tap / area) * depth + output];
        }
    });
    out
}

/// The gradient of the bias: the sum of each channel. candle's sum over outer dimensions walks
/// strided indices one by one and took longer than the whole rest of the backward pass.
struct GradBias;

impl Operation<1> for GradBias {
    fn name(&self) -> &'static str {
        "channel_sums"
    }

    fn shape(&self, [grad]: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from(grad.dims()[1]))
    }

    fn cpu<T: Real>(&self, [grad]: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let (batch, outputs, ..) = shape.dims4()?;
        // Sixteen sums side by side, so that they fill vector registers.
        let per_sample = by_chunks(
            [grad],
            (batch * outputs, 1),
            || (),
            #[inline(always)]
            |_, [plane]: [&[T]; 1], (): &mut (), sum: &mut [T]| {
                let mut lanes = [T::zero(); 16];
                let (whole, rest) = plane.as_chunks::<16>();
                for chunk in whole {
                    lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane += x);
                }
                sum[0] = lanes.iter().chain(rest).fold(T::zero(), |sum, &x| sum + x);
            },
        );
        let mut sums = vec![T::zero(); outputs];
        for sample in per_sample.chunks(outputs) {
            sums.iter_mut().zip(sample).for_each(|(sum, &part)| *sum += part);
        }
        Ok(sums)
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Channel, Vec::new()))
    }
}
