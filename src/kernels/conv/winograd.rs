//! Convolutions of stride 1 with fewer multiplications (Winograd; Lavin and Gray 2015,
//! <https://arxiv.org/abs/1509.09308>).
//!
//! A tile of M×M results needs A×A pixels, A = M + kernel − 1. Both are polynomials' values at A points
//! after a transform of each axis, where the convolution is a product of numbers: A² multiplications
//! for each pair of channels instead of M²·kernel². Rounding differs from the definition's: the error
//! grows with the points.

use super::image::{From, Image, To};
use super::product::{Finish, Matrix, Tile, load, most_pixels, sized, store, tile, widest};
use super::share::{Share, Shared};
use crate::simd::{self, at_least_f32s, parts};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The transforms of one axis by its points.
pub trait Scheme<const A: usize, const M: usize> {
    /// Of A pixels.
    fn input<S: Simd>(simd: S, d: [S::f32s; A]) -> [S::f32s; A];
    /// From A products to M results.
    fn output<S: Simd>(simd: S, m: [S::f32s; A]) -> [S::f32s; M];
    /// From gradients of M results to those of A products: `output`, transposed.
    fn gradient<S: Simd>(simd: S, g: [S::f32s; M]) -> [S::f32s; A];
}

/// Points 0, 1, −1 and infinity.
pub struct Four;
/// Points 0, ±1, ±2 and infinity.
pub struct Six;
/// Points 0, ±1, ±2, ±1/2 and infinity.
pub struct Eight;

impl Scheme<4, 2> for Four {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::f32s; 4]) -> [S::f32s; 4] {
        [s.sub_f32s(d[2], d[0]), s.add_f32s(d[1], d[2]), s.sub_f32s(d[2], d[1]), s.sub_f32s(d[3], d[1])]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::f32s; 4]) -> [S::f32s; 2] {
        let (sum, difference) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
        [s.add_f32s(m[0], sum), s.add_f32s(difference, m[3])]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, g: [S::f32s; 2]) -> [S::f32s; 4] {
        [g[0], s.add_f32s(g[0], g[1]), s.sub_f32s(g[0], g[1]), g[1]]
    }
}

impl Six {
    #[inline(always)]
    fn transform<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        let four = s.splat_f32s(4.0);
        let (minus_four, minus_five) = (s.splat_f32s(-4.0), s.splat_f32s(-5.0));
        let even = s.mul_add_f32s(minus_four, d[2], d[4]);
        let odd = s.mul_add_f32s(minus_four, d[1], d[3]);
        let even_2 = s.sub_f32s(d[4], d[2]);
        let half = s.sub_f32s(d[3], d[1]);
        let odd_2 = s.add_f32s(half, half);
        [
            s.mul_add_f32s(four, d[0], s.mul_add_f32s(minus_five, d[2], d[4])),
            s.add_f32s(even, odd),
            s.sub_f32s(even, odd),
            s.add_f32s(even_2, odd_2),
            s.sub_f32s(even_2, odd_2),
            s.mul_add_f32s(four, d[1], s.mul_add_f32s(minus_five, d[3], d[5])),
        ]
    }
}

impl Scheme<6, 4> for Six {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        Self::transform(s, d)
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even, odd) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
        let (even_2, odd_2) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
        [
            s.add_f32s(m[0], s.add_f32s(even, even_2)),
            s.mul_add_f32s(s.splat_f32s(2.0), odd_2, odd),
            s.mul_add_f32s(s.splat_f32s(4.0), even_2, even),
            s.add_f32s(s.mul_add_f32s(s.splat_f32s(8.0), odd_2, odd), m[5]),
        ]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, g: [S::f32s; 4]) -> [S::f32s; 6] {
        let (even, odd) = (s.add_f32s(g[0], g[2]), s.add_f32s(g[1], g[3]));
        let four = s.splat_f32s(4.0);
        let even_2 = s.mul_add_f32s(four, g[2], g[0]);
        let half = s.mul_add_f32s(four, g[3], g[1]);
        let odd_2 = s.add_f32s(half, half);
        let (sum, difference) = (s.add_f32s(even_2, odd_2), s.sub_f32s(even_2, odd_2));
        [g[0], s.add_f32s(even, odd), s.sub_f32s(even, odd), sum, difference, g[3]]
    }
}

