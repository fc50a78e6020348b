//! Data sets: where they come from, how they are stored, and their splits.
//!
//! A data set is one `datasets/<name>.safetensors` of u8 images and labels, made once by `make
//! datasets` and loaded in milliseconds. Thresholds may be chosen on [`Validation`] only, so splits
//! are types.

pub mod cifar10;
pub mod mnist;
mod preprocess;
#[cfg(feature = "cuda")]
mod resident;

pub use preprocess::Preprocessing;

use crate::error::bail;
use crate::{Error, Result, Rng};
use candle_core::{Device, Tensor};
use preprocess::Pixels;
use rand::seq::SliceRandom;
use rand::{Rng as _, SeedableRng};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Samples that weights are trained on.
#[derive(Debug, Clone, Copy)]
pub enum Train {}
/// Samples held out of the training files, on which thresholds are chosen.
#[derive(Debug, Clone, Copy)]
pub enum Validation {}
/// Samples that results are reported on.
#[derive(Debug, Clone, Copy)]
pub enum Test {}

/// The part that a split plays.
pub trait Role: Clone + Copy + std::fmt::Debug + 'static {
    /// For tables and figures.
    const NAME: &'static str;
}
impl Role for Train {
    const NAME: &'static str = "train";
}
impl Role for Validation {
    const NAME: &'static str = "validation";
}
impl Role for Test {
    const NAME: &'static str = "test";
}

/// Images (u8, channels × height × width each) with their labels.
#[derive(Debug, Clone)]
pub struct Split<R> {
    images: Vec<u8>,
    labels: Vec<u8>,
    image: [usize; 3],
    pixels: Arc<Pixels>,
    #[cfg(feature = "cuda")]
    resident: Arc<std::sync::OnceLock<resident::Resident>>,
    role: PhantomData<R>,
}

/// Pixels that a shifted image may lose at each side ([`Split::augmented_batch`]).
const SHIFT: usize = 4;

/// How an image is altered: pixel (y, x) of the result is pixel (y + down − SHIFT, x + right − SHIFT)
/// of the image, and then the whole may be flipped.
struct Alteration {
    down: usize,
    right: usize,
    flip: bool,
}

impl Alteration {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            down: rng.random_range(0..=2 * SHIFT),
            right: rng.random_range(0..=2 * SHIFT),
            flip: rng.random(),
        }
    }

    /// As the GPU's kernel takes it.
    #[cfg(feature = "cuda")]
    fn code(&self) -> u32 {
        (self.down | self.right << 8) as u32 | u32::from(self.flip) << 16
    }
}

impl<R: Role> Split<R> {
    /// A split of `labels.len()` images of shape `image` (channels, height, width), stored one
    /// after another. Fails when the sizes do not fit.
    pub fn new(images: Vec<u8>, labels: Vec<u8>, image: [usize; 3]) -> Result<Self> {
        let size: usize = image.iter().product();
        if images.len() != labels.len() * size {
            bail!(
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
            pixels: Arc::new(Pixels::Unit),
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
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Channels, height, width.
    pub fn image_shape(&self) -> [usize; 3] {
        self.image
    }

    fn image_len(&self) -> usize {
        self.image.iter().product()
    }

    /// The bytes of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_len()..(i + 1) * self.image_len()]
    }

    /// The images of these samples as the network sees them, after the data set's
    /// [`Preprocessing`]: f32 (samples, channels, height, width). On a GPU they are made from the
    /// bytes of the split, which are sent there once.
    pub fn batch(&self, samples: &[usize], device: &Device) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let (down, right, flip) = (SHIFT, SHIFT, false);
            return self.on_gpu(samples, device, || Alteration { down, right, flip });
        }
        let images: Vec<&[u8]> = samples.iter().map(|&i| self.image(i)).collect();
        self.pixels.batch(&images, self.image, device)
    }

