//! Images with their labels, and the batches that networks see.

use super::preprocess::Pixels;
#[cfg(feature = "cuda")]
use super::resident::Resident;
use super::{Role, SHIFT};
use crate::{Result, Rng, bail};
use candle_core::{Device, Tensor};
use rand::Rng as _;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Images (u8, channels × height × width each) with their labels.
#[derive(Clone)]
pub struct Split<R> {
    pub(super) images: Vec<u8>,
    pub(super) labels: Vec<u32>,
    image: [usize; 3],
    pub(super) pixels: Arc<Pixels>,
    #[cfg(feature = "cuda")]
    resident: Arc<std::sync::OnceLock<Resident>>,
    role: PhantomData<R>,
}

/// What a notebook cell shows that ends in a data set: not every pixel.
impl<R> fmt::Debug for Split<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, height, width] = self.image;
        write!(f, "{} images of {channels}×{height}×{width}", self.labels.len())
    }
}

/// How training images are altered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Augmentation {
    /// Shifted by up to 4 pixels either way, black coming in from the side, and flipped left to right half of
    /// the time.
    #[default]
    Random,
    /// Shifted by up to 2 pixels, the image mirrored at its edges, and flipped in every other epoch, half of the
    /// images in the first (Keller Jordan's airbench, <https://arxiv.org/abs/2404.00498>).
    Alternating,
    /// Shifted as at random, and flipped in every other epoch.
    Wide,
}

/// How an image is altered: pixel (y, x) of the result is pixel (y + down − SHIFT, x + right − SHIFT)
/// of the image, mirrored at its edges or black outside, and then the whole may be flipped.
pub(super) struct Alteration {
    down: usize,
    right: usize,
    flip: bool,
    mirrored: bool,
}

impl Alteration {
    #[cfg(feature = "cuda")]
    const NONE: Self = Self { down: SHIFT, right: SHIFT, flip: false, mirrored: false };

    /// For this sample in this epoch, from 1.
    fn draw(augmentation: Augmentation, sample: usize, epoch: usize, rng: &mut Rng) -> Self {
        let (reach, mirrored) = match augmentation {
            Augmentation::Random | Augmentation::Wide => (SHIFT, false),
            Augmentation::Alternating => (2, true),
        };
        Self {
            down: rng.random_range(SHIFT - reach..=SHIFT + reach),
            right: rng.random_range(SHIFT - reach..=SHIFT + reach),
            flip: match augmentation {
                Augmentation::Random => rng.random(),
                // Half of the images, whatever the seed is.
                _ => (crc32fast::hash(&sample.to_le_bytes()) as usize + epoch).is_multiple_of(2),
            },
            mirrored,
        }
    }

    /// Which pixel of a row or column of `size` the one at `x` shows, if any, when it is moved by `by`.
    fn source(&self, x: usize, by: usize, size: usize) -> Option<usize> {
        let at = x + by;
        match (self.mirrored, at < SHIFT, at < size + SHIFT) {
            (_, false, true) => Some(at - SHIFT),
            (true, true, _) => Some((SHIFT - at).min(size - 1)),
            (true, _, false) => Some((2 * size - 2).saturating_sub(at - SHIFT)),
            (false, ..) => None,
        }
    }

    /// As the GPU's kernel takes it.
    #[cfg(feature = "cuda")]
    pub(super) fn code(&self) -> u32 {
        (self.down | self.right << 8) as u32 | u32::from(self.flip) << 16 | u32::from(self.mirrored) << 17
    }
}