impl Scheme<6, 2> for Six {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::f32s; 6]) -> [S::f32s; 6] {
        Self::transform(s, d)
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::f32s; 6]) -> [S::f32s; 2] {
        let (even, odd) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
        let (even_2, odd_2) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
        [
            s.add_f32s(m[0], s.add_f32s(even, even_2)),
            s.add_f32s(s.mul_add_f32s(s.splat_f32s(2.0), odd_2, odd), m[5]),
        ]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, g: [S::f32s; 2]) -> [S::f32s; 6] {
        let (sum, difference) = (s.add_f32s(g[0], g[1]), s.sub_f32s(g[0], g[1]));
        let twice = s.add_f32s(g[1], g[1]);
        [g[0], sum, difference, s.add_f32s(g[0], twice), s.sub_f32s(g[0], twice), g[1]]
    }
}

impl Scheme<8, 4> for Eight {
    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::f32s; 8]) -> [S::f32s; 8] {
        let number = |x: f32| s.splat_f32s(x);
        // Of the points ±1, ±2 and ±1/2 what is even and what is odd.
        let even = s.mul_add_f32s(number(-4.25), d[4], s.add_f32s(d[2], d[6]));
        let odd = s.mul_add_f32s(number(-4.25), d[3], s.add_f32s(d[1], d[5]));
        let even_2 = s.mul_add_f32s(number(0.25), d[2], s.mul_add_f32s(number(-1.25), d[4], d[6]));
        let thrice = s.mul_f32s(number(-2.5), d[3]);
        let odd_2 = s.mul_add_f32s(number(0.5), d[1], s.mul_add_f32s(number(2.0), d[5], thrice));
        let even_half = s.mul_add_f32s(number(4.0), d[2], s.mul_add_f32s(number(-5.0), d[4], d[6]));
        let odd_half = s.mul_add_f32s(number(2.0), d[1], s.mul_add_f32s(number(0.5), d[5], thrice));
        [
            s.mul_add_f32s(number(5.25), s.sub_f32s(d[2], d[4]), s.sub_f32s(d[6], d[0])),
            s.add_f32s(even, odd),
            s.sub_f32s(even, odd),
            s.add_f32s(even_2, odd_2),
            s.sub_f32s(even_2, odd_2),
            s.add_f32s(even_half, odd_half),
            s.sub_f32s(even_half, odd_half),
            s.mul_add_f32s(number(5.25), s.sub_f32s(d[3], d[5]), s.sub_f32s(d[7], d[1])),
        ]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::f32s; 8]) -> [S::f32s; 4] {
        let number = |x: f32| s.splat_f32s(x);
        let (even, odd) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
        let (even_2, odd_2) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
        let (even_half, odd_half) = (s.add_f32s(m[5], m[6]), s.sub_f32s(m[5], m[6]));
        [
            s.add_f32s(s.add_f32s(m[0], even), s.add_f32s(even_2, even_half)),
            s.mul_add_f32s(number(2.0), odd_2, s.mul_add_f32s(number(0.5), odd_half, odd)),
            s.mul_add_f32s(number(4.0), even_2, s.mul_add_f32s(number(0.25), even_half, even)),
            s.mul_add_f32s(
                number(8.0),
                odd_2,
                s.mul_add_f32s(number(0.125), odd_half, s.add_f32s(odd, m[7])),
            ),
        ]
    }
    #[inline(always)]
    fn gradient<S: Simd>(s: S, g: [S::f32s; 4]) -> [S::f32s; 8] {
        let number = |x: f32| s.splat_f32s(x);
        let (even, odd) = (s.add_f32s(g[0], g[2]), s.add_f32s(g[1], g[3]));
        let even_2 = s.mul_add_f32s(number(4.0), g[2], g[0]);
        let odd_2 = s.mul_add_f32s(number(2.0), g[1], s.mul_f32s(number(8.0), g[3]));
        let even_half = s.mul_add_f32s(number(0.25), g[2], g[0]);
        let odd_half = s.mul_add_f32s(number(0.5), g[1], s.mul_f32s(number(0.125), g[3]));
        [
            g[0],
            s.add_f32s(even, odd),
            s.sub_f32s(even, odd),
            s.add_f32s(even_2, odd_2),
            s.sub_f32s(even_2, odd_2),
            s.add_f32s(even_half, odd_half),
            s.sub_f32s(even_half, odd_half),
            g[3],
        ]
    }
}

