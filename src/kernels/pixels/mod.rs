//! Training on the CPU with the channels of each pixel side by side, or where these are few, sixteen images.
//!
//! Convolutions compute in this layout, so that nothing is transposed. And a normalisation is not carried out, which
//! would read and write all activations: what stands behind it reads them through it ([`Pixels`]). On the way back the
//! gradient of a normalisation's input is computed where the convolution before it reads it ([`PixelGrad`]), and that
//! convolution sums up what the normalisation before asks for.

mod add;
mod convolve;
mod images;
mod lrn;
mod normalise;
mod pool;

pub use convolve::ConvGrads;
use images::IMAGES;
use normalise::Norm;

use super::Moments;
use crate::conv::{Image, transpose};
use crate::simd::{self, Aligned, at_least, vectorized};
use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// What lies side by side in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The channels of a pixel: (batch, height, width, channels).
    Channels,
    /// What sixteen images have at one place of a channel: (groups of images · channels, height, width, 16). Behind
    /// the last of so many images pixels are anything, and gradients 0.
    Images(usize),
}

impl Beside {
    /// So many images, where that is faster for few channels: registers are wide, and the batch fills half of a group.
    pub fn images(batch: usize) -> Option<Self> {
        (simd::lanes() >= 8 && 2 * batch >= IMAGES).then_some(Self::Images(batch))
    }
}

/// Images of f32 on the CPU, as they are read.
#[derive(Debug, Clone)]
pub struct Pixels {
    /// As [`Beside`] says.
    values: Tensor,
    beside: Beside,
    /// Of each channel of the values, where a convolution gave them.
    moments: Option<Moments>,
    /// What they are read through.
    norm: Option<Arc<Norm>>,
    /// Whether they are read through a rectifier, behind the normalisation.
    rectified: bool,
}

/// The gradient of [`Pixels`].
#[derive(Debug, Clone)]
pub struct PixelGrad {
    /// As [`Beside`] says.
    values: Tensor,
    beside: Beside,
    /// What is added to them, the gradient that another reader of the pixels gives; then they are read through nothing.
    plus: Option<Tensor>,
    /// What they are read through: the way back through the normalisation or the rectifier behind these pixels.
    through: Option<Arc<Through>>,
    /// Whether they are read through no more than a rectifier behind the normalisation of these pixels.
    rectified: bool,
    /// Of every channel what the normalisation that these pixels were read through asks for, where it is known.
    sums: Option<Sums>,
}

/// Of every channel Σ g and Σ g · (x − mean), g being the gradient where it counts.
type Sums = Vec<[f64; 2]>;

/// The gradient of a normalisation's input: where `x · steep + low` is above 0, `g · slope + x · by_x + start`, else
/// `x · by_x + start`.
#[derive(Debug)]
struct Through {
    x: Tensor,
    /// steep, low, slope, by_x and start of every channel.
    lines: [Vec<f32>; 5],
}

/// The elements of a tensor of f32 on the CPU.
struct Floats<G>(G, Range<usize>);

/// The elements of a tensor, which must be contiguous.
fn floats(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage> + Sync>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Floats(storage, start..end)),
        _ => bail!("internal error: pixels are contiguous f32 on the CPU"),
    }
}

impl<G: Deref<Target = Storage>> Deref for Floats<G> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.0 {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.1.clone()],
            _ => unreachable!("checked when it was made"),
        }
    }
}

/// (height, width, channels) of a tensor of pixels, with the batch in front. With images side by side each plane counts as
/// an image, and they as its channels.
fn sizes(values: &Tensor) -> Result<(usize, [usize; 3])> {
    let (batch, height, width, channels) = values.dims4()?;
    Ok((batch, [height, width, channels]))
}

/// Numbers of every channel as often as a row has pixels: rows are then computed without a look at channels.
fn across<const N: usize>(numbers: [&[f32]; N], width: usize) -> [Vec<f32>; N] {
    numbers.map(|numbers| numbers.repeat(width))
}

/// The sums of a row's pixels, one for each channel: they come to stand in its first pixel.
#[inline(always)]
fn fold(row: &mut [f32], channels: usize) -> &[f32] {
    let (sums, pixels) = row.split_at_mut(channels);
    for pixel in pixels.chunks_exact(channels) {
        sums.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += x);
    }
    sums
}

