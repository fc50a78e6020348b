//! The gradient of a convolution's kernel: products of pixels and of the output's gradient, summed over
//! pixels and images.

use super::image::{From, Image};
use super::product::{Tile, load, most_pixels, sized, store, tile, widest};
use super::winograd::{
    Block, Eight, Four, SKEW, Scheme, Six, Tiles, add_scaled, kernel_transform, transform,
};
use crate::simd::{self, parts};
use pulp::{Simd, WithSimd};

/// The gradient of the kernel of a convolution of `from` to `to`; kernel, padding, stride.
pub struct Gradient<'a> {
    pub from: &'a Image,
    pub to: &'a Image,
    pub sizes: [usize; 3],
    pub tiles: Option<Tiles>,
}

/// Elements from one transformed tile to the next: powers of two take each other's place in the first-level cache.
fn apart(depth: usize) -> usize {
    if depth.is_multiple_of(64) { depth + SKEW } else { depth }
}

impl Gradient<'_> {
    /// Elements of the sums and of the scratch that [`Self::add`] needs.
    pub fn lens(&self) -> (usize, usize) {
        let (from, to) = (self.from, self.to);
        match self.tiles {
            None => (self.sizes[0].pow(2) * from.channels * to.depth, 0),
            Some(tiles @ Tiles { size, .. }) => {
                let scratch = tiles.block(from, to.depth) * (apart(from.depth) + apart(to.depth)) + 2 * SKEW;
                (size * size * from.channels * to.depth, size * size * scratch)
            }
        }
    }

    /// Adds what `images` images, and the gradients `grads` of their outputs, contribute to the sums.
    pub fn add(&self, x: &[f32], grads: &[f32], images: usize, scratch: &mut [f32], sums: &mut [f32]) {
        let (from, to, [kernel, padding, _]) = (self.from, self.to, self.sizes);
        assert!(images * from.len() <= x.len() && images * to.len() <= grads.len());
        assert!(from.border >= padding && (sums.len(), scratch.len()) == self.lens());
        let (x, grads) = ((from, x), (to, grads));
        match self.tiles {
            // Safety of both: what is read lies inside the images and the zeros around them.
            None => {
                assert!(from.depth == from.channels && to.border + to.beyond == 0);
                simd::dispatch(Definition { sizes: self.sizes, x, grads, images, sums });
            }
            Some(tiles) => {
                for (from, to) in [(from.height, to.height), (from.width, to.width)] {
                    assert!(self.from.beyond >= tiles.beyond(from + 2 * padding, kernel));
                    assert!(self.to.beyond >= to.next_multiple_of(tiles.results) - to);
                }
                let block = tiles.block(from, to.depth);
                let run = ByTiles { padding, block, x, grads, images, scratch, sums };
                match (tiles.size, tiles.results) {
                    (4, 2) => simd::dispatch(By::<Four, 4, 2>(run, Four)),
                    (6, 4) => simd::dispatch(By::<Six, 6, 4>(run, Six)),
                    (6, 2) => simd::dispatch(By::<Six, 6, 2>(run, Six)),
                    (8, 4) => simd::dispatch(By::<Eight, 8, 4>(run, Eight)),
                    _ => unreachable!("no such tiles"),
                }
            }
        }
    }

    /// The gradient (kernel, kernel, inputs, the output image's depth) that the sums amount to.
    pub fn finish(&self, sums: &[f32]) -> Vec<f32> {
        let Some(tiles) = self.tiles else { return sums.to_vec() };
        let transform = kernel_transform(tiles);
        let (size, kernel) = (transform.len(), transform[0].len());
        let len = self.from.channels * self.to.depth;
        let mut columns = vec![0.0; kernel * size * len];
        let mut out = vec![0.0; kernel * kernel * len];
        // Transposed, the transform goes from products to the kernel's places: first down, then across.
        simd::vectorized(
            #[inline(always)]
            || {
                for y in 0..kernel {
                    for i in 0..size {
                        let to = &mut columns[y * size * len..][..size * len];
                        add_scaled(to, &sums[i * size * len..], transform[i][y]);
                    }
                }
                for y in 0..kernel {
                    for x in 0..kernel {
                        for j in 0..size {
                            let to = &mut out[(y * kernel + x) * len..][..len];
                            add_scaled(to, &columns[(y * size + j) * len..], transform[j][x]);
                        }
                    }
                }
            },
        );
        out
    }
}

/// By the definition.
struct Definition<'a> {
    sizes: [usize; 3],
    x: From<'a>,
    grads: From<'a>,
    images: usize,
    sums: &'a mut [f32],
}

impl WithSimd for Definition<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes: [kernel, padding, stride], x: (from, x), grads: (to, grads), images, sums } = self;
        let (padding, row) = (padding as isize, kernel * from.channels);
        for image in 0..images {
            for y in 0..kernel {
                // Where the pixels lie that the first row of outputs, the second, … meets with this row of the kernel.
                let at = |out: usize| from.at((out * stride + y) as isize - padding, -padding);
                let rows: Vec<usize> = (0..to.height).map(|out| image * from.len() + at(out)).collect();
                let terms = Terms {
                    weights: (grads[image * to.len()..].as_ptr(), to.depth),
                    taps: &rows,
                    run: (to.width, stride * from.depth),
                    image: x.as_ptr(),
                };
                outer(simd, &terms, to.depth, &mut sums[y * row * to.depth..][..row * to.depth]);
            }
        }
    }
}