    /// [`Self::batch`] of images that are shifted by up to 4 pixels either way, black coming in
    /// from the side, and flipped left to right half of the time.
    pub fn augmented_batch(
        &self,
        samples: &[usize],
        rng: &mut Rng,
        device: &Device,
    ) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            return self.on_gpu(samples, device, || Alteration::draw(rng));
        }
        let [_, height, width] = self.image;
        let mut altered = vec![0u8; samples.len() * self.image_len()];
        for (&sample, altered) in samples.iter().zip(altered.chunks_mut(self.image_len())) {
            let Alteration { down, right, flip } = Alteration::draw(rng);
            // Columns x of the result show column x + right - SHIFT of the image.
            let (first, last) = (
                SHIFT.saturating_sub(right),
                width.min(width + SHIFT - right),
            );
            for (y, row) in altered.chunks_mut(width).enumerate() {
                let (channel, y) = (y / height, y % height + down);
                if (SHIFT..height + SHIFT).contains(&y) && first < last {
                    let from = (channel * height + y - SHIFT) * width + first + right - SHIFT;
                    row[first..last].copy_from_slice(&self.image(sample)[from..][..last - first]);
                    if flip {
                        row.reverse();
                    }
                }
            }
        }
        let images: Vec<&[u8]> = altered.chunks(self.image_len()).collect();
        self.pixels.batch(&images, self.image, device)
    }

    /// The images of these samples, each altered by what `alteration` says, put together on a GPU,
    /// where the split's bytes are sent at the first call.
    #[cfg(feature = "cuda")]
    fn on_gpu(
        &self,
        samples: &[usize],
        device: &Device,
        mut alteration: impl FnMut() -> Alteration,
    ) -> Result<Tensor> {
        let codes = samples
            .iter()
            .flat_map(|&i| [i as u32, alteration().code()]);
        let codes = codes.collect();
        let make = || resident::Resident::new(&self.images, self.image, &self.pixels, device);
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
        let count = count.min(self.len());
        Self {
            images: self.images[..count * self.image_len()].to_vec(),
            labels: self.labels[..count].to_vec(),
            #[cfg(feature = "cuda")]
            resident: Arc::default(),
            ..self.clone()
        }
    }

    fn see(&mut self, pixels: Arc<Pixels>) {
        self.pixels = pixels;
        #[cfg(feature = "cuda")]
        {
            self.resident = Arc::default();
        }
    }

    fn select(&self, samples: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let mut images = Vec::with_capacity(samples.len() * self.image_len());
        samples
            .iter()
            .for_each(|&i| images.extend_from_slice(self.image(i)));
        (images, samples.iter().map(|&i| self.labels[i]).collect())
    }
}

/// A data set with its three splits.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The name that every figure and table shows: `MNIST`, or `MNIST-5k` for the small one.
    pub name: String,
    /// What was trained on.
    pub train: Split<Train>,
    /// Held out of the training files, stratified.
    pub validation: Split<Validation>,
    /// The test files.
    pub test: Split<Test>,
    /// Checksum of all images and labels, and of how images are preprocessed.
    pub checksum: u32,
}

impl Dataset {
    /// The same images, preprocessed in another way, which is fitted on Train where it needs to
    /// be. The whitening of [`Preprocessing::Zca`] takes a minute and is kept in `datasets/`.
    pub fn preprocessed(mut self, preprocessing: Preprocessing) -> Result<Self> {
        let pixels = Arc::new(Pixels::fit(preprocessing, &self.train, self.checksum)?);
        self.checksum ^= crc32fast::hash(preprocessing.to_string().as_bytes());
        self.train.see(pixels.clone());
        self.validation.see(pixels.clone());
        self.test.see(pixels);
        Ok(self)
    }
}

/// Seed of the split into Train and Validation: part of what the data set is, not of an experiment.
const SPLIT_SEED: u64 = 1;
/// Classes of both data sets.
const CLASSES: usize = 10;
/// What to do about a missing or damaged file.
const HINT: &str = "run `make datasets` to make it anew";

/// What is known of a data set: how its file is called and what must be in it.
#[derive(Debug)]
pub struct Kind {
    /// The file is `datasets/<file>.safetensors`.
    pub file: &'static str,
    /// Channels, height, width.
    pub image: [usize; 3],
    /// One sample in so many of the training files is held out for Validation.
    held_out: usize,
    /// The contents that are accepted.
    known: &'static [Known],
}

/// Name, training and test images, and CRC-32 of images and labels (training files first) of a data
/// set, as this crate stores it.
#[derive(Debug)]
struct Known(&'static str, usize, usize, u32);

/// A downloaded data set before it is split.
#[derive(Debug)]
pub struct Raw {
    /// Images and labels of the training files.
    pub train: (Vec<u8>, Vec<u8>),
    /// Images and labels of the test files.
    pub test: (Vec<u8>, Vec<u8>),
}

impl Raw {
    fn parts(&self) -> [&[u8]; 4] {
        [&self.train.0, &self.train.1, &self.test.0, &self.test.1]
    }

    fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        self.parts().iter().for_each(|part| hasher.update(part));
        hasher.finalize()
    }
}

impl Kind {
    /// Tells the known contents apart by their size and compares with what is known of each.
    /// Returns name and checksum.
    fn check(&self, raw: &Raw, origin: &str) -> Result<(&'static str, u32)> {
        let (train, test) = (raw.train.1.len(), raw.test.1.len());
        let Some(&Known(name, _, _, expected)) = self
            .known
            .iter()
            .find(|known| (known.1, known.2) == (train, test))
        else {
            bail!(
                "{origin}: {train} training and {test} test labels, expected {} and {}; {HINT}",
                self.known[0].1,
                self.known[0].2
            )
        };
        let size: usize = self.image.iter().product();
        if raw.train.0.len() != train * size || raw.test.0.len() != test * size {
            bail!(
                "{origin}: images and labels do not match ({} and {} bytes for {train} and {test} images of {:?}); {HINT}",
                raw.train.0.len(),
                raw.test.0.len(),
                self.image
            )
        }
        if let Some(label) = raw
            .train
            .1
            .iter()
            .chain(&raw.test.1)
            .find(|&&label| usize::from(label) >= CLASSES)
        {
            bail!("{origin}: a label is {label}, expected 0 to 9; {HINT}")
        }
        let checksum = raw.checksum();
        if checksum != expected {
            bail!(
                "{origin}: the checksum of {name} is {checksum:08x}, expected {expected:08x}: the content is damaged or altered; {HINT}"
            )
        }
        Ok((name, checksum))
    }

