//! The layers beside convolutions. Channels are in the lanes of registers.

use super::image::Image;
use super::product::{load, store};
use crate::simd::{self, parts};
use crate::{Lrn, Pool, Pooling};
use pulp::{Simd, WithSimd};

/// An activation that is read.
pub type From<'a> = (&'a Image, &'a [f32]);
/// An activation that is written.
pub type To<'a> = (&'a Image, &'a mut [f32]);

/// Calls `pixel(y, x, place)` for all pixels of an image.
#[inline(always)]
fn pixels(image: &Image, mut pixel: impl FnMut(usize, usize, usize)) {
    for y in 0..image.height {
        for x in 0..image.width {
            pixel(y, x, image.at(y as isize, x as isize));
        }
    }
}

fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Pools one image.
pub fn pool(pool: &Pool, relu: bool, (from, input): From<'_>, (to, out): To<'_>) {
    struct Run<'a>(&'a Pool, f32, From<'a>, To<'a>);
    impl WithSimd for Run<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self(pool, floor, (from, input), (to, out)) = self;
            let (row, depth) = (from.row(), from.depth);
            let (largest, share) = match pool.kind {
                Pooling::Max => (true, 1.0),
                Pooling::Average => (false, 1.0 / (pool.kernel * pool.kernel) as f32),
            };
            let (floor, share) = (simd.splat_f32s(floor), simd.splat_f32s(share));
            pixels(to, |y, x, at| {
                let (y, x) = (y * pool.stride, x * pool.stride);
                let (height, width) = (pool.kernel.min(from.height - y), pool.kernel.min(from.width - x));
                let corner = from.at(y as isize, x as isize);
                for c in (0..depth).step_by(S::F32_LANES) {
                    // Safety: the window is clipped to the image, whose size is asserted below.
                    unsafe {
                        let first = input.as_ptr().add(corner + c);
                        let start = if largest { f32::NEG_INFINITY } else { 0.0 };
                        let mut value: S::f32s = simd.splat_f32s(start);
                        for y in 0..height {
                            for x in 0..width {
                                let pixel = load(first.add(y * row + x * depth));
                                value = match largest {
                                    true => simd.max_f32s(value, pixel),
                                    false => simd.add_f32s(value, pixel),
                                };
                            }
                        }
                        let value = simd.max_f32s(floor, simd.mul_f32s(value, share));
                        store(out.as_mut_ptr().add(at + c), value);
                    }
                }
            });
        }
    }
    assert!(from.len() <= input.len() && to.len() <= out.len() && from.depth == to.depth);
    simd::dispatch(Run(pool, floor(relu), (from, input), (to, out)));
}

/// Local response normalisation of one image.
pub fn lrn(lrn: &Lrn, (from, input): From<'_>, (to, out): To<'_>, scratch: &mut [f32]) {
    struct Run<'a>(&'a Lrn, From<'a>, To<'a>, &'a mut [f32]);
    impl WithSimd for Run<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            let Self(lrn, (from, input), (to, out), scratch) = self;
            let (channels, half) = (from.channels, lrn.n / 2);
            let (squares, scales) = scratch.split_at_mut(channels + 2 * half);
            let scales = &mut scales[..channels];
            squares.fill(0.0);
            let (k, alpha) = (lrn.k as f32, lrn.alpha as f32);
            pixels(from, |y, x, at| {
                let pixel = &input[at..at + channels];
                for (square, x) in squares[half..].iter_mut().zip(pixel) {
                    *square = x * x;
                }
                scales.fill(0.0);
                for near in 0..lrn.n {
                    for (scale, square) in scales.iter_mut().zip(&squares[near..]) {
                        *scale += square;
                    }
                }
                scales.iter_mut().for_each(|scale| *scale = k + alpha * *scale);
                lrn.powers(scales);
                let at = to.at(y as isize, x as isize);
                for ((out, x), power) in out[at..at + channels].iter_mut().zip(pixel).zip(scales.iter()) {
                    *out = x * power;
                }
            });
        }
    }
    simd::dispatch(Run(lrn, (from, input), (to, out), scratch));
}

/// `x · slope + start` for each channel, and the rectifier where `relu`.
pub fn affine(lines: &[(f32, f32)], relu: bool, (from, input): From<'_>, (to, out): To<'_>) {
    let floor = floor(relu);
    pixels(from, |y, x, at| {
        let out = &mut out[to.at(y as isize, x as isize)..];
        for (c, (out, (slope, start))) in out.iter_mut().zip(lines).enumerate() {
            *out = (input[from.tap(c, 0, 0) + at] * slope + start).max(floor);
        }
    });
}

