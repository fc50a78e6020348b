//! The inner product of all convolutions.

use super::image::From;
use crate::simd::{self, Aligned, parts};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// A matrix (terms, channels) in the order in which [`tile`] reads it: groups of as many registers of
/// channels as one tile has, and inside a group the terms one after another.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub terms: usize,
    /// Channels, with the zeros that fill the last register.
    pub channels: usize,
    values: Aligned,
}

impl Matrix {
    /// The matrix whose element is `at(term, channel)`.
    pub fn new(terms: usize, channels: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        Self::written(terms, channels, |term, of, values| {
            let of = of.start..of.end.min(channels);
            values.iter_mut().zip(of).for_each(|(value, channel)| *value = at(term, channel));
        })
    }

    /// The matrix of these rows.
    pub fn of_rows<'a>(terms: usize, channels: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        Self::written(terms, channels, |term, of, values| values.copy_from_slice(&row(term)[of]))
    }

    /// The matrix that has of a term and these channels the values that `write` writes, and else zeros.
    fn written(terms: usize, channels: usize, write: impl Fn(usize, Range<usize>, &mut [f32])) -> Self {
        let lanes = simd::lanes();
        let depth = channels.next_multiple_of(lanes);
        let mut values = Aligned::zeros(terms * depth);
        for group in parts(depth / lanes, widest(simd::registers())) {
            let of = group.start * lanes..group.end * lanes;
            let rows = values[of.start * terms..of.end * terms].chunks_exact_mut(of.len());
            rows.enumerate().for_each(|(term, values)| write(term, of.clone(), values));
        }
        Self { terms, channels: depth, values }
    }

    /// The values of the group of channels that begins with channel `first`.
    pub fn of(&self, first: usize) -> *const f32 {
        self.values[first * self.terms..].as_ptr()
    }
}

/// The most registers of channels in a tile, given how many registers there are.
pub fn widest(registers: usize) -> usize {
    if registers >= 32 { 4 } else { 2 }
}

/// What a convolution does with its sums.
#[derive(Clone, Copy)]
pub struct Finish<'a> {
    /// What the sums start from, for all channels.
    pub bias: &'a [f32],
    /// Whether 0 is stored instead of what is below 0.
    pub relu: bool,
    /// An image of the output's size that is added.
    pub addend: Option<From<'a>>,
}

impl Finish<'_> {
    pub fn floor(&self) -> f32 {
        floor(self.relu)
    }
}

/// What is stored instead of anything below it.
pub fn floor(relu: bool) -> f32 {
    if relu { 0.0 } else { f32::NEG_INFINITY }
}

/// Work on a tile of `P` pixels and `N` registers of channels, sizes that the compiler knows.
pub trait Tile {
    fn run<const N: usize, const P: usize>(self);
}

/// The largest number of pixels in a tile of `n` registers of channels.
#[inline(always)]
pub fn most_pixels<S: Simd>(n: usize) -> usize {
    // With three registers of channels and four pixels one sum of AVX2's does not find a register.
    if S::REGISTER_COUNT >= 32 { [12, 12, 8, 6][n - 1] } else { [12, 6][n - 1] }
}

/// Elements that a cache holds together.
const LINE: usize = 16;

/// Runs a tile of these sizes.
#[inline(always)]
pub fn sized(n: usize, p: usize, tile: impl Tile) {
    macro_rules! sizes {
        ($(($n:literal $($p:literal)*))*) => {
            match (n, p) {
                $($(($n, $p) => tile.run::<$n, $p>(),)*)*
                _ => unreachable!("no tile has {n} registers and {p} pixels"),
            }
        };
    }
    sizes!((1 1 2 3 4 5 6 7 8 9 10 11 12) (2 1 2 3 4 5 6 7 8 9 10 11 12) (3 1 2 3 4 5 6 7 8) (4 1 2 3 4 5 6))
}

