//! The layers beside convolutions, where values are whole numbers of a byte ([`Grid`]).

use crate::conv::{Grid, Image, Share, Shared, rows};
use crate::simd;
use crate::{Pool, Pooling};

/// Activations of bytes that are read.
pub type From<'a> = (&'a Image, &'a [u8]);

/// Elements that a loop of fixed length takes at a time.
const CHUNK: usize = 16;

/// The larger of each two bytes: arrays that a loop carries do not become registers by themselves.
#[cfg(target_arch = "x86_64")]
mod chunk {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_max_epu8, _mm_storeu_si128};

    #[inline(always)]
    pub fn of(bytes: &[u8; 16]) -> __m128i {
        // Safety: as many bytes are there.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    pub fn max(a: __m128i, b: __m128i) -> __m128i {
        // Safety: every processor of this architecture has it.
        unsafe { _mm_max_epu8(a, b) }
    }

    #[inline(always)]
    pub fn bytes(chunk: __m128i) -> [u8; 16] {
        let mut bytes = [0; 16];
        // Safety: as above.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), chunk) };
        bytes
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod chunk {
    #[inline(always)]
    pub fn of(bytes: &[u8; 16]) -> [u8; 16] {
        *bytes
    }

    #[inline(always)]
    pub fn max(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
        std::array::from_fn(|i| a[i].max(b[i]))
    }

    #[inline(always)]
    pub fn bytes(chunk: [u8; 16]) -> [u8; 16] {
        chunk
    }
}

/// Calls `row` as [`rows`] does, compiled for this processor.
#[inline(always)]
fn by_rows<T>(
    to: (&Image, Shared<T>),
    images: usize,
    share: Share,
    row: impl Fn(usize, isize, &mut [T]) + Copy,
) {
    simd::vectorized(
        #[inline(always)]
        || rows(to, images, share, row),
    );
}

/// The numbers of f32 values, also of a planar image.
pub fn quantize(
    grid: Grid,
    (from, values): crate::conv::From<'_>,
    to: (&Image, Shared<u8>),
    images: usize,
    share: Share,
) {
    let depth = to.0.depth;
    by_rows(
        to,
        images,
        share,
        #[inline(always)]
        |number, y, out| {
            let row = &values[number * from.len() + from.at(y, 0)..];
            if !from.planar {
                for (pixel, out) in row.chunks(from.depth).zip(out.chunks_mut(depth)) {
                    out.iter_mut().zip(&pixel[..from.channels]).for_each(|(out, &x)| *out = grid.number(x));
                }
                return;
            }
            for channel in 0..from.channels {
                let plane = &row[from.tap(channel, 0, 0)..][..from.width];
                let mut out = out[channel..].iter_mut().step_by(depth);
                for plane in plane.chunks(4 * CHUNK) {
                    let mut numbers = [0; 4 * CHUNK];
                    numbers.iter_mut().zip(plane).for_each(|(number, &x)| *number = grid.number(x));
                    out.by_ref().zip(&numbers[..plane.len()]).for_each(|(out, &number)| *out = number);
                }
            }
        },
    );
}

/// The entry of a table for every number.
pub fn look_up<T: Copy>(
    table: &[T; 256],
    (from, numbers): From<'_>,
    to: (&Image, Shared<T>),
    images: usize,
    share: Share,
) {
    rows(to, images, share, |number, y, out| {
        let row = &numbers[number * from.len() + from.at(y, 0)..];
        for (pixel, out) in row.chunks(from.depth).zip(out.chunks_mut(to.0.depth)) {
            for (out, &number) in out.iter_mut().zip(&pixel[..from.channels]) {
                *out = table[usize::from(number)];
            }
        }
    });
}

/// The largest number of each window.
pub fn pool(pool: &Pool, (from, numbers): From<'_>, to: (&Image, Shared<u8>), images: usize, share: Share) {
    let (depth, step) = (from.depth / CHUNK, from.row() / CHUNK);
    assert!(from.depth == to.0.depth && from.depth == depth * CHUNK && pool.kind != Pooling::Average);
    by_rows(
        to,
        images,
        share,
        #[inline(always)]
        |number, y, out| {
            let top = y as usize * pool.stride;
            let height = pool.kernel.min(from.height - top);
            let row = &numbers[number * from.len() + from.at(top as isize, 0)..].as_chunks::<CHUNK>().0
                [..(height - 1) * step + from.width * depth];
            for (x, out) in out.as_chunks_mut::<CHUNK>().0.chunks_mut(depth).enumerate() {
                let left = x * pool.stride;
                let width = pool.kernel.min(from.width - left);
                for (i, out) in out.iter_mut().enumerate() {
                    let mut largest = chunk::of(&[0; CHUNK]);
                    for y in 0..height {
                        for pixel in row[y * step + left * depth + i..].iter().step_by(depth).take(width) {
                            largest = chunk::max(largest, chunk::of(pixel));
                        }
                    }
                    *out = chunk::bytes(largest);
                }
            }
        },
    );
}

/// The end of a residual block, whose input may have to be subsampled and filled up with channels.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// From pixel to pixel of the input, and channels of zeros in front of its own.
    pub strides: [usize; 2],
    /// Of what the block's layers give, and of its input.
    pub grids: [Grid; 2],
}

impl Sum {
    /// Stores what `store` makes of the rectified sums.
    pub fn run<T>(
        &self,
        (from, body): From<'_>,
        (first, input): From<'_>,
        (to, out): (&Image, Shared<T>),
        (images, share): (usize, Share),
        store: impl Fn(f32) -> T,
    ) {
        let ([stride, front], [of_body, of_input]) = (self.strides, self.grids);
        // A row at once where each element has its own.
        let whole = from.channels == first.channels && stride == 1 && from.depth == to.depth;
        let (step, len) = if whole { (to.width, to.width * to.depth) } else { (1, from.channels) };
        by_rows(
            (to, out),
            images,
            share,
            #[inline(always)]
            |image, y, out| {
                for (x, out) in out.chunks_mut(step * to.depth).enumerate() {
                    let (y, x) = (y as usize * stride, x * stride);
                    let input = &input[image * first.len() + first.at(y as isize, x as isize)..];
                    let body = &body
                        [image * from.len() + from.at((y / stride) as isize, (x / stride) as isize)..][..len];
                    let rectified = |x: f32| store(if x < 0.0 { 0.0 } else { x });
                    if !whole {
                        for (out, &body) in out.iter_mut().zip(body) {
                            *out = rectified(of_body.value(body));
                        }
                    }
                    let input = &input[..if whole { len } else { first.channels }];
                    for ((out, &body), &input) in out[front..].iter_mut().zip(&body[front..]).zip(input) {
                        *out = rectified(of_body.value(body) + of_input.value(input));
                    }
                }
            },
        );
    }
}