/// The sizes of a tile: pixels of its side, A, and results, M.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    pub size: usize,
    pub results: usize,
}

impl std::fmt::Display for Tiles {
    /// F(4×4, 3×3): of the results, and of the kernel.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (results, kernel) = (self.results, self.size - self.results + 1);
        write!(f, "F({results}×{results}, {kernel}×{kernel})")
    }
}

impl Tiles {
    /// The tiles by which a convolution of `from` to `to` is fastest, if any are faster than the
    /// definition. The estimate counts the instructions of `images` that are convolved together, and `read` for each
    /// register of weights: how many others fit into the time that it takes to come from its cache.
    pub fn suit(
        from: &Image,
        to: &Image,
        [kernel, _, stride]: [usize; 3],
        (images, read): (usize, usize),
    ) -> Option<Self> {
        if from.planar || stride != 1 {
            return None;
        }
        let registers = |image: &Image| image.depth / simd::lanes();
        let (inputs, outputs) = (registers(from), registers(to));
        let terms = from.channels * outputs;
        let estimate = |&(size, results): &(usize, usize)| {
            let tiles = Self { size, results };
            // To transform a register takes as long as about 10 products, more than its instructions: what is written then
            // comes from the second-level cache.
            let transforms = images * tiles.count(to) * (10 * (inputs + outputs) + 3);
            images * tiles.products(to) * terms + size * size * (transforms + terms * read)
        };
        let definition = kernel * kernel * terms * (images * to.height * to.width + read);
        let sizes: &[(usize, usize)] = match kernel {
            3 => &[(4, 2), (6, 4)],
            5 => &[(6, 2), (8, 4)],
            _ => &[],
        };
        // Rounding differs: not for little.
        let best = sizes.iter().copied().min_by_key(estimate)?;
        (5 * estimate(&best) < 4 * definition).then_some(Self { size: best.0, results: best.1 })
    }

    /// Tiles that a gradient works on at a time: transformed, they are to stay in the second-level cache beside the
    /// weights of an image `from` and so many outputs. Where these do not fit, they come from further away once for
    /// more tiles.
    pub fn block(self, from: &Image, outputs: usize) -> usize {
        const CACHE: usize = 2 << 20;
        let weights = size_of::<f32>() * self.size * self.size * from.channels * outputs;
        if weights > CACHE { 64 } else { 16 }
    }

    /// Tiles that a convolution works on at a time: as many as stay in the second-level cache, transformed and with a
    /// group of products. Weights are then read once for many.
    fn together(self, from: &Image, outputs: usize) -> usize {
        const CACHE: usize = 5 << 18;
        let bytes = size_of::<f32>() * self.size * self.size * (from.depth + group(outputs));
        (CACHE / bytes / 12 * 12).clamp(12, 36)
    }

    /// The tiles of an image `to` of results.
    pub fn count(self, to: &Image) -> usize {
        to.height.div_ceil(self.results) * to.width.div_ceil(self.results)
    }

    /// The products of each pair of channels for an image `to` of results.
    pub fn products(self, to: &Image) -> usize {
        let of = |length: usize| {
            length.div_ceil(self.results) * self.size - usize::from(!length.is_multiple_of(self.results))
        };
        of(to.height) * of(to.width)
    }

    /// The zeros that the tiles of results reach into to the right of an image `to`, or below.
    pub fn beyond_results(self, to: &Image) -> usize {
        let beyond = |length: usize| length.next_multiple_of(self.results) - length;
        beyond(to.height).max(beyond(to.width))
    }

