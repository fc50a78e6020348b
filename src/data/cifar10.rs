//! CIFAR-10 (<https://www.cs.toronto.edu/~kriz/cifar.html>): 50,000 photographs to train on, 10,000
//! to test on, 32×32 pixels in three colours.

use super::{Dataset, Kind, Known, Preprocessing, Raw};
use crate::Result;
use crate::error::bail;
use std::path::Path;

/// Of the 50,000 training images 5,000 are held out.
pub static CIFAR10: Kind = Kind {
    file: "cifar10",
    image: [3, 32, 32],
    held_out: 10,
    known: &[Known("CIFAR-10", 50_000, 10_000, 0xd599_d65b)],
};

/// The classes, by label.
pub const CIFAR10_CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// Loads CIFAR-10 from `datasets/cifar10.safetensors`; see [`Kind::load_from`].
pub fn load_cifar10(preprocessing: Preprocessing) -> Result<Dataset> {
    CIFAR10.load()?.preprocessed(preprocessing)
}

/// Bytes of one sample in the binary files: a label, then the red, green and blue plane.
const RECORD: usize = 1 + 3 * 32 * 32;

/// The binary files `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` in `dir`; `None`
/// where there are none. Fails when only some are there or one is cut short.
pub fn read_cifar10_files(dir: &Path) -> Result<Option<Raw>> {
    let train: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
    let test = "test_batch.bin".to_string();
    let mut names = train.iter().chain(std::iter::once(&test));
    if !names.clone().any(|name| dir.join(name).exists()) {
        return Ok(None);
    }
    if let Some(missing) = names.find(|name| !dir.join(name).exists()) {
        bail!(
            "{}: {missing} is missing beside the other binary files; add it, or remove them all",
            dir.display()
        )
    }
    let read = |names: &[String]| -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for name in names {
            let path = dir.join(name);
            let bytes = std::fs::read(&path)?;
            if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
                bail!(
                    "{}: {} bytes, expected a multiple of {RECORD}, a label and an image each; fetch it again or remove it",
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
    Ok(Some(Raw {
        train: in_order(read(&train)?),
        test: in_order(read(std::slice::from_ref(&test))?),
    }))
}

/// The binary files and the hub hold the same images in different orders. Sorted by the images'
/// checksums, which is as good as shuffled, a run does not depend on where they came from.
fn in_order((images, labels): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let mut samples: Vec<(u32, &[u8], u8)> = images
        .chunks(RECORD - 1)
        .zip(labels)
        .map(|(image, label)| (crc32fast::hash(image), image, label))
        .collect();
    samples.sort_unstable();
    let images = samples
        .iter()
        .flat_map(|sample| sample.1)
        .copied()
        .collect();
    (images, samples.iter().map(|sample| sample.2).collect())
}

/// CIFAR-10 from the Hugging Face hub: its cache first (`HF_HOME` is honoured), then the network.
#[cfg(feature = "hub")]
pub fn read_cifar10_hub() -> Result<Raw> {
    use candle_core::Tensor;
    let set = candle_datasets::vision::cifar::load()?;
    let part = |images: &Tensor, labels: &Tensor| -> Result<(Vec<u8>, Vec<u8>)> {
        // candle-datasets 0.11 hands out (samples, channels, width, height), divided by 255. The
        // checksum of what comes out here was taken from the hub's PNGs by another decoder.
        let upright = images.transpose(2, 3)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes = upright.into_iter().map(|x| (x * 255.0).round() as u8);
        Ok(in_order((bytes.collect(), labels.to_vec1()?)))
    };
    Ok(Raw {
        train: part(&set.train_images, &set.train_labels)?,
        test: part(&set.test_images, &set.test_labels)?,
    })
}
