//! Convolutions by their definition.

use super::image::{From, Image, To};
use super::product::{Finish, Matrix, Tile, load, most_pixels, sized, store, tile, widest};
use super::share::{Share, Shared};
use crate::simd::{self, at_least_f32s, parts};
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

    /// Numbers that are read as weights.
    pub fn weights(&self) -> usize {
        self.matrix.terms * self.matrix.channels
    }

    /// Convolves this share of the rows of `images` images that lie one after another.
    pub fn run(
        &self,
        (from, input): From<'_>,
        finish: Finish<'_>,
        (to, out): To<'_>,
        images: usize,
        share: Share,
    ) {
        assert!(images * from.len() <= input.len() && images * to.len() <= out.len());
        assert!(finish.addend.is_none_or(|(image, values)| images * image.len() <= values.len()));
        assert!(finish.bias.len() == self.matrix.channels && to.depth == self.matrix.channels);
        assert!(from.border >= self.padding);
        simd::dispatch(Run { conv: self, from, input, finish, to, out, rows: share.of(images * to.height) });
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
            let (taps, run) = self.terms;
            let mut sums =
                tile::<S, N, P, 0>(simd, (self.weights, N * lanes), (taps, (run, 1)), self.image, start);
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
                    let sum = at_least_f32s(simd, floor, sums[p][n]);
                    store(self.out.add(p * self.depth + n * lanes), sum);
                }
            }
        }
    }
}