    /// The zeros that tiles of this size read to the right of an image with its padding, or below.
    pub fn beyond(self, length: usize, kernel: usize) -> usize {
        let tiles = (length - kernel + 1).div_ceil(self.results);
        (tiles * self.results + self.size - self.results).saturating_sub(length)
    }
}

/// The tiles of a block. The product at infinity is part of a tile's last result alone, so that a tile whose last row or column
/// of results lies outside the image does without: tiles stand in such an order that those with a product are neighbours.
pub struct Block {
    /// Image, row and column of a tile's first result.
    pub places: Vec<(usize, usize, usize)>,
    /// Tiles that reach below the image, those and the ones inside, and those and the ones that reach to its right.
    ends: [usize; 3],
}

impl Block {
    pub fn new<const M: usize>(to: &Image, tiles: Range<usize>) -> Self {
        let (down, across) = (to.height.div_ceil(M), to.width.div_ceil(M));
        let place = |tile: usize| (tile / (across * down), tile / across % down * M, tile % across * M);
        let tiles: Vec<_> = tiles.map(place).collect();
        let reach = |&(_, y, x): &(usize, usize, usize)| (y + M > to.height, x + M > to.width);
        let mut places = Vec::with_capacity(tiles.len());
        let ends = [(true, false), (false, false), (false, true), (true, true)].map(|reaching| {
            places.extend(tiles.iter().copied().filter(|tile| reach(tile) == reaching));
            places.len()
        });
        Self { places, ends: [ends[0], ends[1], ends[2]] }
    }

    /// The tiles that have product `i` of a tile with A by A.
    pub fn with<const A: usize>(&self, i: usize) -> Range<usize> {
        let [below, inside, right] = self.ends;
        match (i / A + 1 == A, i % A + 1 == A) {
            (false, false) => 0..self.places.len(),
            (false, true) => 0..inside,
            (true, false) => below..right,
            (true, true) => below..inside,
        }
    }
}

/// The transform of one axis of a kernel, (A, kernel): row i holds 1, p, p², … by the product of the point p's
/// distances to the other points; infinity's is the last power alone.
pub fn kernel_transform(Tiles { size, results }: Tiles) -> Vec<Vec<f32>> {
    let points = &[0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5][..size - 1];
    let kernel = (size - results + 1) as i32;
    let row = |i: usize| {
        let Some(&p) = points.get(i) else {
            return (0..kernel).map(|power| f32::from(power + 1 == kernel)).collect();
        };
        let others = points.iter().filter(|&&other| other != p);
        let scale: f64 = others.map(|other| p - other).product();
        (0..kernel).map(|power| (f64::powi(p, power) / scale) as f32).collect()
    };
    (0..size).map(row).collect()
}

/// Adds `from` times the number to `to`. The number comes by value: a closure that looks it up keeps the loop from being
/// vectorised.
#[inline(always)]
pub fn add_scaled(to: &mut [f32], from: &[f32], factor: f32) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

/// Output channels whose products are there at a time: for each group all transformed pixels are read again.
const GROUP: usize = 64;

/// Weights that are asked for before they are read: the processor's own guesses come too late where all of them lie in the
/// third-level cache.
const AHEAD: usize = 1536;

/// The most of so many output channels whose products are there at a time.
fn group(outputs: usize) -> usize {
    outputs.min(GROUP.max(widest(simd::registers()) * simd::lanes()))
}

/// A convolution by tiles.
#[derive(Debug, Clone)]
pub struct Winograd {
    tiles: Tiles,
    block: usize,
    padding: usize,
    /// The weights (products, inputs; outputs): those of the A² products one after another.
    matrix: Matrix,
}

/// Elements between the tiles of two products: without them tiles lie powers of two apart, which take
/// each other's place in the first-level cache.
pub const SKEW: usize = 16;