impl<R: Role> Split<R> {
    /// A split of `labels.len()` images of shape `image` (channels, height, width), stored one
    /// after another. Fails when the sizes do not fit.
    pub fn new(images: Vec<u8>, labels: Vec<u32>, image: [usize; 3]) -> Result<Self> {
        let size: usize = image.iter().product();
        if images.len() != labels.len() * size {
            bail!(
                Shape,
                "{} labels need {} bytes of images of shape {image:?}, got {}",
                labels.len(),
                labels.len() * size,
                images.len()
            )
        }
        Ok(Self {
            images,
            labels,
            image,
            pixels: Arc::new(Pixels::unit(image[0])),
            #[cfg(feature = "cuda")]
            resident: Arc::default(),
            role: PhantomData,
        })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The class of every sample.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Fails where a label is none of so many classes, before a loss is computed with it.
    pub(crate) fn check_labels(&self, classes: usize) -> Result<()> {
        match self.labels.iter().find(|&&label| label as usize >= classes) {
            None => Ok(()),
            Some(label) => bail!(
                Setting,
                "an image of the {} split is of class {label} (counted from 0), and the network's exits tell {classes} classes apart; give every exit as many outputs as the data set has classes",
                R::NAME
            ),
        }
    }

    fn check_samples(&self, samples: &[usize]) -> Result<()> {
        match samples.iter().find(|&&sample| sample >= self.len()) {
            None => Ok(()),
            Some(sample) => {
                bail!(
                    Setting,
                    "the {} split has {} samples, and number {sample}, counted from 0, is asked for",
                    R::NAME,
                    self.len()
                )
            }
        }
    }

    /// Channels, height, width.
    pub fn image_shape(&self) -> [usize; 3] {
        self.image
    }

    pub(super) fn image_len(&self) -> usize {
        self.image.iter().product()
    }

    /// The bytes of image `i`. Panics where there is no such image.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..(i + 1) * self.image_len()]
    }