/// A gradient where the value is above 0, and 0 elsewhere.
#[inline(always)]
fn where_above(value: f32, grad: f32) -> f32 {
    if value > 0.0 { grad } else { 0.0 }
}

/// Rows of pixels as they are read.
trait Rows: Sync {
    /// Writes row `row`, counted over all images.
    fn read(&self, row: usize, to: &mut [f32]);
}

/// Rows of [`Pixels`].
struct Read<'a> {
    values: &'a [f32],
    /// Elements of a row.
    len: usize,
    line: Option<([Vec<f32>; 2], f32)>,
}

impl Read<'_> {
    /// The pixels of an image of so many rows: as they lie, or read into `room`.
    fn image<'a>(&'a self, image: usize, rows: usize, room: &'a mut Vec<f32>) -> &'a [f32] {
        let len = rows * self.len;
        if self.line.is_none() {
            return &self.values[image * len..][..len];
        }
        *room = super::unset(len);
        read_image(self, image, self.len, room);
        room
    }

    /// The row without what it is read through.
    #[inline(always)]
    fn raw(&self, row: usize) -> &[f32] {
        &self.values[row * self.len..][..self.len]
    }
}

impl Rows for Read<'_> {
    #[inline(always)]
    fn read(&self, row: usize, to: &mut [f32]) {
        match &self.line {
            None => to.copy_from_slice(self.raw(row)),
            Some(([slope, start], floor)) => {
                let (x, len) = (self.raw(row), self.len);
                let (to, slope, start) = (&mut to[..len], &slope[..len], &start[..len]);
                for i in 0..len {
                    to[i] = at_least(*floor, x[i] * slope[i] + start[i]);
                }
            }
        }
    }
}

/// Rows of [`PixelGrad`].
struct ReadGrad<'a> {
    values: &'a [f32],
    len: usize,
    through: Option<(&'a [f32], [Vec<f32>; 5])>,
}

impl Rows for ReadGrad<'_> {
    #[inline(always)]
    fn read(&self, row: usize, to: &mut [f32]) {
        let grad = &self.values[row * self.len..][..self.len];
        match &self.through {
            None => to.copy_from_slice(grad),
            Some((x, [steep, low, slope, by_x, start])) => {
                // Slices of one length, and plain indices: only so the compiler makes vectors of it.
                let len = self.len;
                let (to, x) = (&mut to[..len], &x[row * len..][..len]);
                let (steep, low, slope) = (&steep[..len], &low[..len], &slope[..len]);
                let (by_x, start) = (&by_x[..len], &start[..len]);
                for i in 0..len {
                    let grad = where_above(x[i] * steep[i] + low[i], grad[i]);
                    to[i] = grad * slope[i] + (x[i] * by_x[i] + start[i]);
                }
            }
        }
    }
}

/// Images that `write` writes, in parallel, given their numbers, and what it says of each.
fn map_images<T: Send>(
    batch: usize,
    len: usize,
    write: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut out = super::unset(batch * len);
    // A task handles so many elements, so that starting it costs less than running it.
    let images = out.par_chunks_mut(len).enumerate().with_min_len(((1 << 14) / len).max(1));
    let said = images.map(|(image, out)| write(image, out)).collect();
    (out, said)
}

/// [`map_images`] of which nothing is said.
fn write_images(batch: usize, len: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    map_images(batch, len, write).0
}

/// Writes the rows of an image as they are read.
fn read_image(rows: &impl Rows, image: usize, row: usize, out: &mut [f32]) {
    let first = image * (out.len() / row);
    vectorized(
        #[inline(always)]
        || {
            for (y, to) in out.chunks_exact_mut(row).enumerate() {
                rows.read(first + y, to);
            }
        },
    );
}

/// Images (batch, channels, height, width) with their channels side by side.
fn side_by_side(planes: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = planes.dims4()?;
    let (planes, len) = (planes.contiguous()?, height * width * channels);
    let image = Image::dense([channels, height, width]);
    let values = floats(&planes)?;
    // A transposed row may write zeros behind itself.
    let slack = simd::SLACK;
    let out = write_images(batch, len, |i, out| {
        let mut pixels = vec![0.0; len + slack];
        image.pack(&values[i * len..][..len], 1, &mut pixels);
        out.copy_from_slice(&pixels[..len]);
    });
    Tensor::from_vec(out, (batch, height, width, channels), planes.device())
}

