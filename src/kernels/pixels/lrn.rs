//! Local response normalisation.

use super::{PixelGrad, Pixels, floats, sizes, write_images};
use crate::lrn::{Lrn, Near};
use crate::simd::vectorized;
use candle_core::{Result, Tensor};

impl Pixels {
    /// [`crate::lrn()`] of what is read, whose channels lie side by side.
    pub fn lrn(&self, lrn: &Lrn) -> Result<Self> {
        lrn.check()?;
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let values = floats(&self.values)?;
        let rows = self.rows(&values)?;
        let out = write_images(batch, height * width * channels, |image, out| {
            let (mut room, mut near) = (Vec::new(), Near::new(lrn, channels));
            let pixels = rows.image(image, height, &mut room);
            vectorized(
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(channels).zip(pixels.chunks_exact(channels)) {
                        near.normalise(x, out);
                    }
                },
            );
        });
        Ok(self.with(Tensor::from_vec(out, self.values.shape(), self.values.device())?))
    }

    /// The gradient of what is read, given that of [`Self::lrn`]'s output.
    pub fn lrn_backward(&self, lrn: &Lrn, grad: PixelGrad) -> Result<PixelGrad> {
        let grad = grad.alone()?;
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let (values, grads) = (floats(&self.values)?, floats(&grad.values)?);
        let (rows, len) = (self.rows(&values)?, height * width * channels);
        let of_x = write_images(batch, len, |image, out| {
            let (mut room, mut near) = (Vec::new(), Near::new(lrn, channels));
            let pixels = rows.image(image, height, &mut room);
            let grads = &grads[image * len..][..len];
            vectorized(
                #[inline(always)]
                || {
                    let pixels = pixels.chunks_exact(channels).zip(grads.chunks_exact(channels));
                    for (out, (x, grad)) in out.chunks_exact_mut(channels).zip(pixels) {
                        near.gradient(x, grad, out);
                    }
                },
            );
        });
        Ok(PixelGrad::new(Tensor::from_vec(of_x, self.values.shape(), self.values.device())?, self.beside))
    }
}
