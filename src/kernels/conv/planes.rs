//! Convolutions of planes whose pixels fill registers: of few channels, with several images side by side.

use super::image::{From, Image};
use super::product::{Tile, load, most_pixels, sized, store, widest};
use super::rows::{by_groups, row_sums};
use crate::simd::{self, parts};
use pulp::{Simd, WithSimd};

/// A convolution of stride 1, by its definition: planes are multiplied by numbers.
#[derive(Debug)]
pub struct Planes {
    /// Groups of outputs, and in a group the outputs' weights for each tap.
    values: Vec<f32>,
    outputs: usize,
    /// Where a tap lies from the first pixel on.
    taps: Vec<usize>,
    row: usize,
    depth: usize,
}

/// Outputs in a tile.
const OUTPUTS: usize = 5;

impl Planes {
    /// Of an image `from` that has the padding around it; `weight` is (outputs, inputs, kernel, kernel).
    pub fn new(
        from: &Image,
        kernel: usize,
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (values, taps) = by_groups(from, kernel, (outputs, OUTPUTS), weight);
        Self { values, outputs, taps, row: from.row(), depth: from.depth }
    }

    /// Convolves an image to planes (outputs, height, width, depth).
    pub fn run(&self, from: &[f32], bias: &[f32], [height, width]: [usize; 2], out: &mut [f32]) {
        struct Run<'a>(&'a Planes, &'a [f32], &'a [f32], [usize; 2], &'a mut [f32]);
        impl WithSimd for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let Self(conv, from, bias, [height, width], out) = self;
                let (row, registers) = (width * conv.depth, width * conv.depth / S::F32_LANES);
                for y in 0..height {
                    for group in parts(conv.outputs, OUTPUTS) {
                        let weights = conv.values[group.start * conv.taps.len()..].as_ptr();
                        for columns in parts(registers, widest(S::REGISTER_COUNT)) {
                            let x = columns.start * S::F32_LANES;
                            let tile = PlaneTile {
                                simd,
                                weights: (weights, &conv.taps),
                                image: from[y * conv.row + x..].as_ptr(),
                                bias: &bias[group.clone()],
                                out: out[(group.start * height + y) * row + x..].as_mut_ptr(),
                                plane: height * row,
                            };
                            sized(columns.len(), group.len(), tile);
                        }
                    }
                }
            }
        }
        let last = (height - 1) * self.row + width * self.depth + self.taps[self.taps.len() - 1];
        assert!(last <= from.len() && bias.len() == self.outputs && self.depth.is_multiple_of(simd::lanes()));
        assert_eq!(out.len(), self.outputs * height * width * self.depth);
        simd::dispatch(Run(self, from, bias, [height, width], out));
    }

    /// The gradients of a kernel (kernel, kernel, inputs, outputs) and of the bias (outputs): products of the image and of
    /// the output's gradient, which has zeros around it, summed over pixels and what lies side by side in them.
    pub fn gradient(x: From<'_>, grads: From<'_>, kernel: usize) -> (Vec<f32>, Vec<f32>) {
        struct Run<'a>(From<'a>, From<'a>, usize, &'a mut [f32], &'a mut [f32]);
        impl WithSimd for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let Self((from, x), (to, grads), kernel, out, of_bias) = self;
                let plane = to.tap(1, 0, 0);
                for (of_bias, plane) in of_bias.iter_mut().zip(grads.chunks_exact(plane)) {
                    let mut sums = simd.splat_f32s(0.0);
                    for at in (0..plane.len()).step_by(S::F32_LANES) {
                        // Safety: planes are whole registers.
                        sums = simd.add_f32s(sums, unsafe { load(plane.as_ptr().add(at)) });
                    }
                    *of_bias = simd.reduce_sum_f32s(sums);
                }
                let places: Vec<usize> =
                    (0..kernel * kernel).map(|tap| from.tap(0, tap / kernel, tap % kernel)).collect();
                // Two outputs at a time, and of a channel all taps, so that less comes from further away than the first-level cache.
                for outputs in parts(to.channels, 2) {
                    for channel in 0..from.channels {
                        // Of nine taps the compiler kept two sums in memory.
                        for taps in parts(places.len(), most_pixels::<S>(2).min(8)) {
                            let at = taps.start * from.channels + channel;
                            let tile = KernelTile {
                                simd,
                                x: x[from.tap(channel, 0, 0)..].as_ptr(),
                                grads: grads[outputs.start * plane + to.at(0, 0)..].as_ptr(),
                                layouts: [from, to],
                                taps: &places[taps.clone()],
                                out: &mut out[at * to.channels + outputs.start..],
                                next: from.channels * to.channels,
                            };
                            sized(outputs.len(), taps.len(), tile);
                        }
                    }
                }
            }
        }
        let ((from, images), (to, of_outputs)) = (x, grads);
        assert!(from.planar && to.planar && from.len() <= images.len() && to.len() <= of_outputs.len());
        assert!(from.depth == to.depth && from.depth.is_multiple_of(simd::lanes()));
        assert!(from.row() >= (to.width + kernel - 1) * to.depth);
        assert!(from.tap(1, 0, 0) >= (to.height + kernel - 1) * from.row());
        let mut out = vec![0.0; kernel * kernel * from.channels * to.channels];
        let mut of_bias = vec![0.0; to.channels];
        simd::dispatch(Run(x, grads, kernel, &mut out, &mut of_bias));
        (out, of_bias)
    }
}

