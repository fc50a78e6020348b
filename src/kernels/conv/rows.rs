//! Convolutions of few outputs.

use super::image::{From, Image, To, rows};
use super::product::{Finish, Tile, load, sized, store};
use super::share::Share;
use crate::simd::{self, SLACK, at_least_f32s, parts};
use pulp::{Simd, WithSimd};

/// A convolution of the network's input with too few outputs for a register: pixels of a row are in the
/// lanes instead. For stride 1.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Groups of outputs, and in a group the outputs' weights for each tap.
    values: Vec<f32>,
    outputs: usize,
    taps: Vec<usize>,
    padding: usize,
}

/// Outputs, and registers of pixels, in a tile of [`Rows`].
const ROWS: (usize, usize) = (5, 2);

impl Rows {
    /// Whether it suits a convolution of `from` to `to`.
    pub fn suits(from: &Image, to: &Image, stride: usize) -> bool {
        from.planar && stride == 1 && 2 * to.channels <= simd::lanes()
    }

    /// As [`super::direct::Direct::new`].
    pub fn new(
        from: &Image,
        (kernel, padding): (usize, usize),
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (values, taps) = by_groups(from, kernel, (outputs, ROWS.0), weight);
        Self { values, outputs, taps, padding }
    }

    /// Numbers that are read as weights.
    pub fn weights(&self) -> usize {
        self.values.len()
    }

    /// As [`super::direct::Direct::run`].
    pub fn run(&self, (from, input): From<'_>, finish: Finish<'_>, to: To<'_>, images: usize, share: Share) {
        struct Run<'a>(&'a Rows, From<'a>, Finish<'a>, To<'a>, usize, Share);
        impl WithSimd for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let Self(conv, (from, input), finish, to, images, share) = self;
                let lanes = S::F32_LANES;
                rows(
                    to,
                    images,
                    share,
                    #[inline(always)]
                    |number, y, out| {
                        let corner = number * from.len()
                            + from.at(y - conv.padding as isize, -(conv.padding as isize));
                        for registers in parts(to.0.width.div_ceil(lanes), ROWS.1) {
                            let x = registers.start * lanes;
                            let (image, out) = (input[corner + x..].as_ptr(), &mut out[x * to.0.depth..]);
                            for group in parts(conv.outputs, ROWS.0) {
                                let weights = conv.values[group.start * conv.taps.len()..].as_ptr();
                                let tile = RowTile {
                                    simd,
                                    weights,
                                    taps: &conv.taps,
                                    image,
                                    bias: &finish.bias[group.start..],
                                    floor: finish.floor(),
                                    out: &mut *out,
                                    depth: to.0.depth,
                                    first: group.start,
                                };
                                sized(registers.len(), group.len(), tile);
                            }
                        }
                    },
                );
            }
        }
        assert!(images * from.len() <= input.len() && from.border >= self.padding && finish.addend.is_none());
        simd::dispatch(Run(self, (from, input), finish, to, images, share));
    }
}

struct RowTile<'a, S> {
    simd: S,
    weights: *const f32,
    taps: &'a [usize],
    image: *const f32,
    bias: &'a [f32],
    floor: f32,
    out: &'a mut [f32],
    depth: usize,
    first: usize,
}

impl<S: Simd> Tile for RowTile<'_, S> {
    /// `P` outputs of `N` registers of pixels.
    #[inline(always)]
    fn run<const N: usize, const P: usize>(self) {
        let (simd, lanes) = (self.simd, S::F32_LANES);
        // Safety: registers that begin inside a row end before the slack of its image does.
        unsafe {
            let sums = row_sums::<S, N, P>(simd, (self.weights, self.taps), self.image, self.bias);
            let floor = simd.splat_f32s(self.floor);
            // First all registers, in a loop that is unrolled, then pixel by pixel.
            let mut values = [[0f32; 2 * SLACK]; P];
            for p in 0..P {
                for n in 0..N {
                    store(values[p].as_mut_ptr().add(n * lanes), at_least_f32s(simd, floor, sums[p][n]));
                }
            }
            // Pixels behind the row's end are not stored.
            for (x, out) in self.out.chunks_mut(self.depth).take(N * lanes).enumerate() {
                for p in 0..P {
                    out[self.first + p] = values[p][x];
                }
            }
        }
    }
}

/// The weights for each tap and output of groups of so many outputs, and where the taps lie.
pub fn by_groups(
    from: &Image,
    kernel: usize,
    (outputs, together): (usize, usize),
    weight: impl Fn(usize, usize, usize, usize) -> f32,
) -> (Vec<f32>, Vec<usize>) {
    let area = kernel * kernel;
    let place = |t: usize| (t / area, t / kernel % kernel, t % kernel);
    let (taps, mut values) = (0..from.channels * area, Vec::new());
    for group in parts(outputs, together) {
        for (channel, y, x) in taps.clone().map(place) {
            values.extend(group.clone().map(|output| weight(output, channel, y, x)));
        }
    }
    let taps = taps.map(place).map(|(channel, y, x)| from.tap(channel, y, x)).collect();
    (values, taps)
}

/// `bias[p] + Σ_t weights[t · P + p] · image[taps[t] + n · lanes]` for `P` outputs and `N` registers.
///
/// # Safety
/// `weights` and `bias` have as many values, and what is read of `image` exists.
#[inline(always)]
pub unsafe fn row_sums<S: Simd, const N: usize, const P: usize>(
    simd: S,
    (mut weights, taps): (*const f32, &[usize]),
    image: *const f32,
    bias: &[f32],
) -> [[S::f32s; N]; P] {
    let zero = simd.splat_f32s(0.0);
    let mut sums = [[zero; N]; P];
    unsafe {
        for p in 0..P {
            sums[p] = [simd.splat_f32s(*bias.as_ptr().add(p)); N];
        }
        for &tap in taps {
            let mut pixels = [zero; N];
            for n in 0..N {
                pixels[n] = load(image.add(tap + n * S::F32_LANES));
            }
            for p in 0..P {
                let weight = simd.splat_f32s(*weights.add(p));
                for n in 0..N {
                    sums[p][n] = simd.mul_add_f32s(weight, pixels[n], sums[p][n]);
                }
            }
            weights = weights.add(P);
        }
    }
    sums
}
