//! Max pooling.

use super::{PixelGrad, Pixels, floats, sizes, write_images};
use crate::simd::vectorized;
use crate::{Pool, Pooling};
use candle_core::{Result, Tensor, bail};
use std::ops::Range;

impl Pixels {
    /// [`crate::pool2d()`] of what is read, of the largest values.
    pub fn max_pool(&self, pool: &Pool) -> Result<Self> {
        if pool.kind == Pooling::Average {
            bail!("internal error: pixels are pooled by their largest values")
        }
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let values = floats(&self.values)?;
        let (rows, windows) = (self.rows(&values)?, pool.out_height * pool.out_width);
        let out = write_images(batch, windows * channels, |image, out| {
            let mut room = Vec::new();
            let pixels = rows.image(image, height, &mut room);
            vectorized(
                #[inline(always)]
                || {
                    for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                        let window = Window::new(pool, i, [height, width, channels]);
                        let mut c = 0;
                        while c < channels {
                            c += match channels - c {
                                16.. => window.largest::<16>(pixels, c, out),
                                8..=15 => window.largest::<8>(pixels, c, out),
                                4..=7 => window.largest::<4>(pixels, c, out),
                                _ => window.largest::<1>(pixels, c, out),
                            };
                        }
                    }
                },
            );
        });
        let shape = (batch, pool.out_height, pool.out_width, channels);
        Ok(self.with(Tensor::from_vec(out, shape, self.values.device())?))
    }

    /// The gradient of what is read, given the output of [`Self::max_pool`] and its gradient.
    pub fn max_pool_backward(&self, pool: &Pool, out: &Self, grad: PixelGrad) -> Result<PixelGrad> {
        let grad = grad.alone()?;
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let (values, largest, grads) = (floats(&self.values)?, floats(&out.values)?, floats(&grad.values)?);
        let (rows, len) = (self.rows(&values)?, height * width * channels);
        let windows = pool.out_height * pool.out_width;
        let of_x = write_images(batch, len, |image, out| {
            let mut room = Vec::new();
            let pixels = rows.image(image, height, &mut room);
            let of_image = image * windows * channels..(image + 1) * windows * channels;
            let (largest, grads) = (&largest[of_image.clone()], &grads[of_image]);
            vectorized(
                #[inline(always)]
                || {
                    out.fill(0.0);
                    let results = largest.chunks_exact(channels).zip(grads.chunks_exact(channels));
                    for (i, results) in results.enumerate() {
                        let window = Window::new(pool, i, [height, width, channels]);
                        let mut c = 0;
                        while c < channels {
                            c += match channels - c {
                                16.. => window.give::<16>(pixels, results, c, out),
                                8..=15 => window.give::<8>(pixels, results, c, out),
                                4..=7 => window.give::<4>(pixels, results, c, out),
                                _ => window.give::<1>(pixels, results, c, out),
                            };
                        }
                    }
                },
            );
        });
        Ok(PixelGrad::new(Tensor::from_vec(of_x, self.values.shape(), self.values.device())?, self.beside))
    }
}

/// The pixels of a window, in an image of so many.
struct Window {
    rows: Range<usize>,
    columns: Range<usize>,
    width: usize,
    channels: usize,
}

/// So many channels from `c` on.
#[inline(always)]
fn channels<const N: usize>(of: &[f32], c: usize) -> &[f32; N] {
    of[c..].first_chunk().expect("an image has whole pixels")
}

impl Window {
    #[inline(always)]
    fn new(pool: &Pool, number: usize, [height, width, channels]: [usize; 3]) -> Self {
        let rows = pool.inside(number / pool.out_width, height);
        Self { rows, columns: pool.inside(number % pool.out_width, width), width, channels }
    }

    /// Where a pixel lies.
    #[inline(always)]
    fn at(&self, y: usize, x: usize) -> usize {
        (y * self.width + x) * self.channels
    }

    /// Writes the largest of `N` channels from `c` on.
    #[inline(always)]
    fn largest<const N: usize>(&self, pixels: &[f32], c: usize, out: &mut [f32]) -> usize {
        let first = self.at(self.rows.start, self.columns.start);
        let mut largest = *channels::<N>(pixels, first + c);
        for y in self.rows.clone() {
            for x in self.columns.clone() {
                let pixel = channels::<N>(pixels, self.at(y, x) + c);
                for i in 0..N {
                    let larger = pixel[i] > largest[i] || pixel[i].is_nan();
                    largest[i] = if larger { pixel[i] } else { largest[i] };
                }
            }
        }
        out[c..c + N].copy_from_slice(&largest);
        N
    }

    /// Adds the gradients of `N` channels from `c` on to the first pixels that are the largest.
    #[inline(always)]
    fn give<const N: usize>(
        &self,
        pixels: &[f32],
        (largest, grads): (&[f32], &[f32]),
        c: usize,
        out: &mut [f32],
    ) -> usize {
        let largest = channels::<N>(largest, c);
        // What the first of the largest takes is not left for others.
        let mut left = *channels::<N>(grads, c);
        for y in self.rows.clone() {
            for x in self.columns.clone() {
                let at = self.at(y, x) + c;
                let (pixel, mut sum) = (channels::<N>(pixels, at), *channels::<N>(out, at));
                for i in 0..N {
                    let given = if pixel[i] == largest[i] { left[i] } else { 0.0 };
                    sum[i] += given;
                    left[i] -= given;
                }
                out[at..at + N].copy_from_slice(&sum);
            }
        }
        N
    }
}