struct PlaneTile<'a, S> {
    simd: S,
    weights: (*const f32, &'a [usize]),
    image: *const f32,
    bias: &'a [f32],
    out: *mut f32,
    plane: usize,
}

impl<S: Simd> Tile for PlaneTile<'_, S> {
    /// `P` outputs of `N` registers of a row.
    #[inline(always)]
    fn run<const N: usize, const P: usize>(self) {
        // Safety: `Planes::run` has asserted that the last row's taps and results exist.
        unsafe {
            let sums = row_sums::<S, N, P>(self.simd, self.weights, self.image, self.bias);
            for p in 0..P {
                for n in 0..N {
                    store(self.out.add(p * self.plane + n * S::F32_LANES), sums[p][n]);
                }
            }
        }
    }
}

struct KernelTile<'a, S> {
    simd: S,
    x: *const f32,
    grads: *const f32,
    layouts: [&'a Image; 2],
    taps: &'a [usize],
    out: &'a mut [f32],
    /// From one tap to the next.
    next: usize,
}

impl<S: Simd> Tile for KernelTile<'_, S> {
    /// `P` taps of `N` outputs.
    #[inline(always)]
    fn run<const N: usize, const P: usize>(self) {
        let Self { simd, x, grads, layouts: [from, to], taps, out, next } = self;
        let (plane, zero) = (to.tap(1, 0, 0), simd.splat_f32s(0.0));
        let taps: &[usize; P] = taps.first_chunk().expect("as many taps as the tile has");
        let mut sums = [[zero; N]; P];
        for y in 0..to.height {
            for at in (0..to.width * to.depth).step_by(S::F32_LANES) {
                // Safety: `Planes::gradient` has asserted that both images are as large.
                unsafe {
                    let (x, grads) = (x.add(y * from.row() + at), grads.add(y * to.row() + at));
                    let mut left = [zero; N];
                    for n in 0..N {
                        left[n] = load(grads.add(n * plane));
                    }
                    for p in 0..P {
                        let right = load(x.add(taps[p]));
                        for n in 0..N {
                            sums[p][n] = simd.mul_add_f32s(left[n], right, sums[p][n]);
                        }
                    }
                }
            }
        }
        for p in 0..P {
            for n in 0..N {
                out[p * next + n] = simd.reduce_sum_f32s(sums[p][n]);
            }
        }
    }
}
