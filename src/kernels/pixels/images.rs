//! Convolution of few channels, with images side by side: channels would leave registers half empty.
//!
//! A plane is the image of one channel whose pixels hold what [`IMAGES`] images have there. A convolution multiplies
//! whole planes by numbers, by the definition, and needs no transforms.

use super::{ConvGrads, Lay, PixelGrad, Pixels, floats};
use crate::conv::{Image, Planes};
use crate::{simd, unset};
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// Images that lie side by side.
pub const IMAGES: usize = simd::SLACK;

/// The layout of a channel's planes with zeros around them.
fn planes([channels, height, width]: [usize; 3], border: usize) -> Image {
    Image { border, planar: true, depth: IMAGES, slack: 0, ..Image::dense([channels, height, width]) }
}

/// What lays planes out so, a group of images at a time.
fn lay(planes: Image) -> Lay {
    let one = Image { channels: IMAGES, planar: false, ..planes };
    Lay::new(one, planes.channels, 1, [planes.height, planes.width])
}

impl Pixels {
    /// [`Self::conv`] with images side by side.
    pub(super) fn conv_images(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        (padding, stride): (usize, usize),
    ) -> Result<Self> {
        let g = self.geometry(weight, padding, stride)?;
        if stride != 1 || padding >= g.kernel {
            bail!("internal error: images lie side by side for a stride of 1 and less padding than kernel")
        }
        let (x, weight, bias) = (floats(&self.values)?, weight.contiguous()?, bias.to_vec1()?);
        let (weight, rows, from) = (floats(&weight)?, self.rows(&x)?, planes(g.shapes()[0], padding));
        let conv = Planes::new(&from, g.kernel, g.outputs, g.weights(&weight));
        let ((len, out_len), inputs) = (g.lens(), g.inputs);
        let groups = x.len() / (len * IMAGES);
        let mut out = unset(groups * out_len * IMAGES);
        out.par_chunks_mut(out_len * IMAGES).enumerate().for_each_init(
            || lay(from),
            |lay, (group, out)| {
                lay.read(group * inputs..(group + 1) * inputs, &rows, |_| ());
                conv.run(&lay.images, &bias, [g.out_height, g.out_width], out);
            },
        );
        let shape = (groups * g.outputs, g.out_height, g.out_width, IMAGES);
        Ok(self.with(Tensor::from_vec(out, shape, self.values.device())?))
    }

    /// [`Self::conv_backward`] with images side by side.
    pub(super) fn conv_images_backward(
        &self,
        weight: &Tensor,
        grad: PixelGrad,
        (padding, stride): (usize, usize),
        of_image: bool,
    ) -> Result<ConvGrads> {
        let (g, grad) = (self.geometry(weight, padding, stride)?, grad.added()?);
        let (x, values, weight) = (floats(&self.values)?, floats(&grad.values)?, weight.contiguous()?);
        let weight = floats(&weight)?;
        let behind = grad.through.as_ref().map(|through| floats(&through.x)).transpose()?;
        let (rows, grad_rows) = (self.rows(&x)?, grad.rows(&values, behind.as_deref())?);
        let ([image, output], border) = (g.shapes(), g.kernel - 1 - padding);
        let (from, to) = (planes(image, padding), planes(output, border));
        let of_x = of_image.then(|| Planes::new(&to, g.kernel, g.inputs, g.mirrored(&weight)));
        let ((len, _), none) = (g.lens(), vec![0.0; g.inputs]);
        let groups = x.len() / (len * IMAGES);
        let mut out = if of_image { unset(groups * len * IMAGES) } else { Vec::new() };
        let mut outs: Vec<&mut [f32]> = out.chunks_mut(len * IMAGES).collect();
        outs.resize_with(groups, Default::default);
        let parts: Vec<(Vec<f32>, Vec<f32>)> = outs
            .into_par_iter()
            .enumerate()
            .map_init(
                || (lay(from), lay(to)),
                |(lay, lay_grads), (group, out)| {
                    lay.read(group * g.inputs..(group + 1) * g.inputs, &rows, |_| ());
                    lay_grads.read(group * g.outputs..(group + 1) * g.outputs, &grad_rows, |_| ());
                    if let Some(of_x) = &of_x {
                        of_x.run(&lay_grads.images, &none, [g.height, g.width], out);
                    }
                    Planes::gradient((&from, &lay.images), (&to, &lay_grads.images), g.kernel)
                },
            )
            .collect();
        self.conv_grads(&g, &parts, g.outputs, (of_image.then_some(out), None))
    }
}
