//! A data set: three splits and a name, from files or from what a program or notebook cell made.

use super::labels::{self, counts, drawn, stratified};
use super::{Preprocessing, Split, Test, Train, Validation, preprocess::Pixels};
use crate::{Result, bail, error};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// A data set with its three splits.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name that every figure and table shows: `MNIST`, or `MNIST-5k` for the small one.
    pub name: String,
    /// The classes' names, by label; where they have none, the labels as they came, which may begin at 1 or leave some out.
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
    pub train: (Vec<u8>, Vec<u32>),
    /// Likewise.
    pub test: (Vec<u8>, Vec<u32>),
}

impl Raw {
    /// CRC-32 of images and labels, training files first.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for (images, classes) in [&self.train, &self.test] {
            hasher.update(images);
            hasher.update(&labels::bytes(classes).1);
        }
        hasher.finalize()
    }

    /// Fails where images and labels do not match, there are none, or the brightest byte of the training images is 1. `origin`
    /// is for the message.
    pub fn check(&self, origin: &str) -> Result<()> {
        let size: usize = self.image.iter().product();
        for (part, (images, labels)) in [("training", &self.train), ("test", &self.test)] {
            if labels.is_empty() || size == 0 {
                bail!(
                    File,
                    "{origin}: there are {} {part} images of shape {:?}; one or more are expected, of a pixel or more",
                    labels.len(),
                    self.image
                )
            }
            if images.len() != labels.len() * size {
                bail!(
                    File,
                    "{origin}: images and labels do not match: {} bytes of {part} images of shape {:?} for {} labels",
                    images.len(),
                    self.image,
                    labels.len()
                )
            }
        }
        // The first pixel that is brighter ends the search.
        let images = &self.train.0;
        if images.iter().all(|&byte| byte <= 1) && images.contains(&1) {
            bail!(
                File,
                "{origin}: no pixel of a training image is above 1 of 255, which is all but black; multiply images of 0 and 1 by 255"
            )
        }
        Ok(())
    }
}

/// Pixels as bytes: from 0 to 1, where they came as floating point (`float`), as 0 to 255; other whole numbers as they are.
/// Fails on what is neither, with the way out.
pub fn to_bytes(pixels: &[f32], float: bool) -> std::result::Result<Vec<u8>, String> {
    // What resizing and averaging make of 0 and 1.
    const ROUNDING: f32 = 1e-5;
    let (least, most) =
        pixels.iter().fold((f32::MAX, f32::MIN), |(least, most), &x| (least.min(x), most.max(x)));
    if let Some(at) = pixels.iter().position(|x| !x.is_finite()) {
        return Err(format!(
            "value {at} of the pixels is {}; leave out such an image, or set such pixels to 0",
            pixels[at]
        ));
    }
    let byte = |x: &f32| (0.0..=255.0).contains(x) && x.fract() == 0.0;
    let way_out = if float && least >= -ROUNDING && most <= 1.0 + ROUNDING {
        if most <= 0.0 || most > 1.0 / 255.0 + ROUNDING {
            return Ok(pixels.iter().map(|x| (x * 255.0).round() as u8).collect());
        }
        "multiply by 255, by which they seem to have been divided twice"
    } else if pixels.iter().all(byte) {
        return Ok(pixels.iter().map(|&x| x as u8).collect());
    } else if least < 0.0 {
        "undo a normalisation"
    } else if (128.0..=255.0).contains(&most) {
        "divide by 255"
    } else {
        "divide by the largest value that there can be"
    };
    Err(format!(
        "pixels are from {least} to {most}, expected bytes, or floating point from 0 to 1; {way_out}"
    ))
}