    /// Where `make datasets` stores it.
    pub fn path(&self) -> PathBuf {
        project_dir()
            .join("datasets")
            .join(format!("{}.safetensors", self.file))
    }

    /// Loads the file that [`Self::store`] wrote to [`Self::path`]; see [`Self::load_from`].
    pub fn load(&self) -> Result<Dataset> {
        self.load_from(&self.path())
    }

    /// Loads a file that [`Self::store`] wrote, checks counts, labels and checksum, and holds out
    /// Validation, stratified. Errors name the file, what was expected, and what to do.
    pub fn load_from(&self, path: &Path) -> Result<Dataset> {
        let origin = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| Error::new(format!("cannot read {origin}: {error}; {HINT}")))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| {
            Error::new(format!(
                "{origin} is not a whole safetensors file ({error}); {HINT}"
            ))
        })?;
        let part = |name: &str| match file.tensor(name) {
            Ok(tensor) if tensor.dtype() == Dtype::U8 => Ok(tensor.data().to_vec()),
            Ok(tensor) => bail!(
                "{origin}: {name} is {:?}, expected U8; {HINT}",
                tensor.dtype()
            ),
            Err(_) => bail!("{origin}: it has no tensor {name}; {HINT}"),
        };
        let raw = Raw {
            train: (part("train_images")?, part("train_labels")?),
            test: (part("test_images")?, part("test_labels")?),
        };
        let (name, checksum) = self.check(&raw, &origin)?;
        let all = Split::<Train>::new(raw.train.0, raw.train.1, self.image)?;
        let (train, validation) = stratified(all.labels(), all.len() / self.held_out);
        let (train, validation) = (all.select(&train), all.select(&validation));
        Ok(Dataset {
            name: name.to_string(),
            train: Split::new(train.0, train.1, self.image)?,
            validation: Split::new(validation.0, validation.1, self.image)?,
            test: Split::new(raw.test.0, raw.test.1, self.image)?,
            checksum,
        })
    }

    /// Checks `raw` and stores it at `path`, atomically. Returns the data set's name.
    pub fn store(&self, raw: &Raw, origin: &str, path: &Path) -> Result<&'static str> {
        let (name, _) = self.check(raw, origin)?;
        let [channels, height, width] = self.image;
        let images = |n: usize| vec![n, channels, height, width];
        let (train, test) = (raw.train.1.len(), raw.test.1.len());
        let tensors = [
            ("train_images", images(train), &raw.train.0),
            ("train_labels", vec![train], &raw.train.1),
            ("test_images", images(test), &raw.test.0),
            ("test_labels", vec![test], &raw.test.1),
        ];
        let views: Vec<_> = tensors
            .iter()
            .map(|(name, shape, data)| {
                Ok((*name, TensorView::new(Dtype::U8, shape.clone(), data)?))
            })
            .collect::<Result<_>>()?;
        let about = HashMap::from([
            ("name".to_string(), name.to_string()),
            ("origin".to_string(), origin.to_string()),
        ]);
        write_atomically(path, &safetensors::serialize(views, Some(about))?)?;
        Ok(name)
    }
}

/// The repository's root. Notebooks, tests and the program find `datasets/` and `figures/` below
/// it, wherever they are started; BRANCHYNET_DIR in the environment names another folder, for a program
/// that was carried to another machine.
pub fn project_dir() -> PathBuf {
    match std::env::var_os("BRANCHYNET_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    }
}

/// Writes a file so that it is either there whole or not at all: a program that is killed leaves
/// the earlier file.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let named =
        |error: std::io::Error| Error::new(format!("cannot write {}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(named)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let write = || {
        let mut file = std::fs::File::create(&unfinished)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        named(error)
    })
}

/// Splits samples into the rest and `held_out` of them, every class in proportion. Both in
/// ascending order.
fn stratified(labels: &[u8], held_out: usize) -> (Vec<usize>, Vec<usize>) {
    let mut rng = Rng::seed_from_u64(SPLIT_SEED);
    let mut by_class = vec![Vec::new(); CLASSES];
    labels
        .iter()
        .enumerate()
        .for_each(|(i, &label)| by_class[usize::from(label)].push(i));
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
    let rest = (0..labels.len())
        .filter(|i| chosen.binary_search(i).is_err())
        .collect();
    (rest, chosen)
}
