//! Max pooling.

use super::{PixelGrad, Pixels, Rows, floats, read_image, sizes, write_images};
use crate::simd::vectorized;
use crate::{Pool, Pooling};
use candle_core::{Result, Tensor, bail};

impl Pixels {
    /// [`crate::pool2d()`] of what is read, of the largest values.
    pub fn max_pool(&self, pool: &Pool) -> Result<Self> {
        if pool.kind == Pooling::Average {
            bail!("internal error: pixels are pooled by their largest values")
        }
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let values = floats(&self.values)?;
        let (rows, row) = (self.rows(&values)?, width * channels);
        let out_row = pool.out_width * channels;
        let out = write_images(batch, pool.out_height * out_row, |image, out| {
            let (mut columns, mut next) = (vec![0.0; row], vec![0.0; row]);
            vectorized(
                #[inline(always)]
                || {
                    for (y, out) in out.chunks_exact_mut(out_row).enumerate() {
                        let of_window = pool.inside(y, height);
                        rows.read(image * height + of_window.start, &mut columns);
                        for y in of_window.skip(1) {
                            rows.read(image * height + y, &mut next);
                            larger(&mut columns, &next);
                        }
                        for (x, out) in out.chunks_exact_mut(channels).enumerate() {
                            let of_window = pool.inside(x, width);
                            out.copy_from_slice(&columns[of_window.start * channels..][..channels]);
                            for x in of_window.skip(1) {
                                larger(out, &columns[x * channels..][..channels]);
                            }
                        }
                    }
                },
            );
        });
        let shape = (batch, pool.out_height, pool.out_width, channels);
        Ok(Self::new(Tensor::from_vec(out, shape, self.values.device())?))
    }

    /// The gradient of what is read, given the output of [`Self::max_pool`] and its gradient.
    pub fn max_pool_backward(&self, pool: &Pool, out: &Self, grad: PixelGrad) -> Result<PixelGrad> {
        let grad = grad.alone()?;
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let (values, largest, grads) = (floats(&self.values)?, floats(&out.values)?, floats(&grad.values)?);
        let (rows, row, len) = (self.rows(&values)?, width * channels, height * width * channels);
        let windows = pool.out_height * pool.out_width;
        let of_x = write_images(batch, len, |image, out| {
            let (mut pixels, mut left) = (vec![0.0; len], vec![0.0; channels]);
            read_image(&rows, image, row, &mut pixels);
            vectorized(
                #[inline(always)]
                || {
                    out.fill(0.0);
                    for window in 0..windows {
                        let at = (image * windows + window) * channels;
                        let largest = &largest[at..][..channels];
                        // What the first of the largest takes is not left for others.
                        left.copy_from_slice(&grads[at..][..channels]);
                        for y in pool.inside(window / pool.out_width, height) {
                            for x in pool.inside(window % pool.out_width, width) {
                                let at = y * row + x * channels;
                                give(
                                    &mut out[at..][..channels],
                                    &pixels[at..][..channels],
                                    largest,
                                    &mut left,
                                );
                            }
                        }
                    }
                },
            );
        });
        Ok(PixelGrad::new(Tensor::from_vec(of_x, self.values.shape(), self.values.device())?))
    }
}

/// Keeps the larger of each two.
#[inline(always)]
fn larger(max: &mut [f32], others: &[f32]) {
    for (max, &other) in max.iter_mut().zip(others) {
        *max = if other > *max { other } else { *max };
    }
}

/// Gives what is left of a gradient to the elements that are the largest of their window.
#[inline(always)]
fn give(out: &mut [f32], pixels: &[f32], largest: &[f32], left: &mut [f32]) {
    let len = out.len();
    let (pixels, largest, left) = (&pixels[..len], &largest[..len], &mut left[..len]);
    for i in 0..len {
        let given = if pixels[i] == largest[i] { left[i] } else { 0.0 };
        out[i] += given;
        left[i] -= given;
    }
}
