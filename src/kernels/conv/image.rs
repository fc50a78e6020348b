//! Where activations lie in memory.

use super::share::{Share, Shared};
use super::transpose::transpose;
use crate::simd::{SLACK, lanes};

/// Activations that are read: their layout, and the images one after another.
pub type From<'a> = (&'a Image, &'a [f32]);
/// Activations that are written.
pub type To<'a> = (&'a Image, Shared);

/// The layout of one activation, an image or a vector (one pixel). The channels of a pixel lie side by
/// side, filled up with zeros to whole registers; around the image lie the zeros that convolutions read,
/// so that they need no copy with padding. The network's input alone is planar, as it comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Image {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Zeros around the image, in pixels.
    pub border: usize,
    /// More zeros to the right and below.
    pub beyond: usize,
    pub planar: bool,
    /// The distance of two pixels: channels, with the zeros behind them.
    pub depth: usize,
    /// Elements behind it, so that no loop needs a masked tail.
    pub slack: usize,
    /// Where an element is a byte, a whole number of a grid: the number of 0, which lies around the image.
    pub zero: Option<u8>,
}

impl Image {
    pub fn new([channels, height, width]: [usize; 3]) -> Self {
        let depth = channels.next_multiple_of(lanes());
        Self { channels, height, width, border: 0, beyond: 0, planar: false, depth, slack: SLACK, zero: None }
    }

    /// One of bytes.
    pub fn of_bytes(shape: [usize; 3], zero: u8) -> Self {
        Self { depth: shape[0].next_multiple_of(SLACK), zero: Some(zero), ..Self::new(shape) }
    }

    /// One without zeros, as it lies in a tensor.
    pub fn dense(shape: [usize; 3]) -> Self {
        Self { depth: shape[0], slack: 0, ..Self::new(shape) }
    }

    /// The network's input.
    pub fn planar(shape: [usize; 3]) -> Self {
        Self { planar: true, depth: 1, ..Self::new(shape) }
    }

    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// The distance of two rows.
    #[inline(always)]
    pub fn row(&self) -> usize {
        (self.width + 2 * self.border + self.beyond) * self.depth
    }

    #[inline(always)]
    fn plane(&self) -> usize {
        (self.height + 2 * self.border + self.beyond) * self.row()
    }

    /// Where pixel (y, x) of the first channel lies; borders count, so that both may be negative down to
    /// the border.
    #[inline(always)]
    pub fn at(&self, y: isize, x: isize) -> usize {
        let (y, x) = (y + self.border as isize, x + self.border as isize);
        y as usize * self.row() + x as usize * self.depth
    }

    /// Elements of one image.
    #[inline(always)]
    pub fn len(&self) -> usize {
        let len = self.plane() * if self.planar { self.channels } else { 1 } + self.slack;
        if self.zero.is_some() { len.next_multiple_of(4 * SLACK) } else { len }
    }

    /// Elements of a buffer of f32 that it takes.
    pub fn room(&self) -> usize {
        if self.zero.is_some() { self.len() / 4 } else { self.len() }
    }

    /// The elements of an image as runs without gaps: their length, where each begins, and for each of its
    /// elements the place in (channels, height, width), or nothing for a zero that fills a register.
    pub fn runs(&self) -> (usize, Vec<usize>, impl Fn(usize, usize) -> Option<usize> + use<>) {
        let Self { channels, height, width, planar, .. } = *self;
        let (depth, rows) = (self.depth, if planar { channels * height } else { height });
        // The rows of an image without a border are one run.
        let joined = if !planar && self.border + self.beyond == 0 { rows } else { 1 };
        let starts = (0..rows / joined)
            .map(|run| run / height * self.plane() + self.at((run % height) as isize, 0))
            .collect();
        let place = move |run: usize, i: usize| {
            if planar {
                return (i < width).then_some(run * width + i);
            }
            let (pixel, channel) = (run * width + i / depth, i % depth);
            (channel < channels).then_some(channel * height * width + pixel)
        };
        (joined * width * depth, starts, place)
    }

    /// Copies an image (channels, height, width) into a planar one.
    pub fn load(&self, values: &[f32], to: &mut [f32]) {
        for (i, row) in values.chunks(self.width).enumerate() {
            let at = i / self.height * self.plane() + self.at((i % self.height) as isize, 0);
            to[at..at + self.width].copy_from_slice(row);
        }
    }

    /// Copies the pixels of an image (channels, height, width) to places `apart` from each other in one whose
    /// channels lie side by side; between them lie zeros.
    pub fn pack(&self, values: &[f32], apart: usize, to: &mut [f32]) {
        let (width, height) = (self.width.div_ceil(apart), self.height.div_ceil(apart));
        let plane = values.len() / self.channels;
        let rows = plane / width;
        debug_assert!(rows <= height);
        // Some rows of few channels at a time: of more planes at once the processor loads nothing ahead.
        const BAND: usize = 8;
        let few = if self.channels.is_multiple_of(BAND) { BAND } else { self.channels };
        for top in (0..rows).step_by(BAND) {
            for first in (0..self.channels).step_by(few) {
                for y in top..rows.min(top + BAND) {
                    let from = (&values[first * plane + y * width..], plane);
                    let to = &mut to[self.at((y * apart) as isize, 0) + first..];
                    transpose(from, (to, apart * self.depth), few, width);
                }
            }
        }
    }

    /// Copies an image whose channels lie side by side, without zeros around it, to one (channels, height, width).
    pub fn unpack(&self, from: &[f32], values: &mut [f32]) {
        let plane = self.height * self.width;
        debug_assert_eq!(self.border + self.beyond, 0);
        transpose((from, self.depth), (values, plane), plane, self.channels);
    }

    /// The place of tap (channel, y, x) of a kernel under the pixel at its top left.
    #[inline(always)]
    pub fn tap(&self, channel: usize, y: usize, x: usize) -> usize {
        let channel = if self.planar { channel * self.plane() } else { channel };
        channel + y * self.row() + x * self.depth
    }
}

/// Calls `row(number, y, out)` for this share of the rows of `images` images, with the elements of a row.
#[inline(always)]
pub fn rows<T>(
    (to, out): (&Image, Shared<T>),
    images: usize,
    share: Share,
    mut row: impl FnMut(usize, isize, &mut [T]),
) {
    for n in share.of(images * to.height) {
        let (number, y) = (n / to.height, (n % to.height) as isize);
        // Safety: a row belongs to one share.
        let out = unsafe { out.write(number * to.len() + to.at(y, 0), to.width * to.depth) };
        row(number, y, out);
    }
}
