//! Convolutions by their definition.

use super::image::{From, Image, To};
use super::layers;
use super::product::{Finish, Matrix, Tile, load, most_pixels, sized, store, tile, widest};
use super::team::{Part, Shared};
use crate::simd::{self, SLACK, parts};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// A convolution by its definition, for kernels and strides of all sizes.
#[derive(Debug, Clone)]
pub struct Direct {
    matrix: Matrix,
    /// Where runs of `run` terms lie that are side by side in the image.
    taps: Vec<usize>,
    run: usize,
    stride: usize,
    padding: usize,
}

impl Direct {
    /// Of an image `from`, with `weight` (outputs, inputs, kernel, kernel).
    pub fn new(
        from: &Image,
        [kernel, padding, stride]: [usize; 3],
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let (channels, area) = (from.channels, kernel * kernel);
        if from.planar {
            let taps = (0..channels * area).map(|t| from.tap(t / area, t / kernel % kernel, t % kernel));
            let at = |t: usize, o| weight(o, t / area, t / kernel % kernel, t % kernel);
            let matrix = Matrix::new(channels * area, outputs, at);
            return Self { matrix, taps: taps.collect(), run: 1, stride, padding };
        }
        let taps = (0..area).map(|t| from.tap(0, t / kernel, t % kernel)).collect();
        let at = |t: usize, o| weight(o, t % channels, t / channels / kernel, t / channels % kernel);
        let matrix = Matrix::new(area * channels, outputs, at);
        Self { matrix, taps, run: channels, stride, padding }
    }

    /// Convolves this part of the rows of `images` images that lie one after another.
    pub fn run(
        &self,
        (from, input): From<'_>,
        finish: Finish<'_>,
        (to, out): To<'_>,
        images: usize,
        part: Part,
    ) {
        assert!(images * from.len() <= input.len() && images * to.len() <= out.len());
        assert!(finish.addend.is_none_or(|(image, values)| images * image.len() <= values.len()));
        assert!(finish.bias.len() == self.matrix.channels && to.depth == self.matrix.channels);
        assert!(from.border >= self.padding);
        simd::dispatch(Run { conv: self, from, input, finish, to, out, rows: part.of(images * to.height) });
    }
}

struct Run<'a> {
    conv: &'a Direct,
    from: &'a Image,
    input: &'a [f32],
    finish: Finish<'a>,
    to: &'a Image,
    out: Shared,
    rows: Range<usize>,
}

impl WithSimd for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { conv, from, input, finish, to, out, rows } = self;
        let (lanes, stride) = (S::F32_LANES, conv.stride);
        let padding = conv.padding as isize;
        for group in parts(conv.matrix.channels / lanes, widest(S::REGISTER_COUNT)) {
            let first = group.start * lanes;
            let weights = conv.matrix.of(first);
            for row in rows.clone() {
                let (number, y) = (row / to.height, row % to.height);
                for x in parts(to.width, most_pixels::<S>(group.len())) {
                    let at = |image: &Image, y: isize, x: isize| number * image.len() + image.at(y, x);
                    let (top, left) = ((y * stride) as isize, (x.start * stride) as isize);
                    let corner = at(from, top - padding, left - padding);
                    let (y, left) = (y as isize, x.start as isize);
                    let addend = finish.addend.map(|(image, values)| &values[at(image, y, left) + first..]);
                    let tile = DirectTile {
                        simd,
                        weights,
                        terms: (&conv.taps, conv.run),
                        image: (input[corner..].as_ptr(), stride * from.depth),
                        bias: finish.bias[first..].as_ptr(),
                        floor: finish.floor(),
                        addend: addend.map(<[f32]>::as_ptr),
                        out: out.at(at(to, y, left) + first),
                        depth: to.depth,
                    };
                    sized(group.len(), x.len(), tile);
                }
            }
        }
    }
}

