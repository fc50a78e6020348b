//! A data set: three splits and a name, from files or from what a program or notebook cell made.

use super::{Preprocessing, Split, Test, Train, Validation, preprocess::Pixels};
use crate::error::{bail, error};
use crate::{Result, Rng};
use candle_core::{DType, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::sync::Arc;

/// A data set with its three splits.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name that every figure and table shows: `MNIST`, or `MNIST-5k` for the small one.
    pub name: String,
    /// The classes' names, by label; numbers where they have none.
    pub classes: Vec<String>,
    /// What weights are trained on.
    pub train: Split<Train>,
    /// Held out of the training images, every class in proportion; thresholds are chosen on it.
    pub validation: Split<Validation>,
    /// What results are reported on.
    pub test: Split<Test>,
    /// Checksum of all images and labels, and of how images are preprocessed.
    pub checksum: u32,
}

/// Images (channels × height × width bytes each) and labels as they come, before a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Channels, height, width.
    pub image: [usize; 3],
    /// Images one after another, and their labels.
    pub train: (Vec<u8>, Vec<u8>),
    /// Likewise.
    pub test: (Vec<u8>, Vec<u8>),
}

/// Seed of the split into Train and Validation: part of what the data set is, not of an experiment.
const SPLIT_SEED: u64 = 1;

impl Raw {
    /// CRC-32 of images and labels, training files first.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for part in [&self.train.0, &self.train.1, &self.test.0, &self.test.1] {
            hasher.update(part);
        }
        hasher.finalize()
    }

    /// Fails where images and labels do not match or there are none. `origin` is for the message.
    pub(super) fn check(&self, origin: &str) -> Result<()> {
        let size: usize = self.image.iter().product();
        for (part, (images, labels)) in [("training", &self.train), ("test", &self.test)] {
            if labels.is_empty() || images.len() != labels.len() * size {
                bail!(
                    File,
                    "{origin}: images and labels do not match: {} bytes of {part} images of shape {:?} for {} labels",
                    images.len(),
                    self.image,
                    labels.len()
                )
            }
        }
        Ok(())
    }
}

impl Dataset {
    /// A data set called `name` of the images and labels in `raw`. One training sample in `held_out` is
    /// held out for Validation, every class in proportion. Class names may be left empty: then the
    /// classes are numbers from 0 to the largest label.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// // 40 + 10 images of one channel and 2×2 pixels, in two classes.
    /// let part = |n: usize| (vec![0u8; 4 * n], (0..n).map(|i| (i % 2) as u8).collect());
    /// let raw = Raw { image: [1, 2, 2], train: part(40), test: part(10) };
    /// let data = Dataset::from_arrays("dots", raw, 10, &["even", "odd"])?;
    /// assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (36, 4, 10));
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails when sizes do not fit, nothing or everything would be held out, or a label has no name.
    pub fn from_arrays(name: &str, raw: Raw, held_out: usize, classes: &[&str]) -> Result<Self> {
        raw.check(name)?;
        let largest = raw.train.1.iter().chain(&raw.test.1).max().copied();
        let labels = usize::from(largest.unwrap_or(0)) + 1;
        let classes: Vec<String> = if classes.is_empty() {
            (0..labels).map(|class| class.to_string()).collect()
        } else {
            classes.iter().map(ToString::to_string).collect()
        };
        if classes.len() < labels {
            bail!(
                Setting,
                "{name}: a label is {}, but there are names for {} classes",
                labels - 1,
                classes.len()
            )
        }
        let count = raw.train.1.len();
        let validation = count.checked_div(held_out).unwrap_or(0);
        if validation == 0 || validation == count {
            bail!(
                Setting,
                "{name}: one training sample in {held_out} cannot be held out of {count} for validation"
            )
        }
        let checksum = raw.checksum();
        let all = Split::<Train>::new(raw.train.0, raw.train.1, raw.image)?;
        let (train, validation) = stratified(all.labels(), classes.len(), validation);
        Ok(Self {
            name: name.to_string(),
            classes,
            train: all.select(train),
            validation: all.select(validation),
            test: Split::new(raw.test.0, raw.test.1, raw.image)?,
            checksum,
        })
    }