/// By Winograd's tiles: transformed, pixels and gradients are multiplied number by number, and the sums of
/// these products are transformed back once.
struct ByTiles<'a> {
    padding: usize,
    block: usize,
    x: From<'a>,
    grads: From<'a>,
    images: usize,
    scratch: &'a mut [f32],
    sums: &'a mut [f32],
}

struct By<'a, T, const A: usize, const M: usize>(ByTiles<'a>, T);

impl<T: Scheme<A, M>, const A: usize, const M: usize> WithSimd for By<'_, T, A, M> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ByTiles { padding, block, x: (from, x), grads: (to, grads), images, scratch, sums } = self.0;
        let padding = padding as isize;
        let (next_pixels, next_outputs) = (apart(from.depth), apart(to.depth));
        let (pixels, outputs) = scratch.split_at_mut(A * A * (block * next_pixels + SKEW));
        let all = images * Tiles { size: A, results: M }.count(to);
        for tiles in (0..all).step_by(block) {
            let tiles = tiles..all.min(tiles + block);
            let steps = (tiles.len() * next_pixels + SKEW, tiles.len() * next_outputs + SKEW);
            let tiles = Block::new::<M>(to, tiles);
            for (i, &(image, y, x_)) in tiles.places.iter().enumerate() {
                let (y, x_) = (y as isize, x_ as isize);
                // Safety: `Gradient::add` has asserted that tiles lie inside the images and their zeros.
                unsafe {
                    let at = x.as_ptr().add(image * from.len() + from.at(y - padding, x_ - padding));
                    let into = pixels.as_mut_ptr().add(i * next_pixels);
                    transform::<S, A, A>(
                        simd,
                        at,
                        from,
                        into,
                        steps.0,
                        #[inline(always)]
                        |d| T::input(simd, d),
                    );
                    let at = grads.as_ptr().add(image * to.len() + to.at(y, x_));
                    let into = outputs.as_mut_ptr().add(i * next_outputs);
                    transform::<S, M, A>(
                        simd,
                        at,
                        to,
                        into,
                        steps.1,
                        #[inline(always)]
                        |d| T::gradient(simd, d),
                    );
                }
            }
            for (i, sums) in sums.chunks_mut(from.channels * to.depth).enumerate() {
                let with = tiles.with::<A>(i);
                let terms = Terms {
                    weights: (outputs[i * steps.1 + with.start * next_outputs..].as_ptr(), next_outputs),
                    taps: &[0],
                    run: (with.len(), next_pixels),
                    image: pixels[i * steps.0 + with.start * next_pixels..].as_ptr(),
                };
                outer(simd, &terms, to.depth, sums);
            }
        }
    }
}

/// Terms of a sum of outer products: as [`tile`] takes them.
struct Terms<'a> {
    weights: (*const f32, usize),
    taps: &'a [usize],
    run: (usize, usize),
    image: *const f32,
}

/// Adds the outer products of elements that lie side by side, one for each row of `sums`, and of `depth` weights to `sums`.
#[inline(always)]
fn outer<S: Simd>(simd: S, terms: &Terms<'_>, depth: usize, sums: &mut [f32]) {
    struct Outer<'a, S> {
        simd: S,
        terms: &'a Terms<'a>,
        row: usize,
        first: usize,
        depth: usize,
        sums: *mut f32,
    }
    impl<S: Simd> Tile for Outer<'_, S> {
        #[inline(always)]
        fn run<const N: usize, const P: usize>(self) {
            let Self { simd, terms, row, first, depth, sums } = self;
            let (weights, width) = terms.weights;
            let start = [simd.splat_f32s(0.0); N];
            // Safety: the callers say so of what is read; `sums` has a row for each element.
            unsafe {
                let (weights, image) = ((weights.add(first), width), (terms.image.add(row), 1));
                let more = tile::<S, N, P, 0>(simd, weights, (terms.taps, terms.run), image, start);
                for p in 0..P {
                    for n in 0..N {
                        let to = sums.add((row + p) * depth + first + n * S::F32_LANES);
                        store(to, simd.add_f32s(load(to), more[p][n]));
                    }
                }
            }
        }
    }
    assert!(sums.len().is_multiple_of(depth));
    let rows = sums.len() / depth;
    for group in parts(depth / S::F32_LANES, widest(S::REGISTER_COUNT)) {
        for rows in parts(rows, most_pixels::<S>(group.len())) {
            let first = group.start * S::F32_LANES;
            sized(
                group.len(),
                rows.len(),
                Outer { simd, terms, row: rows.start, first, depth, sums: sums.as_mut_ptr() },
            );
        }
    }
}