impl Dataset {
    /// A data set called `name` of the images and labels in `raw`. One training sample in `held_out` is
    /// held out for Validation, every class in proportion, but never a class's only one. Class names may be left empty:
    /// then the classes are the labels that occur, in ascending order, and are named by them. Labels from 1 to 26 become
    /// the classes 0 to 25, called 1 to 26.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// // 40 + 10 images of one channel and 2×2 pixels, in two classes.
    /// let part = |n: usize| (vec![0u8; 4 * n], (0..n).map(|i| (i % 2) as u32).collect());
    /// let raw = Raw { image: [1, 2, 2], train: part(40), test: part(10) };
    /// let data = Dataset::from_arrays("dots", raw, 10, &["even", "odd"])?;
    /// assert_eq!((data.train.len(), data.validation.len(), data.test.len()), (36, 4, 10));
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails when sizes do not fit, nothing or everything would be held out, or a label has no name.
    pub fn from_arrays(name: &str, mut raw: Raw, held_out: usize, classes: &[&str]) -> Result<Self> {
        raw.check(name)?;
        let classes: Vec<String> = if classes.is_empty() {
            labels::number([&mut raw.train.1, &mut raw.test.1])
                .map_err(|what| error!(Setting, "{name}: {what}"))?
        } else {
            classes.iter().map(ToString::to_string).collect()
        };
        let unnamed = raw.train.1.iter().chain(&raw.test.1).find(|&&label| label as usize >= classes.len());
        if let Some(label) = unnamed {
            bail!(Setting, "{name}: a label is {label}, but there are names for {} classes", classes.len())
        }
        if classes.len() < 2 {
            bail!(Setting, "{name}: all labels are of one class, and a classifier needs two or more")
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
        let validation = stratified(all.labels(), classes.len(), validation);
        if validation.is_empty() {
            bail!(
                Setting,
                "{name}: each class has a single training image, and none can be held out for validation"
            )
        }
        let (train, validation) = all.split_off(&validation);
        Ok(Self {
            name: name.to_string(),
            classes,
            train,
            validation,
            test: Split::new(raw.test.0, raw.test.1, raw.image)?,
            checksum,
        })
    }

    /// [`Self::from_arrays`] from tensors: images (samples, channels, height, width), bytes or f32 in
    /// 0..=1, and labels (samples), whole numbers of any type, first for training, then for the test.
    pub fn from_tensors(
        name: &str,
        train: (&Tensor, &Tensor),
        test: (&Tensor, &Tensor),
        held_out: usize,
        classes: &[&str],
    ) -> Result<Self> {
        let [_, channels, height, width] = train.0.dims()[..] else {
            bail!(
                Shape,
                "{name}: training images are {:?}, expected (samples, channels, height, width); unsqueeze(1) gives grey ones a channel",
                train.0.dims()
            )
        };
        let part = |(images, labels): (&Tensor, &Tensor)| -> Result<(Vec<u8>, Vec<u32>)> {
            if images.dims() != [labels.elem_count(), channels, height, width] || labels.rank() != 1 {
                bail!(
                    Shape,
                    "{name}: images {:?} and labels {:?} do not fit; expected (samples, {channels}, {height}, {width}) and (samples)",
                    images.dims(),
                    labels.dims()
                )
            }
            let wrong = |what: String| error!(Setting, "{name}: {what}");
            let flat = images.flatten_all()?;
            let bytes = match images.dtype() {
                DType::U8 => flat.to_vec1()?,
                of => to_bytes(&flat.to_dtype(DType::F32)?.to_vec1()?, of.is_float()).map_err(wrong)?,
            };
            let labels = labels.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            Ok((bytes, labels::whole(labels.into_iter()).map_err(wrong)?))
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

    /// So many images of each split only: `train` to train on, `held_out` each to validate and to test on; `None` for all. They
    /// are drawn by a fixed seed, one of each class first and the others in proportion. The name says so.
    pub fn part(mut self, train: Option<usize>, held_out: Option<usize>) -> Self {
        let classes = self.classes.len();
        if let Some(count) = train.filter(|&count| count < self.train.len()) {
            self.train = self.train.select(drawn(self.train.labels(), classes, count));
            self.name += &format!(" (trained on {count})");
            self.checksum ^= crc32fast::hash(b"trained on a part that is drawn");
        }
        if let Some(count) = held_out {
            self.validation = self.validation.select(drawn(self.validation.labels(), classes, count));
            self.test = self.test.select(drawn(self.test.labels(), classes, count));
            self.name += &format!(" (tested on {})", self.test.len());
            // Another data set, as far as runs are concerned: their histories tell of it.
            self.checksum ^= crc32fast::hash(format!("tested on {count}").as_bytes());
        }
        self
    }

    /// What is to be known of it, if anything, a line each: how labels became classes, and classes that have too few images
    /// to be learned or validated.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let classes = self.classes.len();
        let numbers: Option<Vec<usize>> = self.classes.iter().map(|name| name.parse().ok()).collect();
        if let (Some(numbers), [first, .., last]) = (numbers, &self.classes[..])
            && !numbers.into_iter().eq(0..classes)
        {
            notes.push(format!(
                "its {classes} labels, {first} to {last}, are the classes 0 to {}, named by their labels",
                classes - 1
            ));
        }
        let [train, validation] =
            [self.train.labels(), self.validation.labels()].map(|labels| counts(labels, classes));
        for (few, what) in
            [(0, "no training image"), (1, "one training image, which is not held out for validation")]
        {
            let have = (0..classes).filter(|&class| (train[class], validation[class]) == (few, 0));
            let names: Vec<&str> = have.map(|class| self.classes[class].as_str()).collect();
            if let [first, rest @ ..] = &names[..] {
                let others =
                    if rest.is_empty() { String::new() } else { format!(" (and {} others)", rest.len()) };
                notes.push(format!("class {first}{others} has {what}"));
            }
        }
        notes
    }
}