    /// [`Self::from_arrays`] from tensors: images (samples, channels, height, width), bytes or f32 in
    /// 0..=1, and labels (samples) of any integer type, first for training, then for the test.
    pub fn from_tensors(
        name: &str,
        train: (&Tensor, &Tensor),
        test: (&Tensor, &Tensor),
        held_out: usize,
        classes: &[&str],
    ) -> Result<Self> {
        let (_, channels, height, width) = train.0.dims4()?;
        let part = |(images, labels): (&Tensor, &Tensor)| -> Result<(Vec<u8>, Vec<u8>)> {
            if images.dims4()? != (labels.dims1()?, channels, height, width) {
                bail!(
                    Shape,
                    "{name}: images {:?} and labels {:?} do not fit; expected (samples, {channels}, {height}, {width}) and (samples)",
                    images.dims(),
                    labels.dims()
                )
            }
            let flat = images.flatten_all()?;
            let bytes = match images.dtype() {
                DType::U8 => flat.to_vec1()?,
                _ => {
                    let pixels = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
                    if let Some(pixel) = pixels.iter().find(|x| !(0.0..=1.0).contains(*x)) {
                        bail!(Setting, "{name}: a pixel is {pixel}, expected 0 to 1 (or bytes)")
                    }
                    pixels.iter().map(|x| (x * 255.0).round() as u8).collect()
                }
            };
            let labels = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
            let labels = labels.iter().map(|&label| {
                u8::try_from(label)
                    .map_err(|_| error!(Setting, "{name}: a label is {label}, expected 0 to 255"))
            });
            Ok((bytes, labels.collect::<Result<_>>()?))
        };
        let raw = Raw { image: [channels, height, width], train: part(train)?, test: part(test)? };
        Self::from_arrays(name, raw, held_out, classes)
    }

    /// What every byte of an image becomes before a network sees it, in each channel: (channels, 256)
    /// values. `None` where the pixels of an image are whitened together.
    pub fn byte_values(&self) -> Option<Vec<f32>> {
        let pixels = &self.train.pixels;
        pixels.whitening.is_none().then(|| pixels.table.concat())
    }

    /// The same images, preprocessed in another way, which is fitted on Train where it needs to
    /// be. The whitening of [`Preprocessing::Zca`] takes a minute and is kept in `datasets/`.
    pub fn preprocessed(self, preprocessing: Preprocessing) -> Result<Self> {
        self.preprocessed_with(preprocessing, &mut |_| ())
    }

    /// [`Self::preprocessed`], with a line given to `say` before what takes long.
    pub fn preprocessed_with(
        mut self,
        preprocessing: Preprocessing,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        if preprocessing != Preprocessing::Unit {
            let pixels = Arc::new(Pixels::fit(preprocessing, &self.train, self.checksum, say)?);
            self.checksum ^= crc32fast::hash(preprocessing.to_string().as_bytes());
            self.train.see(pixels.clone());
            self.validation.see(pixels.clone());
            self.test.see(pixels);
        }
        Ok(self)
    }

    /// The same with the validation images among those trained on: for runs that choose nothing. Their accuracy on
    /// Validation says little then.
    pub fn training_on_all(mut self) -> Self {
        let images = [&self.train.images[..], &self.validation.images].concat();
        let labels = [self.train.labels(), self.validation.labels()].concat();
        self.train = self.train.with(images, labels);
        self
    }

    /// The first so many images of each split only: `train` to train on, `held_out` each to validate and
    /// to test on; `None` for all. The name says so.
    pub fn part(mut self, train: Option<usize>, held_out: Option<usize>) -> Self {
        if let Some(count) = train.filter(|&count| count < self.train.len()) {
            self.train = self.train.take(count);
            self.name += &format!(" (trained on {count})");
        }
        if let Some(count) = held_out {
            self.validation = self.validation.take(count);
            self.test = self.test.take(count);
            self.name += &format!(" (tested on {})", self.test.len());
            // Another data set, as far as runs are concerned: their histories tell of it.
            self.checksum ^= crc32fast::hash(&count.to_le_bytes());
        }
        self
    }
}

/// Splits samples into the rest and `held_out` of them, every class in proportion. Both in
/// ascending order.
fn stratified(labels: &[u8], classes: usize, held_out: usize) -> (Vec<usize>, Vec<usize>) {
    let mut rng = Rng::seed_from_u64(SPLIT_SEED);
    let mut by_class = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(i, &label)| by_class[usize::from(label)].push(i));
    let mut chosen = Vec::new();
    let (mut seen, mut taken) = (0, 0);
    for class in &mut by_class {
        class.shuffle(&mut rng);
        // Rounding is carried over, so that the classes' shares add up to `held_out`.
        seen += class.len();
        let upto = seen * held_out / labels.len();
        chosen.extend_from_slice(&class[..upto - taken]);
        taken = upto;
    }
    chosen.sort_unstable();
    let rest = (0..labels.len()).filter(|i| chosen.binary_search(i).is_err()).collect();
    (rest, chosen)
}
