//! The layers beside convolutions. Channels are in the lanes of registers.

use crate::conv::{From, Image, Share, Shared, To, floor, load, rows, store};
use crate::lrn::{Lrn, Near};
use crate::simd::{self, Aligned, at_least, at_least_f32s, larger_f32s, parts};
use crate::{Pool, Pooling};
use pulp::{Simd, WithSimd};
use std::fmt;
use std::ops::Range;

/// The elements of image `number` from pixel (y, x) on.
#[inline(always)]
fn pixel<'a>((image, values): From<'a>, number: usize, y: isize, x: isize) -> &'a [f32] {
    &values[number * image.len() + image.at(y, x)..]
}

/// The largest of a window whose size the compiler knows.
#[inline(always)]
fn largest_of<S: Simd, const K: usize>(simd: S, pixel: impl Fn(usize, usize) -> S::f32s) -> S::f32s {
    let mut value = pixel(0, 0);
    for y in 0..K {
        for x in 0..K {
            value = larger_f32s(simd, value, pixel(y, x));
        }
    }
    value
}

/// Pooling.
pub fn pool(pool: &Pool, relu: bool, from: From<'_>, to: To<'_>, images: usize, share: Share) {
    struct Run<'a>(&'a Pool, f32, From<'a>, To<'a>, usize, Share);
    impl WithSimd for Run<'_> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self(pool, floor, from, to, images, share) = self;
            let (step, depth) = (from.0.row(), from.0.depth);
            let (largest, factor) = match pool.kind {
                Pooling::Max | Pooling::MaxInside => (true, 1.0),
                Pooling::Average => (false, 1.0 / (pool.kernel * pool.kernel) as f32),
            };
            let (floor, factor) = (simd.splat_f32s(floor), simd.splat_f32s(factor));
            rows(
                to,
                images,
                share,
                #[inline(always)]
                |number, y, out| {
                    let top = y as usize * pool.stride;
                    let height = pool.kernel.min(from.0.height - top);
                    for x in 0..to.0.width {
                        let left = x * pool.stride;
                        let width = pool.kernel.min(from.0.width - left);
                        let window = pixel(from, number, top as isize, left as isize);
                        assert!(window.len() >= (height - 1) * step + width * depth);
                        let (window, out) = (window.as_ptr(), out[x * depth..].as_mut_ptr());
                        for c in (0..depth).step_by(S::F32_LANES) {
                            // Safety: as the assertion says, and a row of `out` has whole registers.
                            unsafe {
                                let pixel = |y: usize, x: usize| load(window.add(y * step + x * depth + c));
                                let value = match (largest, height, width) {
                                    (true, 2, 2) => largest_of::<S, 2>(simd, pixel),
                                    (true, 3, 3) => largest_of::<S, 3>(simd, pixel),
                                    _ => {
                                        let mut value = pixel(0, 0);
                                        for i in 1..height * width {
                                            let pixel = pixel(i / width, i % width);
                                            value = match largest {
                                                true => larger_f32s(simd, value, pixel),
                                                false => simd.add_f32s(value, pixel),
                                            };
                                        }
                                        simd.mul_f32s(value, factor)
                                    }
                                };
                                store(out.add(c), at_least_f32s(simd, floor, value));
                            }
                        }
                    }
                },
            );
        }
    }
    assert_eq!(from.0.depth, to.0.depth);
    simd::dispatch(Run(pool, floor(relu), from, to, images, share));
}

/// Local response normalisation.
pub fn lrn(lrn: &Lrn, from: From<'_>, to: To<'_>, images: usize, share: Share) {
    let channels = from.0.channels;
    let mut near = Near::new(lrn, channels);
    simd::vectorized(
        #[inline(always)]
        || {
            rows(
                to,
                images,
                share,
                #[inline(always)]
                |number, y, out| {
                    for (x, out) in out.chunks_mut(to.0.depth).enumerate() {
                        near.normalise(&pixel(from, number, y, x as isize)[..channels], out);
                    }
                },
            )
        },
    );
}

/// `x · slope + start` for each channel, and the rectifier where `relu`.
pub fn affine(lines: &[(f32, f32)], relu: bool, from: From<'_>, to: To<'_>, images: usize, share: Share) {
    let floor = floor(relu);
    simd::vectorized(
        #[inline(always)]
        || {
            rows(
                to,
                images,
                share,
                #[inline(always)]
                |number, y, out| {
                    for (x, out) in out.chunks_mut(to.0.depth).enumerate() {
                        let pixel = pixel(from, number, y, x as isize);
                        if from.0.planar {
                            for (c, (out, (slope, start))) in out.iter_mut().zip(lines).enumerate() {
                                *out = at_least(floor, pixel[from.0.tap(c, 0, 0)] * slope + start);
                            }
                        } else {
                            for ((out, x), (slope, start)) in out.iter_mut().zip(pixel).zip(lines) {
                                *out = at_least(floor, x * slope + start);
                            }
                        }
                    }
                },
            )
        },
    );
}

