//! The end of a residual block.

use super::normalise::{RowSums, add_sums};
use super::{PixelGrad, Pixels, Rows, floats, map_images, sizes, where_above, write_images};
use crate::simd::{at_least, vectorized};
use crate::{Shortcut, each};
use candle_core::{Result, Tensor};

impl Shortcut {
    /// `max(body + shortcut(x), 0)` as [`crate::add_shortcut`] has it. Images may lie side by side where `x` is added as it is.
    pub fn add_pixels(&self, body: &Pixels, x: &Pixels) -> Result<Pixels> {
        let (batch, [height, width, channels]) = sizes(&body.values)?;
        let (body_values, x_values) = (floats(&body.values)?, floats(&x.values)?);
        let (bodies, xs) = (body.rows(&body_values)?, x.rows(&x_values)?);
        let ((_, [x_height, x_width, of_x]), [stride, front]) = (sizes(&x.values)?, self.strides());
        let out = write_images(batch, height * width * channels, |image, out| {
            let (mut other, mut row) = (vec![0.0; x_width * of_x], vec![0.0; width * channels]);
            vectorized(
                #[inline(always)]
                || {
                    for (y, out) in out.chunks_exact_mut(width * channels).enumerate() {
                        bodies.read(image * height + y, &mut row);
                        xs.read(image * x_height + y * stride, &mut other);
                        if self.is_identity() {
                            each(out, [&row, &other], |[body, x]| at_least(0.0, body + x));
                            continue;
                        }
                        for (out, x) in row.chunks_exact_mut(channels).zip(other.chunks(stride * of_x)) {
                            for (out, x) in out[front..].iter_mut().zip(&x[..of_x]) {
                                *out += x;
                            }
                        }
                        each(out, [&row], |[x]| at_least(0.0, x));
                    }
                },
            );
        });
        Ok(body.with(Tensor::from_vec(out, body.values.shape(), body.values.device())?))
    }

    /// The gradients of body and input, given the output and its gradient.
    pub fn backward_pixels(
        &self,
        body: &Pixels,
        x: &Pixels,
        out: &Pixels,
        grad: PixelGrad,
    ) -> Result<(PixelGrad, PixelGrad)> {
        let (grad, plus) = grad.apart()?;
        let (batch, [height, width, channels]) = sizes(&body.values)?;
        let (row, len) = (width * channels, height * width * channels);
        let plus = plus.as_ref().map(floats).transpose()?;
        let (out, values, bodies) = (floats(&out.values)?, floats(&grad)?, floats(&body.values)?);
        let lines = body.norm.as_ref().map(|norm| norm.lines(width, body.rectified));
        let lines = lines.as_ref().map(|lines| lines.each_ref().map(Vec::as_slice));
        let (of_body, of_images) = map_images(batch, len, |image, of_body| {
            let mut sums = RowSums::new(row);
            vectorized(
                #[inline(always)]
                || {
                    for (y, of_body) in of_body.chunks_exact_mut(row).enumerate() {
                        let at = image * len + y * row..image * len + (y + 1) * row;
                        let (out, grad) = (&out[at.clone()], &values[at.clone()]);
                        match &plus {
                            None => each(of_body, [out, grad], |[out, grad]| where_above(out, grad)),
                            Some(plus) => {
                                each(of_body, [out, grad, &plus[at.clone()]], |[out, grad, plus]| {
                                    where_above(out, grad + plus)
                                });
                            }
                        }
                        if let Some(lines) = lines {
                            sums.add(of_body, &bodies[at], lines);
                        }
                    }
                },
            );
            sums.finish(channels)
        });
        let sums = lines.map(|_| add_sums(&of_images, channels));
        let of_x = match self.is_identity() {
            true => None,
            false => Some(self.spread(&of_body, batch, [height, width, channels], x.shape()?)),
        };
        let device = body.values.device();
        let of_body = Tensor::from_vec(of_body, body.values.shape(), device)?;
        let of_x = match of_x {
            None => of_body.clone(),
            Some(of_x) => Tensor::from_vec(of_x, x.values.shape(), device)?,
        };
        let [of_body, of_x] = [of_body, of_x].map(|values| PixelGrad::new(values, body.beside));
        Ok((PixelGrad { sums, ..of_body }, of_x))
    }

    /// The gradient of an input that is subsampled and has fewer channels.
    fn spread(
        &self,
        grad: &[f32],
        batch: usize,
        [height, width, channels]: [usize; 3],
        [of_x, x_height, x_width]: [usize; 3],
    ) -> Vec<f32> {
        let [stride, front] = self.strides();
        write_images(batch, x_height * x_width * of_x, |image, out| {
            out.fill(0.0);
            for y in 0..height {
                let from = &grad[(image * height + y) * width * channels..][..width * channels];
                let to = &mut out[y * stride * x_width * of_x..][..x_width * of_x];
                for (from, to) in from.chunks_exact(channels).zip(to.chunks_mut(stride * of_x)) {
                    to[..of_x].copy_from_slice(&from[front..][..of_x]);
                }
            }
        })
    }
}