    /// The images of these samples as the network sees them, after the data set's
    /// [`Preprocessing`](super::Preprocessing): f32 (samples, channels, height, width). On a GPU they are made from the
    /// bytes of the split, which are sent there once.
    pub fn batch(&self, samples: &[usize], device: &Device) -> Result<Tensor> {
        self.check_samples(samples)?;
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return self.on_gpu(samples, device, |_| Alteration::NONE);
        }
        let images: Vec<&[u8]> = samples.iter().map(|&i| self.image(i)).collect();
        self.pixels.batch(&images, self.image, device)
    }

    /// The classes of these samples: u32 (samples).
    pub fn batch_labels(&self, samples: &[usize], device: &Device) -> Result<Tensor> {
        self.check_samples(samples)?;
        let labels: Vec<u32> = samples.iter().map(|&i| self.labels[i]).collect();
        Ok(Tensor::new(labels, device)?)
    }

    /// [`Self::batch`] of images that are altered as `augmentation` says in this epoch, from 1.
    pub fn augmented_batch(
        &self,
        samples: &[usize],
        augmentation: Augmentation,
        epoch: usize,
        rng: &mut Rng,
        device: &Device,
    ) -> Result<Tensor> {
        self.check_samples(samples)?;
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return self.on_gpu(samples, device, |i| Alteration::draw(augmentation, i, epoch, rng));
        }
        let altered = self.altered(samples, |i| Alteration::draw(augmentation, i, epoch, rng));
        let images: Vec<&[u8]> = altered.chunks(self.image_len()).collect();
        self.pixels.batch(&images, self.image, device)
    }

    /// All images moved down and to the right by so many pixels, at most 4 either way, mirrored at their edges, and
    /// then flipped left to right where `flip`.
    pub fn moved(&self, down: i8, right: i8, flip: bool) -> Self {
        // An alteration says where pixels come from.
        let from = |by: i8| (SHIFT as isize - isize::from(by)).clamp(0, 2 * SHIFT as isize) as usize;
        let (down, right) = (from(down), from(right));
        let samples: Vec<usize> = (0..self.len()).collect();
        let images = self.altered(&samples, |_| Alteration { down, right, flip, mirrored: true });
        self.with(images, self.labels.clone())
    }

    /// The same labels with images that `change` has altered: it gets the number and the bytes of each (channels,
    /// height, width), on all cores.
    pub fn changed(&self, change: impl Fn(usize, &mut [u8]) + Sync) -> Self {
        let mut images = self.images.clone();
        images.par_chunks_mut(self.image_len()).enumerate().for_each(|(number, image)| change(number, image));
        self.with(images, self.labels.clone())
    }

    /// A split of these images and labels that networks see as they see this one's.
    pub(super) fn with<S>(&self, images: Vec<u8>, labels: Vec<u32>) -> Split<S> {
        Split {
            images,
            labels,
            image: self.image,
            pixels: self.pixels.clone(),
            #[cfg(feature = "cuda")]
            resident: Arc::default(),
            role: PhantomData,
        }
    }

    /// These samples.
    pub(super) fn select<S>(&self, samples: impl IntoIterator<Item = usize>) -> Split<S> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for sample in samples {
            images.extend_from_slice(self.image(sample));
            labels.push(self.labels[sample]);
        }
        self.with(images, labels)
    }

    /// The others, and these samples (in ascending order) apart. The others move together where they are: a second copy of the
    /// images would be the most memory that a training run of a small network ever needs.
    pub(super) fn split_off<S>(mut self, samples: &[usize]) -> (Self, Split<S>) {
        let (off, size) = (self.select(samples.iter().copied()), self.image_len());
        let mut to = samples.first().copied().unwrap_or(self.len());
        for (i, &sample) in samples.iter().enumerate() {
            let kept = sample + 1..samples.get(i + 1).copied().unwrap_or(self.len());
            self.images.copy_within(kept.start * size..kept.end * size, to * size);
            self.labels.copy_within(kept.clone(), to);
            to += kept.len();
        }
        self.images.truncate(to * size);
        self.labels.truncate(to);
        (self, off)
    }

    /// The bytes of these samples, each altered by what `alteration` says.
    fn altered(&self, samples: &[usize], mut alteration: impl FnMut(usize) -> Alteration) -> Vec<u8> {
        let [_, height, width] = self.image;
        let mut altered = vec![0u8; samples.len() * self.image_len()];
        for (&sample, altered) in samples.iter().zip(altered.chunks_mut(self.image_len())) {
            let alteration = alteration(sample);
            let columns: Vec<_> = (0..width).map(|x| alteration.source(x, alteration.right, width)).collect();
            for (row, to) in altered.chunks_mut(width).enumerate() {
                let Some(y) = alteration.source(row % height, alteration.down, height) else { continue };
                let from = &self.image(sample)[(row / height * height + y) * width..][..width];
                for (to, x) in to.iter_mut().zip(&columns) {
                    *to = x.map_or(0, |x| from[x]);
                }
                if alteration.flip {
                    to.reverse();
                }
            }
        }
        altered
    }

    /// The images of these samples, each altered by what `alteration` says, put together on a GPU,
    /// where the split's bytes are sent at the first call.
    #[cfg(feature = "cuda")]
    fn on_gpu(
        &self,
        samples: &[usize],
        device: &Device,
        mut alteration: impl FnMut(usize) -> Alteration,
    ) -> Result<Tensor> {
        let codes = samples.iter().flat_map(|&i| [i as u32, alteration(i).code()]);
        let codes = codes.collect();
        let make = || Resident::new(&self.images, self.image, &self.pixels, device);
        if self.resident.get().is_none() {
            // Another thread may have been faster; then its copy is as good.
            let _ = self.resident.set(make()?);
        }
        match self.resident.get() {
            Some(resident) if resident.is_on(device) => resident.batch(codes),
            _ => make()?.batch(codes),
        }
    }

    /// The first `count` samples only (all, where there are fewer).
    pub fn take(&self, count: usize) -> Self {
        self.select(0..count.min(self.len()))
    }

    pub(super) fn see(&mut self, pixels: Arc<Pixels>) {
        self.pixels = pixels;
        #[cfg(feature = "cuda")]
        {
            self.resident = Arc::default();
        }
    }
}
