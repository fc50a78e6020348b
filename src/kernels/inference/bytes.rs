//! The layers beside convolutions, where values are whole numbers of a byte ([`Grid`]).

use crate::conv::{Grid, Image, Share, Shared, rows};
use crate::simd;
use crate::{Pool, Pooling};

/// Activations of bytes that are read.
pub type From<'a> = (&'a Image, &'a [u8]);

/// Elements that a loop of fixed length takes at a time.
const CHUNK: usize = 16;

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
                for (plane, out) in plane.chunks(CHUNK).zip(out.chunks_mut(CHUNK * depth)) {
                    let mut numbers = [0; CHUNK];
                    numbers.iter_mut().zip(plane).for_each(|(number, &x)| *number = grid.number(x));
                    out.chunks_mut(depth).zip(numbers).for_each(|(pixel, number)| pixel[channel] = number);
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
    assert!(from.depth == to.0.depth && pool.kind != Pooling::Average);
    by_rows(
        to,
        images,
        share,
        #[inline(always)]
        |number, y, out| {
            let top = y as usize * pool.stride;
            let height = pool.kernel.min(from.height - top);
            for (x, out) in out.chunks_mut(from.depth).enumerate() {
                let left = x * pool.stride;
                let width = pool.kernel.min(from.width - left);
                let window = &numbers[number * from.len() + from.at(top as isize, left as isize)..];
                for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                    let mut largest = [0; CHUNK];
                    for y in 0..height {
                        for x in 0..width {
                            let pixel = &window[from.tap(0, y, x) + i * CHUNK..];
                            match pixel[..out.len()].as_array::<CHUNK>() {
                                Some(pixel) => largest = std::array::from_fn(|c| largest[c].max(pixel[c])),
                                None => largest.iter_mut().zip(pixel).for_each(|(a, &b)| *a = b.max(*a)),
                            }
                        }
                    }
                    out.copy_from_slice(&largest[..out.len()]);
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