/// The end of a residual block whose input has to be subsampled and filled up with channels in front.
pub fn shortcut(stride: usize, (from, body): From<'_>, (first, input): From<'_>, (to, out): To<'_>) {
    let rectified = |x: f32| if x < 0.0 { 0.0 } else { x };
    let zeros = from.channels - first.channels;
    pixels(from, |y, x, at| {
        let input = &input[first.at((y * stride) as isize, (x * stride) as isize)..][..first.channels];
        let out = &mut out[to.at(y as isize, x as isize)..][..from.channels];
        let (body, more) = body[at..at + from.channels].split_at(zeros);
        let (out, sums) = out.split_at_mut(zeros);
        for (out, &body) in out.iter_mut().zip(body) {
            *out = rectified(body);
        }
        for (out, (&body, &input)) in sums.iter_mut().zip(more.iter().zip(input)) {
            *out = rectified(body + input);
        }
    });
}

/// A fully connected layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Where the input's runs lie, and how long they are, filled up to whole registers.
    starts: Vec<usize>,
    run: usize,
    /// (outputs, runs, run).
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// Of `from`, with `weight` (outputs, inputs).
    pub fn new(from: &Image, weight: &[f32], bias: &[f32]) -> Self {
        let (len, starts, place) = from.runs();
        let run = len.next_multiple_of(simd::lanes());
        let inputs = weight.len() / bias.len();
        let mut packed = Vec::with_capacity(bias.len() * starts.len() * run);
        for row in weight.chunks(inputs) {
            for r in 0..starts.len() {
                packed.extend((0..run).map(|i| place(r, i).filter(|_| i < len).map_or(0.0, |at| row[at])));
            }
        }
        Self { starts, run, weight: packed, bias: bias.to_vec() }
    }

    /// Multiplies inputs that lie one after another.
    pub fn run(&self, relu: bool, (from, input): From<'_>, (to, out): To<'_>, images: usize) {
        assert!(images * from.len() <= input.len() && images * to.len() <= out.len());
        simd::dispatch(Product { linear: self, floor: floor(relu), from, input, to, out, images });
    }
}

struct Product<'a> {
    linear: &'a Linear,
    floor: f32,
    from: &'a Image,
    input: &'a [f32],
    to: &'a Image,
    out: &'a mut [f32],
    images: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        for outputs in parts(self.linear.bias.len(), 8) {
            for images in parts(self.images, most) {
                macro_rules! sizes {
                    ($($n:literal)*) => {
                        match (outputs.len(), images.len()) {
                            $(($n, 1) => self.tile::<S, $n, 1>(simd, outputs.start, images.start),
                              ($n, 2) => self.tile::<S, $n, 2>(simd, outputs.start, images.start),
                              ($n, 3) => self.tile::<S, $n, 3>(simd, outputs.start, images.start),
                              ($n, 4) => self.tile::<S, $n, 4>(simd, outputs.start, images.start),)*
                            _ => unreachable!("at most 8 outputs of 4 images"),
                        }
                    };
                }
                sizes!(1 2 3 4 5 6 7 8);
            }
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const I: usize>(&mut self, simd: S, output: usize, image: usize) {
        let Linear { starts, run, weight, bias } = self.linear;
        let width = starts.len() * run;
        let mut sums = [[simd.splat_f32s(0.0); N]; I];
        // Safety: `Linear::run` has asserted the sizes; behind a run that is filled up lie elements of the
        // same image, whose length has that slack.
        unsafe {
            let mut weight = weight.as_ptr().add(output * width);
            for start in starts {
                let input = self.input.as_ptr().add(image * self.from.len() + start);
                for at in (0..*run).step_by(S::F32_LANES) {
                    let mut right = [simd.splat_f32s(0.0); I];
                    for i in 0..I {
                        right[i] = load(input.add(i * self.from.len() + at));
                    }
                    for n in 0..N {
                        let left = load(weight.add(n * width + at));
                        for i in 0..I {
                            sums[i][n] = simd.mul_add_f32s(left, right[i], sums[i][n]);
                        }
                    }
                }
                weight = weight.add(*run);
            }
        }
        for i in 0..I {
            for n in 0..N {
                let sum = bias[output + n] + simd.reduce_sum_f32s(sums[i][n]);
                self.out[(image + i) * self.to.len() + output + n] = sum.max(self.floor);
            }
        }
    }
}