/// Images (batch, channels, height, width) with so many of them side by side.
fn images_side_by_side(planes: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = planes.dims4()?;
    let (planes, len, groups) = (planes.contiguous()?, height * width * channels, batch.div_ceil(IMAGES));
    let values = floats(&planes)?;
    let out = write_images(groups, len * IMAGES, |group, out| {
        let images = IMAGES.min(batch - group * IMAGES);
        if images < IMAGES {
            out.fill(0.0);
        }
        transpose((&values[group * IMAGES * len..], len), (out, IMAGES), images, len);
    });
    Tensor::from_vec(out, (groups * channels, height, width, IMAGES), planes.device())
}

impl Pixels {
    fn new(values: Tensor, beside: Beside) -> Self {
        Self { values, beside, moments: None, norm: None, rectified: false }
    }

    /// Other values that lie in the same way.
    fn with(&self, values: Tensor) -> Self {
        Self::new(values, self.beside)
    }

    /// Images (batch, channels, height, width) of f32 on the CPU.
    pub fn of_planes(planes: &Tensor, beside: Beside) -> Result<Self> {
        let values = match beside {
            Beside::Channels => side_by_side(planes)?,
            Beside::Images(batch) if batch == planes.dim(0)? => images_side_by_side(planes)?,
            Beside::Images(batch) => {
                bail!("internal error: {batch} images side by side, not {:?}", planes.dims())
            }
        };
        Ok(Self::new(values, beside))
    }

    /// The images (batch, channels, height, width).
    pub fn planes(&self) -> Result<Tensor> {
        let ((count, [height, width, _]), [channels, ..]) = (sizes(&self.values)?, self.shape()?);
        let (values, len) = (floats(&self.values)?, height * width * channels);
        let rows = self.rows(&values)?;
        let (batch, out) = match self.beside {
            Beside::Channels => {
                let image = Image::dense([channels, height, width]);
                let out = write_images(count, len, |i, out| {
                    image.unpack(rows.image(i, height, &mut Vec::new()), out);
                });
                (count, out)
            }
            Beside::Images(batch) => {
                let mut out = super::unset(batch * len);
                out.par_chunks_mut(IMAGES * len).enumerate().for_each(|(group, out)| {
                    let (images, mut room) = (out.len() / len, Vec::new());
                    let pixels = rows.image(group, channels * height, &mut room);
                    transpose((pixels, IMAGES), (out, len), len, images);
                });
                (batch, out)
            }
        };
        Tensor::from_vec(out, (batch, channels, height, width), self.values.device())
    }

    /// The same images with something else side by side.
    pub fn arranged(self, beside: Beside) -> Result<Self> {
        if self.beside == beside { Ok(self) } else { Self::of_planes(&self.planes()?, beside) }
    }

    /// What lies side by side.
    pub fn beside(&self) -> Beside {
        self.beside
    }

    /// The number of images.
    pub fn batch(&self) -> Result<usize> {
        match self.beside {
            Beside::Channels => self.values.dim(0),
            Beside::Images(batch) => Ok(batch),
        }
    }

    /// (channels, height, width) of an image.
    pub fn shape(&self) -> Result<[usize; 3]> {
        let (count, [height, width, side]) = sizes(&self.values)?;
        let channels = match self.beside {
            Beside::Channels => side,
            Beside::Images(batch) => count / batch.div_ceil(IMAGES),
        };
        Ok([channels, height, width])
    }

    fn rows<'a>(&self, values: &'a [f32]) -> Result<Read<'a>> {
        let (_, [_, width, channels]) = sizes(&self.values)?;
        let floor = if self.rectified { 0.0 } else { f32::NEG_INFINITY };
        let line = match &self.norm {
            Some(norm) => Some((across([&norm.slope, &norm.start], width), floor)),
            None if self.rectified => {
                Some((across([&vec![1.0; channels], &vec![0.0; channels]], width), floor))
            }
            None => None,
        };
        Ok(Read { values, len: width * channels, line })
    }
}

impl PixelGrad {
    fn new(values: Tensor, beside: Beside) -> Self {
        Self { values, beside, plus: None, through: None, rectified: false, sums: None }
    }

    /// A gradient (batch, channels, height, width) of f32 on the CPU.
    pub fn of_planes(planes: &Tensor, beside: Beside) -> Result<Self> {
        Ok(Self::new(Pixels::of_planes(planes, beside)?.values, beside))
    }

