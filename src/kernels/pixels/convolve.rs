//! Convolution.

use super::normalise::{RowSums, add_sums, moments};
use super::{Beside, Lay, PixelGrad, Pixels, Sums, floats, fold};
use crate::conv::{Conv, Finish, Gradient, Image, Share, Shared, Tiles};
use crate::conv2d::{Geometry, at_a_time, layouts, of_kernel, task};
use crate::simd::{Aligned, vectorized};
use crate::unset;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// The gradients of a convolution.
pub struct ConvGrads {
    /// Of what it reads, where somebody asks for it.
    pub x: Option<PixelGrad>,
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Pixels {
    pub(super) fn geometry(&self, weight: &Tensor, padding: usize, stride: usize) -> Result<Geometry> {
        let ([inputs, height, width], (outputs, of_weight, kernel, across)) =
            (self.shape()?, weight.dims4()?);
        if of_weight != inputs || across != kernel {
            bail!(
                "conv2d: an image of {inputs} channels needs a weight (out, {inputs}, k, k), got {:?}",
                weight.dims()
            )
        }
        Geometry::of(inputs, height, width, outputs, kernel, padding, stride)
    }

    /// [`crate::conv2d()`] of what is read, with the moments of its channels where a normalisation asks for them. The padding
    /// must be smaller than the kernel; with images side by side the stride must be 1, and there are no moments.
    pub fn conv(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        (padding, stride): (usize, usize),
        with_moments: bool,
    ) -> Result<Self> {
        if let Beside::Images(_) = self.beside {
            if with_moments {
                bail!("internal error: images side by side have no moments of channels")
            }
            return self.conv_images(weight, bias, (padding, stride));
        }
        let g = self.geometry(weight, padding, stride)?;
        let (x, weight) = (floats(&self.values)?, weight.contiguous()?);
        let (weight, bias) = (floats(&weight)?, bias.to_vec1()?);
        let (from, to, tiles) = layouts(g.shapes(), g.sizes());
        let conv = Dense::new((from, to, tiles), g.sizes(), g.weights(&weight), bias);
        let (rows, count) = (self.rows(&x)?, at_a_time(&from, &to, tiles));
        let ((len, out_len), outputs) = (g.lens(), g.outputs);
        let batch = x.len() / len;
        let mut out = unset(batch * out_len);
        let mut of_images = vec![[0.0; 2]; batch * outputs];
        let chunks = out.par_chunks_mut(count * out_len).zip(of_images.par_chunks_mut(count * outputs));
        chunks.enumerate().for_each_init(
            || {
                let lay = Lay::new(from, count, 1, [g.height, g.width]);
                (lay, conv.buffers(count), RowSums::new(g.out_width * outputs))
            },
            |(lay, buffers, sums), (chunk, (out, moments))| {
                let first = chunk * count;
                let images = first..first + out.len() / out_len;
                lay.read(images.clone(), &rows, |_| ());
                conv.run(&lay.images, images.len(), out, buffers);
                if !with_moments {
                    return;
                }
                vectorized(
                    #[inline(always)]
                    || {
                        for (out, moments) in out.chunks(out_len).zip(moments.chunks_mut(outputs)) {
                            sums.moments(out, moments);
                        }
                    },
                );
            },
        );
        let shape = (batch, g.out_height, g.out_width, outputs);
        let out = Tensor::from_vec(out, shape, self.values.device())?;
        let moments = with_moments.then(|| moments(&of_images, outputs, g.out_height * g.out_width, &out));
        Ok(Self { moments: moments.transpose()?, ..self.with(out) })
    }

    /// The gradients of [`Self::conv`], given that of its result: that of what is read where `of_image`.
    pub fn conv_backward(
        &self,
        weight: &Tensor,
        grad: PixelGrad,
        (padding, stride): (usize, usize),
        of_image: bool,
    ) -> Result<ConvGrads> {
        if let Beside::Images(_) = self.beside {
            return self.conv_images_backward(weight, grad, (padding, stride), of_image);
        }
        let (g, grad) = (self.geometry(weight, padding, stride)?, grad.added()?);
        let (x, values, weight) = (floats(&self.values)?, floats(&grad.values)?, weight.contiguous()?);
        let weight = floats(&weight)?;
        let behind = grad.through.as_ref().map(|through| floats(&through.x)).transpose()?;
        let (rows, grad_rows) = (self.rows(&x)?, grad.rows(&values, behind.as_deref())?);
        let (from, mut to, tiles) = layouts(g.shapes(), g.sizes());
        if let Some(tiles) = tiles {
            to.beyond = tiles.beyond_results(&to);
        }
        let (shapes, sizes) = g.back();
        let (mut back_from, back_to, back_tiles) = layouts(shapes, sizes);
        // One layout for both gradients where that is possible: the result's gradient is read and laid out once.
        let shared = of_image && tiles.is_some() && stride == 1 && back_from.depth == to.depth;
        if shared {
            (to.border, to.beyond) = (back_from.border, to.beyond.max(back_from.beyond));
            back_from = to;
        }
        let of_x = of_image
            .then(|| Dense::new((back_from, back_to, back_tiles), sizes, g.mirrored(&weight), Vec::new()));
        let gradient = Gradient { from: &from, to: &to, sizes: g.sizes(), tiles };
        let ((sums_len, scratch), (len, _)) = (gradient.lens(), g.lens());
        let batch = x.len() / len;
        let task = task(batch);
        let count = at_a_time(&from, &to, tiles).min(task);
        let lines = self.norm.as_ref().map(|norm| norm.lines(g.width, self.rectified));
        let lines = lines.as_ref().map(|lines| lines.each_ref().map(Vec::as_slice));
        let sum_up = |part: usize, out: &mut [f32]| {
            let mut lay = Lay::new(from, count, 1, [g.height, g.width]);
            let mut lay_grads = Lay::new(to, count, 1, [g.out_height, g.out_width]);
            let mut apart = (of_image && !shared)
                .then(|| Lay::new(back_from, count, stride, [g.out_height, g.out_width]));
            let mut buffers = of_x.as_ref().map(|conv| conv.buffers(count));
            let (mut scratch, mut kernel) = (Aligned::unset(scratch), Aligned::zeros(sums_len));
            let mut of_bias = vec![0.0; g.out_width * g.outputs];
            let mut sums = RowSums::new(g.width * g.inputs);
            let all = part * task..batch.min((part + 1) * task);
            for first in all.clone().step_by(count) {
                let images = first..all.end.min(first + count);
                lay.read(images.clone(), &rows, |_| ());
                lay_grads.read(
                    images.clone(),
                    &grad_rows,
                    #[inline(always)]
                    |row| of_bias.iter_mut().zip(row).for_each(|(sum, &grad)| *sum += grad),
                );
                gradient.add(&lay.images, &lay_grads.images, images.len(), &mut scratch, &mut kernel);
                let (Some(of_x), Some(buffers)) = (&of_x, &mut buffers) else { continue };
                let grads = match &mut apart {
                    None => &lay_grads.images,
                    Some(apart) => {
                        apart.read(images.clone(), &grad_rows, |_| ());
                        &apart.images
                    }
                };
                let out = &mut out[(first - all.start) * len..][..images.len() * len];
                of_x.run(grads, images.len(), out, buffers);
                let Some(lines) = lines else { continue };
                vectorized(
                    #[inline(always)]
                    || {
                        for (image, out) in images.clone().zip(out.chunks(len)) {
                            for (y, grad) in out.chunks_exact(g.width * g.inputs).enumerate() {
                                sums.add(grad, rows.raw(image * g.height + y), lines);
                            }
                        }
                    },
                );
            }
            let bias = fold(&mut of_bias, g.outputs).to_vec();
            ((gradient.finish(&kernel), bias), sums.finish(g.inputs))
        };
        let mut out = if of_image { unset(batch * len) } else { Vec::new() };
        let mut outs: Vec<&mut [f32]> = out.chunks_mut(task * len).collect();
        outs.resize_with(batch.div_ceil(task), Default::default);
        let (parts, sums): (Vec<_>, Vec<Sums>) =
            outs.into_par_iter().enumerate().map(|(part, out)| sum_up(part, out)).unzip();
        let sums = lines.map(|_| add_sums(&sums, g.inputs));
        self.conv_grads(&g, &parts, to.depth, (of_image.then_some(out), sums))
    }

    /// The gradients, given the parts (kernel, kernel, inputs, `depth` of outputs) and (outputs) that those of kernel and bias
    /// are the sums of, and that of what is read with its sums.
    pub(super) fn conv_grads(
        &self,
        g: &Geometry,
        parts: &[(Vec<f32>, Vec<f32>)],
        depth: usize,
        (x, sums): (Option<Vec<f32>>, Option<Sums>),
    ) -> Result<ConvGrads> {
        let mut bias = vec![0.0; g.outputs];
        for (_, of_bias) in parts {
            bias.iter_mut().zip(of_bias).for_each(|(sum, more)| *sum += more);
        }
        let kernels: Vec<&[f32]> = parts.iter().map(|(kernel, _)| kernel.as_slice()).collect();
        let (weight, device) = (of_kernel(g, &kernels, depth), self.values.device());
        let x = x.map(|x| Tensor::from_vec(x, self.values.shape(), device)).transpose()?;
        Ok(ConvGrads {
            x: x.map(|x| PixelGrad { sums, ..PixelGrad::new(x, self.beside) }),
            weight: Tensor::from_vec(weight, (g.outputs, g.inputs, g.kernel, g.kernel), device)?,
            bias: Tensor::from_vec(bias, g.outputs, device)?,
        })
    }
}

/// A convolution whose results lie as in a tensor.
struct Dense {
    conv: Conv,
    from: Image,
    to: Image,
    bias: Vec<f32>,
}

impl Dense {
    fn new(
        (from, to, tiles): (Image, Image, Option<Tiles>),
        sizes: [usize; 3],
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
        mut bias: Vec<f32>,
    ) -> Self {
        let conv = Conv::new(&from, &to, sizes, tiles, weight);
        bias.resize(to.depth, 0.0);
        let slack = if to.depth == to.channels { 0 } else { to.slack };
        Self { conv, from, to: Image { slack, ..to }, bias }
    }

    /// Scratch, and room for the results of so many images where zeros stand behind their channels.
    fn buffers(&self, images: usize) -> [Aligned; 2] {
        let room = if self.to.depth == self.to.channels { 0 } else { images * self.to.len() };
        [self.conv.scratch(&self.from), room].map(Aligned::unset)
    }

    fn run(&self, from: &[f32], images: usize, out: &mut [f32], [scratch, room]: &mut [Aligned; 2]) {
        let Self { conv, from: image, to, bias } = self;
        let finish = Finish { bias, relu: false, addend: None };
        let dense = room.is_empty();
        let results = Shared::new(if dense { &mut *out } else { &mut *room });
        conv.run((image, from), finish, (to, results), scratch, images, Share::WHOLE);
        if !dense {
            let pixels =
                room.chunks(to.len()).flat_map(|image| image[..image.len() - to.slack].chunks(to.depth));
            for (to, from) in out.chunks_exact_mut(to.channels).zip(pixels) {
                to.copy_from_slice(&from[..to.len()]);
            }
        }
    }
}