/// A function of every element, of an image whose channels lie side by side.
pub struct Map(Box<Each>);
type Each = dyn Fn(From<'_>, To<'_>, usize, Share) + Send + Sync;

impl Map {
    /// The loop is compiled for each function, so that its body is inlined.
    pub fn new(f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> Self {
        Self(Box::new(move |from, to, images, share| {
            simd::vectorized(
                #[inline(always)]
                || {
                    rows(
                        to,
                        images,
                        share,
                        #[inline(always)]
                        |number, y, out| {
                            for (out, &x) in out.iter_mut().zip(pixel(from, number, y, 0)) {
                                *out = f(x);
                            }
                        },
                    )
                },
            )
        }))
    }

    pub fn run(&self, from: From<'_>, to: To<'_>, images: usize, share: Share) {
        assert!(!from.0.planar && from.0.depth == to.0.depth);
        (self.0)(from, to, images, share);
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Map")
    }
}

/// The end of a residual block whose input has to be subsampled and filled up with channels, so many of them in front.
pub fn shortcut(
    [stride, front]: [usize; 2],
    from: From<'_>,
    first: From<'_>,
    to: To<'_>,
    images: usize,
    share: Share,
) {
    let rectified = |x: f32| if x < 0.0 { 0.0 } else { x };
    let (channels, inputs) = (from.0.channels, first.0.channels);
    let stride = stride as isize;
    rows(
        to,
        images,
        share,
        #[inline(always)]
        |number, y, out| {
            for (x, out) in out.chunks_mut(to.0.depth).enumerate() {
                let x = x as isize;
                let input = pixel(first, number, y * stride, x * stride);
                let body = &pixel(from, number, y, x)[..channels];
                for (out, &body) in out.iter_mut().zip(body) {
                    *out = rectified(body);
                }
                let sums = out[front..].iter_mut().zip(&body[front..]);
                for (c, (out, &body)) in sums.take(inputs).enumerate() {
                    *out = rectified(body + input[first.0.tap(c, 0, 0)]);
                }
            }
        },
    );
}

/// A fully connected layer.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Where the input's runs lie, and how long they are, filled up to whole registers.
    starts: Vec<usize>,
    run: usize,
    /// (outputs, runs, run).
    weight: Aligned,
    bias: Vec<f32>,
}

impl Linear {
    /// Numbers that its weights are.
    pub fn weights(&self) -> usize {
        self.weight.len()
    }

    /// Of `from`, with `weight` (outputs, inputs).
    pub fn new(from: &Image, weight: &[f32], bias: &[f32]) -> Self {
        let (len, starts, place) = from.runs();
        let run = len.next_multiple_of(simd::lanes());
        let inputs = weight.len() / bias.len();
        let mut packed = Aligned::zeros(bias.len() * starts.len() * run);
        for (row, runs) in weight.chunks(inputs).zip(packed.chunks_mut(starts.len() * run)) {
            for (r, values) in runs.chunks_mut(run).enumerate() {
                for (i, value) in values[..len].iter_mut().enumerate() {
                    *value = place(r, i).map_or(0.0, |at| row[at]);
                }
            }
        }
        Self { starts, run, weight: packed, bias: bias.to_vec() }
    }

    /// Computes this share of the outputs, for inputs that lie one after another.
    pub fn run(&self, relu: bool, (from, input): From<'_>, (to, out): To<'_>, images: usize, share: Share) {
        assert!(images * from.len() <= input.len() && images * to.len() <= out.len());
        let outputs = share.of(self.bias.len());
        simd::dispatch(Product { linear: self, floor: floor(relu), from, input, to, out, images, outputs });
    }
}

struct Product<'a> {
    linear: &'a Linear,
    floor: f32,
    from: &'a Image,
    input: &'a [f32],
    to: &'a Image,
    out: Shared,
    images: usize,
    outputs: Range<usize>,
}

impl WithSimd for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        // As many sums as have a register.
        let tall = if self.images >= most { 6 } else { 8 };
        for outputs in parts(self.outputs.len(), tall) {
            let first = self.outputs.start + outputs.start;
            for images in parts(self.images, most) {
                macro_rules! sizes {
                    ($($n:literal)*) => {
                        match (outputs.len(), images.len()) {
                            $(($n, 1) => self.tile::<S, $n, 1>(simd, first, images.start),
                              ($n, 2) => self.tile::<S, $n, 2>(simd, first, images.start),
                              ($n, 3) => self.tile::<S, $n, 3>(simd, first, images.start),
                              ($n, 4) => self.tile::<S, $n, 4>(simd, first, images.start),)*
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
    fn tile<S: Simd, const N: usize, const I: usize>(&self, simd: S, output: usize, image: usize) {
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
                let to = self.out.at((image + i) * self.to.len() + output + n);
                // Safety: an output belongs to one share.
                unsafe { to.write(at_least(self.floor, sum)) };
            }
        }
    }
}