impl Winograd {
    /// Of an image `from`, with `weight` (outputs, inputs, kernel, kernel).
    pub fn new(
        from: &Image,
        tiles: Tiles,
        padding: usize,
        outputs: usize,
        weight: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let transform = kernel_transform(tiles);
        let (kernel, area) = (transform[0].len(), tiles.size * tiles.size);
        let depth = outputs.next_multiple_of(simd::lanes());
        // (input, product, output)
        let mut products = vec![0.0; from.channels * area * depth];
        products.par_chunks_mut(area * depth).enumerate().for_each_init(
            || (vec![0.0; kernel * kernel * depth], vec![0.0; tiles.size * kernel * depth]),
            |(weights, columns), (c, products)| {
                for (tap, weights) in weights.chunks_mut(depth).enumerate() {
                    let (y, x) = (tap / kernel, tap % kernel);
                    weights.iter_mut().take(outputs).enumerate().for_each(|(o, to)| *to = weight(o, c, y, x));
                }
                // First down, then across, for all outputs side by side.
                simd::vectorized(
                    #[inline(always)]
                    || {
                        columns.fill(0.0);
                        for i in 0..tiles.size {
                            for y in 0..kernel {
                                let to = &mut columns[i * kernel * depth..][..kernel * depth];
                                add_scaled(to, &weights[y * kernel * depth..], transform[i][y]);
                            }
                        }
                        for i in 0..area {
                            let to = &mut products[i * depth..][..depth];
                            for x in 0..kernel {
                                let from = &columns[(i / tiles.size * kernel + x) * depth..];
                                add_scaled(to, from, transform[i % tiles.size][x]);
                            }
                        }
                    },
                );
            },
        );
        let row = |c: usize, i: usize| &products[(c * area + i) * depth..][..depth];
        let matrix = Matrix::of_rows(area * from.channels, outputs, |term| {
            row(term % from.channels, term / from.channels)
        });
        Self { tiles, block: tiles.together(from, depth), padding, matrix }
    }

    /// Elements of scratch that [`Self::run`] needs.
    pub fn scratch(&self, from: &Image) -> usize {
        let products = group(self.matrix.channels);
        self.tiles.size.pow(2) * (self.block * (from.depth + products) + 2 * SKEW)
    }

    pub fn tiles(&self) -> Tiles {
        self.tiles
    }

    /// Numbers that are read as weights.
    pub fn weights(&self) -> usize {
        self.matrix.terms * self.matrix.channels
    }

    /// Multiplications for an image `to`.
    pub fn multiplications(&self, to: &Image) -> usize {
        self.weights() / self.tiles.size.pow(2) * self.tiles.products(to)
    }

    /// Convolves this share of the tiles of `images` images that lie one after another.
    pub fn run(
        &self,
        (from, input): From<'_>,
        finish: Finish<'_>,
        (to, out): To<'_>,
        scratch: &mut [f32],
        images: usize,
        share: Share,
    ) {
        let Tiles { size, results } = self.tiles;
        assert!(images * from.len() <= input.len() && images * to.len() <= out.len());
        assert!(finish.addend.is_none_or(|(image, values)| images * image.len() <= values.len()));
        assert!(from.border >= self.padding && scratch.len() >= self.scratch(from));
        for length in [from.height, from.width] {
            assert!(from.beyond >= self.tiles.beyond(length + 2 * self.padding, size - results + 1));
        }
        let tiles = share.of(images * self.tiles.count(to));
        let run = Run { conv: self, from, input, finish, to, out, scratch, tiles };
        match (size, results) {
            (4, 2) => simd::dispatch(By::<Four, 4, 2>(run, Four)),
            (6, 4) => simd::dispatch(By::<Six, 6, 4>(run, Six)),
            (6, 2) => simd::dispatch(By::<Six, 6, 2>(run, Six)),
            (8, 4) => simd::dispatch(By::<Eight, 8, 4>(run, Eight)),
            _ => unreachable!("no such tiles"),
        }
    }
}

struct Run<'a> {
    conv: &'a Winograd,
    from: &'a Image,
    input: &'a [f32],
    finish: Finish<'a>,
    to: &'a Image,
    out: Shared,
    scratch: &'a mut [f32],
    tiles: Range<usize>,
}