    /// The gradient (batch, channels, height, width).
    pub fn planes(self) -> Result<Tensor> {
        let grad = self.alone()?;
        Pixels::new(grad.values, grad.beside).planes()
    }

    /// The same gradient with something else side by side.
    pub fn arranged(self, beside: Beside) -> Result<Self> {
        if self.beside == beside { Ok(self) } else { Self::of_planes(&self.planes()?, beside) }
    }

    /// What lies side by side.
    pub fn beside(&self) -> Beside {
        self.beside
    }

    /// The sum of two gradients of the same pixels.
    pub fn plus(self, other: Self) -> Result<Self> {
        let other = other.arranged(self.beside)?.alone()?;
        let one = self.alone()?;
        let sums = one.sums.zip(other.sums).map(|(one, other)| {
            one.iter().zip(other).map(|(one, other)| [one[0] + other[0], one[1] + other[1]]).collect()
        });
        Ok(Self { plus: Some(other.values), sums, ..Self::new(one.values, one.beside) })
    }

    /// The same times a number.
    pub fn scale(self, factor: f64) -> Result<Self> {
        let grad = self.alone()?;
        Ok(Self::new((grad.values * factor)?, grad.beside))
    }

    /// The same with what is added to it.
    fn added(self) -> Result<Self> {
        let Some(plus) = &self.plus else { return Ok(self) };
        Ok(Self { values: super::add(&self.values, plus)?, plus: None, ..self })
    }

    /// Its values, and what is to be added to them.
    fn apart(self) -> Result<(Tensor, Option<Tensor>)> {
        let grad = if self.through.is_some() { self.alone()? } else { self };
        Ok((grad.values, grad.plus))
    }

    /// The same with nothing that is added or that it is read through.
    fn alone(self) -> Result<Self> {
        let grad = self.added()?;
        let Some(through) = &grad.through else { return Ok(grad) };
        let (batch, [height, width, channels]) = sizes(&grad.values)?;
        let (values, x) = (floats(&grad.values)?, floats(&through.x)?);
        let rows = grad.rows(&values, Some(&x))?;
        let out = write_images(batch, height * width * channels, |i, out| {
            read_image(&rows, i, width * channels, out);
        });
        Ok(Self::new(Tensor::from_vec(out, grad.values.shape(), grad.values.device())?, grad.beside))
    }

    /// Rows of the values, and of those that they are read through.
    fn rows<'a>(&self, values: &'a [f32], x: Option<&'a [f32]>) -> Result<ReadGrad<'a>> {
        let (_, [_, width, channels]) = sizes(&self.values)?;
        let lines = |through: &Arc<Through>| across(through.lines.each_ref().map(Vec::as_slice), width);
        Ok(ReadGrad { values, len: width * channels, through: x.zip(self.through.as_ref().map(lines)) })
    }
}

/// Images with zeros around them, into which rows of pixels are read.
struct Lay {
    image: Image,
    images: Aligned,
    apart: usize,
    rows: usize,
    width: usize,
    /// A row whose pixels are not as far from each other as those of the image.
    row: Vec<f32>,
}

impl Lay {
    /// So many images at most, of rows of so many pixels, which come to lie `apart` from each other.
    fn new(image: Image, count: usize, apart: usize, [rows, width]: [usize; 2]) -> Self {
        let (images, row) = (Aligned::zeros(count * image.len()), vec![0.0; width * image.channels]);
        Self { image, images, apart, rows, width, row }
    }

    /// Reads the rows of these images, and lets `look` see each.
    #[inline(always)]
    fn read(&mut self, numbers: Range<usize>, from: &impl Rows, mut look: impl FnMut(&[f32])) {
        let Self { image, images, apart, rows, width, row } = self;
        let (next, len, rows, width) = (*apart * image.depth, image.len(), *rows, *width);
        vectorized(
            #[inline(always)]
            || {
                for (number, to) in numbers.clone().zip(images.chunks_mut(len)) {
                    for y in 0..rows {
                        let to = &mut to[image.at((y * *apart) as isize, 0)..];
                        let side_by_side = next == image.channels;
                        let read = if side_by_side { &mut to[..width * next] } else { &mut *row };
                        from.read(number * rows + y, read);
                        look(read);
                        if !side_by_side {
                            for (x, pixel) in row.chunks_exact(image.channels).enumerate() {
                                to[x * next..][..image.channels].copy_from_slice(pixel);
                            }
                        }
                    }
                }
            },
        );
    }
}