/// `start[n] + Σ_t Σ_c weights · image[p·step + taps[t] + c·next]` for `P` pixels and `N` registers of
/// channels; c runs over `run` elements, and the weights' registers of two terms are `width` apart. Weights that lie `AHEAD`
/// elements further on are asked for meanwhile; with 0 that is left to the processor.
///
/// # Safety
/// `weights` has as many values, and what is read of `image` exists.
#[inline(always)]
pub unsafe fn tile<S: Simd, const N: usize, const P: usize, const AHEAD: usize>(
    simd: S,
    (mut weights, width): (*const f32, usize),
    (taps, (run, next)): (&[usize], (usize, usize)),
    (image, step): (*const f32, usize),
    start: [S::f32s; N],
) -> [[S::f32s; N]; P] {
    unsafe {
        let lanes = S::F32_LANES;
        let asked = if AHEAD > 0 { N * lanes / LINE } else { 0 };
        let mut sums = [start; P];
        for &tap in taps {
            let mut image = image.add(tap);
            for _ in 0..run {
                for line in 0..asked {
                    simd::prefetch(weights.wrapping_add(AHEAD + LINE * line));
                }
                let mut left = start;
                for n in 0..N {
                    left[n] = load(weights.add(n * lanes));
                }
                for p in 0..P {
                    let right = simd.splat_f32s(*image.add(p * step));
                    for n in 0..N {
                        sums[p][n] = simd.mul_add_f32s(left[n], right, sums[p][n]);
                    }
                }
                weights = weights.add(width);
                image = image.add(next);
            }
        }
        sums
    }
}

/// The most that one thread of this machine can do, in 10⁹ floating-point operations a second: the best of
/// several runs of the largest tile, on numbers that stay in the first-level cache.
pub fn peak() -> f64 {
    const TERMS: usize = 64;
    struct Run<'a>(&'a Matrix, &'a [f32], &'a mut [f32]);
    struct Whole<'a, 'b, S>(S, &'b mut Run<'a>);
    impl WithSimd for Run<'_> {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, simd: S) -> usize {
            let n = widest(S::REGISTER_COUNT);
            let p = most_pixels::<S>(n);
            for _ in 0..100 {
                sized(n, p, Whole(simd, &mut self));
            }
            200 * n * p * S::F32_LANES * TERMS
        }
    }
    impl<S: Simd> Tile for Whole<'_, '_, S> {
        #[inline(always)]
        fn run<const N: usize, const P: usize>(self) {
            let Run(matrix, image, out) = self.1;
            // Safety: the sizes below are those of the largest tile there is.
            unsafe {
                let start = [self.0.splat_f32s(0.0); N];
                let weights = (matrix.of(0), N * S::F32_LANES);
                let sums =
                    tile::<S, N, P, 0>(self.0, weights, (&[0], (TERMS, 1)), (image.as_ptr(), TERMS), start);
                for p in 0..P {
                    for n in 0..N {
                        store(out.as_mut_ptr().add((p * N + n) * S::F32_LANES), sums[p][n]);
                    }
                }
            }
        }
    }
    let matrix = Matrix::new(TERMS, 4 * simd::lanes(), |_, _| 1.0);
    let (image, mut out) = (vec![1.0; 12 * TERMS], vec![0.0; 24 * simd::lanes()]);
    let run = |out: &mut [f32]| {
        let start = std::time::Instant::now();
        let operations: usize = (0..100).map(|_| simd::dispatch(Run(&matrix, &image, out))).sum();
        operations as f64 / start.elapsed().as_nanos() as f64
    };
    (0..20).map(|_| run(&mut out)).fold(0.0, f64::max)
}

#[inline(always)]
pub unsafe fn load<V: Copy>(from: *const f32) -> V {
    unsafe { from.cast::<V>().read_unaligned() }
}

#[inline(always)]
pub unsafe fn store<V: Copy>(to: *mut f32, value: V) {
    unsafe { to.cast::<V>().write_unaligned(value) }
}