struct By<'a, T, const A: usize, const M: usize>(Run<'a>, T);

impl<T: Scheme<A, M>, const A: usize, const M: usize> WithSimd for By<'_, T, A, M> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Run { conv, from, input, finish, to, out, scratch, tiles: all } = self.0;
        let (depth, lanes) = (from.depth, S::F32_LANES);
        let (inputs, products) = scratch.split_at_mut(A * A * (conv.block * depth + SKEW));
        let (wide, terms) = (widest(S::REGISTER_COUNT), conv.matrix.terms / (A * A));
        let columns: Vec<_> = parts(to.depth / lanes, wide).collect();
        for tiles in parts(all.len(), conv.block) {
            let count = tiles.len();
            let block = Block::new::<M>(to, all.start + tiles.start..all.start + tiles.end);
            let step = count * depth + SKEW;
            for (i, &(image, y, x)) in block.places.iter().enumerate() {
                let padding = conv.padding as isize;
                let at = image * from.len() + from.at(y as isize - padding, x as isize - padding);
                // Safety: `Winograd::run` has asserted that tiles lie inside the image and its zeros.
                unsafe {
                    let to = inputs.as_mut_ptr().add(i * depth);
                    let at = input.as_ptr().add(at);
                    transform::<S, A, A>(
                        simd,
                        at,
                        from,
                        to,
                        step,
                        #[inline(always)]
                        |d| T::input(simd, d),
                    );
                }
            }
            // A few output channels after another: of all of them the products would not stay in the cache.
            for columns in columns.chunks((GROUP / wide / lanes).max(1)) {
                let channels = columns[0].start * lanes..columns[columns.len() - 1].end * lanes;
                // Where all outputs are computed together, and are as many as the inputs, products take the place of what
                // they are made of.
                let in_place = columns.len() == 1 && channels.len() == depth && to.depth == depth;
                let (products, step_of_products) = match in_place {
                    true => (inputs.as_mut_ptr(), step),
                    false => (products.as_mut_ptr(), count * channels.len() + SKEW),
                };
                for i in 0..A * A {
                    let with = block.with::<A>(i);
                    // Safety: both have room for the products of `block` tiles.
                    unsafe {
                        let from = inputs.as_ptr().add(i * step + with.start * depth);
                        let to = products.add(i * step_of_products + with.start * channels.len());
                        for column in columns {
                            let first = column.start * lanes;
                            let weights = conv.matrix.of(first).add(i * terms * column.len() * lanes);
                            let to = (to.add(first - channels.start), channels.len());
                            multiply(simd, (weights, terms, column.len()), (from, depth), to, with.len());
                        }
                    }
                }
                for (i, &(image, y, x)) in block.places.iter().enumerate() {
                    // Safety: as above; only results inside the image are written.
                    unsafe {
                        let from = products.cast_const().add(i * channels.len());
                        let out = out.at(image * to.len());
                        let from = (from, step_of_products, channels.clone());
                        results::<T, S, A, M>(simd, from, finish, image, (to, out), (y, x));
                    }
                }
            }
        }
    }
}

/// Transforms both axes of the `I`×`I` pixels at `from` to A; product i of their `depth` channels goes to
/// `to + i · step`.
#[inline(always)]
pub unsafe fn transform<S: Simd, const I: usize, const A: usize>(
    simd: S,
    from: *const f32,
    image: &Image,
    to: *mut f32,
    step: usize,
    axis: impl Fn([S::f32s; I]) -> [S::f32s; A],
) {
    unsafe {
        let (row, depth) = (image.row(), image.depth);
        let zero = simd.splat_f32s(0.0);
        for c in (0..depth).step_by(S::F32_LANES) {
            // Zeros would be one store more for each register that is written, in a call.
            let mut rows = [MaybeUninit::<[S::f32s; A]>::uninit(); I];
            let mut at = from.add(c);
            for y in 0..I {
                let mut pixels = [zero; I];
                for x in 0..I {
                    pixels[x] = load(at.add(x * depth));
                }
                rows[y].write(axis(pixels));
                at = at.add(row);
            }
            for x in 0..A {
                let mut column = [zero; I];
                for y in 0..I {
                    column[y] = rows[y].assume_init_ref()[x];
                }
                let column = axis(column);
                for y in 0..A {
                    store(to.add((y * A + x) * step + c), column[y]);
                }
            }
        }
    }
}