struct DirectTile<'a, S> {
    simd: S,
    weights: *const f32,
    terms: (&'a [usize], usize),
    image: (*const f32, usize),
    bias: *const f32,
    floor: f32,
    addend: Option<*const f32>,
    out: *mut f32,
    depth: usize,
}

impl<S: Simd> Tile for DirectTile<'_, S> {
    #[inline(always)]
    fn run<const N: usize, const P: usize>(self) {
        let (simd, lanes) = (self.simd, S::F32_LANES);
        // Safety: a tile lies inside the images, whose sizes `Direct::run` has asserted.
        unsafe {
            let mut start = [simd.splat_f32s(0.0); N];
            for n in 0..N {
                start[n] = load(self.bias.add(n * lanes));
            }
            let mut sums = tile::<S, N, P>(simd, self.weights, self.terms, self.image, start);
            let floor = simd.splat_f32s(self.floor);
            // Two loops: one with a condition inside is not unrolled, and then all sums lie in memory.
            if let Some(addend) = self.addend {
                for p in 0..P {
                    for n in 0..N {
                        sums[p][n] = simd.add_f32s(sums[p][n], load(addend.add(p * self.depth + n * lanes)));
                    }
                }
            }
            for p in 0..P {
                for n in 0..N {
                    let sum = simd.max_f32s(floor, sums[p][n]);
                    store(self.out.add(p * self.depth + n * lanes), sum);
                }
            }
        }
    }
}

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

    /// As [`Direct::new`].
    pub fn new(
        from: &Image,
        (kernel, padding): (usize, usize),
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let area = kernel * kernel;
        let place = |t: usize| (t / area, t / kernel % kernel, t % kernel);
        let (taps, mut values) = (0..from.channels * area, Vec::new());
        for group in parts(outputs, ROWS.0) {
            for (channel, y, x) in taps.clone().map(place) {
                values.extend(group.clone().map(|output| weight(output, channel, y, x)));
            }
        }
        let taps = taps.map(place).map(|(channel, y, x)| from.tap(channel, y, x)).collect();
        Self { values, outputs, taps, padding }
    }

    /// As [`Direct::run`].
    pub fn run(&self, (from, input): From<'_>, finish: Finish<'_>, to: To<'_>, images: usize, part: Part) {
        struct Run<'a>(&'a Rows, From<'a>, Finish<'a>, To<'a>, usize, Part);
        impl WithSimd for Run<'_> {
            type Output = ();
            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let Self(conv, (from, input), finish, to, images, part) = self;
                let lanes = S::F32_LANES;
                layers::rows(
                    to,
                    images,
                    part,
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
        assert!(images * from.len() <= input.len() && from.border >= self.padding);
        simd::dispatch(Run(self, (from, input), finish, to, images, part));
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
        let (simd, lanes, mut weights) = (self.simd, S::F32_LANES, self.weights);
        let zero = simd.splat_f32s(0.0);
        let mut sums = [[zero; N]; P];
        // Safety: registers that begin inside a row end before the slack of its image does.
        unsafe {
            for p in 0..P {
                sums[p] = [simd.splat_f32s(*self.bias.as_ptr().add(p)); N];
            }
            for &tap in self.taps {
                let mut pixels = [zero; N];
                for n in 0..N {
                    pixels[n] = load(self.image.add(tap + n * lanes));
                }
                for p in 0..P {
                    let weight = simd.splat_f32s(*weights.add(p));
                    for n in 0..N {
                        sums[p][n] = simd.mul_add_f32s(weight, pixels[n], sums[p][n]);
                    }
                }
                weights = weights.add(P);
            }
            let floor = simd.splat_f32s(self.floor);
            // First all registers, in a loop that is unrolled, then pixel by pixel.
            let mut values = [[0f32; 2 * SLACK]; P];
            for p in 0..P {
                for n in 0..N {
                    store(values[p].as_mut_ptr().add(n * lanes), simd.max_f32s(floor, sums[p][n]));
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