/// `to = from · weights` for `count` tiles and a matrix (terms, registers of channels). `to` may be `from`.
///
/// # Safety
/// `from` has `count` tiles of `depth` elements, and `to` as many of these channels.
#[inline(always)]
unsafe fn multiply<S: Simd>(
    simd: S,
    (weights, terms, registers): (*const f32, usize, usize),
    (from, depth): (*const f32, usize),
    (to, channels): (*mut f32, usize),
    count: usize,
) {
    struct Product<S> {
        simd: S,
        weights: *const f32,
        terms: usize,
        from: *const f32,
        depth: usize,
        to: *mut f32,
        channels: usize,
    }
    impl<S: Simd> Tile for Product<S> {
        #[inline(always)]
        fn run<const N: usize, const P: usize>(self) {
            let start = [self.simd.splat_f32s(0.0); N];
            // Safety: the caller says so; a tile's sums are complete before the first is stored.
            unsafe {
                let (weights, image) = ((self.weights, N * S::F32_LANES), (self.from, self.depth));
                let sums = tile::<S, N, P, AHEAD>(self.simd, weights, (&[0], (self.terms, 1)), image, start);
                for p in 0..P {
                    for n in 0..N {
                        store(self.to.add(p * self.channels + n * S::F32_LANES), sums[p][n]);
                    }
                }
            }
        }
    }
    for pixels in parts(count, most_pixels::<S>(registers)) {
        // Safety: as above.
        let (from, to) = unsafe { (from.add(pixels.start * depth), to.add(pixels.start * channels)) };
        sized(registers, pixels.len(), Product { simd, weights, terms, from, depth, to, channels });
    }
}

/// Of these channels the results of the tile whose first result is (y, x) of image number `number`, from its products,
/// which lie `step` apart.
#[inline(always)]
unsafe fn results<T: Scheme<A, M>, S: Simd, const A: usize, const M: usize>(
    simd: S,
    (from, step, channels): (*const f32, usize, Range<usize>),
    finish: Finish<'_>,
    number: usize,
    (to, out): (&Image, *mut f32),
    (top, left): (usize, usize),
) {
    unsafe {
        let floor = simd.splat_f32s(finish.floor());
        let (height, width) = (M.min(to.height - top), M.min(to.width - left));
        let (top, left) = (top as isize, left as isize);
        let out = out.add(to.at(top, left));
        let addend = finish.addend.map(|(image, values)| {
            (image.row(), values.as_ptr().add(number * image.len() + image.at(top, left)))
        });
        let (row, depth) = (to.row(), to.depth);
        for c in channels.clone().step_by(S::F32_LANES) {
            let zero = simd.splat_f32s(0.0);
            let mut columns = [MaybeUninit::<[S::f32s; M]>::uninit(); A];
            for x in 0..A {
                let mut column = [zero; A];
                for y in 0..A {
                    if (y + 1 < A || height == M) && (x + 1 < A || width == M) {
                        column[y] = load(from.add((y * A + x) * step + c - channels.start));
                    }
                }
                columns[x].write(T::output(simd, column));
            }
            let bias = load(finish.bias.as_ptr().add(c));
            for y in 0..height {
                let mut products = [zero; A];
                for x in 0..A {
                    products[x] = columns[x].assume_init_ref()[y];
                }
                let results = T::output(simd, products);
                let out = out.add(y * row + c);
                // Only inside the image: an addend need not have zeros around it.
                for x in 0..M {
                    if x < width {
                        let mut result = simd.add_f32s(results[x], bias);
                        if let Some((row, addend)) = addend {
                            result = simd.add_f32s(result, load(addend.add(y * row + x * depth + c)));
                        }
                        store(out.add(x * depth), at_least_f32s(simd, floor, result));
                    }
                }
            }
        }
    }
}
