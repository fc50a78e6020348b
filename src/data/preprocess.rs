//! From bytes to what a network sees.

use super::{Split, Train};
use crate::checked_file::{Contents, Kind};
use crate::files::{project_dir, write_atomically};
use crate::{Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// How pixels are prepared. What has to be fitted is fitted on Train alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Preprocessing {
    /// Divided by 255, so that they lie in [0, 1].
    #[default]
    Unit,
    /// Each channel with mean 0 and deviation 1: the usual way for photographs.
    Channels,
    /// The paper's for CIFAR-10: the mean image subtracted, ZCA-whitened without regularisation,
    /// each image scaled to [0, 1].
    Zca,
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("each has a name").get_name())
    }
}

/// A preprocessing with what was fitted.
#[derive(Debug)]
pub(super) struct Pixels {
    /// For each channel what every byte becomes, before any whitening.
    pub(super) table: Vec<[f32; 256]>,
    /// The mean image (1, pixels), and a symmetric matrix (pixels, pixels).
    pub(super) whitening: Option<(Tensor, Tensor)>,
}

impl Pixels {
    /// Bytes of so many channels divided by 255.
    pub(super) fn unit(channels: usize) -> Self {
        let unit = std::array::from_fn(|byte| byte as f32 / 255.0);
        Self { table: vec![unit; channels], whitening: None }
    }

    /// Fits a preprocessing on `train`, whose checksum names the file that keeps the whitening. What takes long is told
    /// to `say`.
    pub(super) fn fit(
        preprocessing: Preprocessing,
        train: &Split<Train>,
        checksum: u32,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let unit = Self::unit(train.image_shape()[0]);
        match preprocessing {
            Preprocessing::Unit => Ok(unit),
            Preprocessing::Channels => Ok(Self { table: channels(train), whitening: None }),
            Preprocessing::Zca => {
                let path =
                    project_dir().join(format!("datasets/zca-{checksum:08x}-{}.safetensors", train.len()));
                let whitening = match read_whitening(&path, train.image_len()) {
                    Ok(whitening) => whitening,
                    // Missing or damaged.
                    Err(_) => {
                        say("fitting the ZCA whitening, once, about a minute");
                        let whitening = whitening(train)?;
                        write_whitening(&path, &whitening)?;
                        whitening
                    }
                };
                Ok(Self { whitening: Some(whitening), ..unit })
            }
        }
    }

    /// Images of shape `image` (channels, height, width) as f32 (images, channels, height, width).
    pub(super) fn batch(&self, images: &[&[u8]], image: [usize; 3], device: &Device) -> Result<Tensor> {
        let [channels, height, width] = image;
        let shape = (images.len(), channels, height, width);
        let mut pixels = Vec::with_capacity(images.len() * channels * height * width);
        for image in images {
            for (plane, table) in image.chunks((height * width).max(1)).zip(&self.table) {
                pixels.extend(plane.iter().map(|&pixel| table[usize::from(pixel)]));
            }
        }
        if let Some((mean, matrix)) = &self.whitening {
            let flat = Tensor::from_vec(pixels, (images.len(), mean.elem_count()), &Device::Cpu)?;
            let white = flat.broadcast_sub(mean)?.matmul(matrix)?;
            pixels = white.flatten_all()?.to_vec1::<f32>()?;
            for image in pixels.chunks_mut(mean.elem_count()) {
                let min = image.iter().copied().fold(f32::INFINITY, f32::min);
                let max = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let scale = if max > min { 1.0 / (max - min) } else { 0.0 };
                image.iter_mut().for_each(|x| *x = (*x - min) * scale);
            }
        }
        Ok(Tensor::from_vec(pixels, shape, device)?)
    }
}

/// What every byte becomes, for each channel, so that Train has mean 0 and deviation 1.
fn channels(train: &Split<Train>) -> Vec<[f32; 256]> {
    let [channels, height, width] = train.image_shape();
    let mut counts = vec![[0u64; 256]; channels];
    for (i, plane) in train.images.chunks(height * width).enumerate() {
        for &pixel in plane {
            counts[i % channels][usize::from(pixel)] += 1;
        }
    }
    let table = |counts: &[u64; 256]| {
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let moment = |f: &dyn Fn(f64) -> f64| {
            let sum = |(i, &n): (usize, &u64)| f(i as f64) * n as f64;
            counts.iter().enumerate().map(sum).sum::<f64>() / total
        };
        let mean = moment(&|x| x);
        let deviation = moment(&|x| (x - mean) * (x - mean)).sqrt().max(1e-6);
        std::array::from_fn(|i| ((i as f64 - mean) / deviation) as f32)
    };
    counts.iter().map(table).collect()
}

/// Mean image (1, pixels) and the whitening matrix C^(-1/2) (pixels, pixels) of the covariance C.
fn whitening(train: &Split<Train>) -> Result<(Tensor, Tensor)> {
    let pixels = train.image_len();
    let shape = (train.len(), pixels);
    let bytes = Tensor::from_slice(&train.images, shape, &Device::Cpu)?;
    let mut sum = Tensor::zeros((1, pixels), DType::F64, &Device::Cpu)?;
    let mut products = Tensor::zeros((pixels, pixels), DType::F64, &Device::Cpu)?;
    for start in (0..train.len()).step_by(5000) {
        let part = bytes.narrow(0, start, 5000.min(train.len() - start))?;
        let part = (part.to_dtype(DType::F64)? / 255.0)?;
        let ones = Tensor::ones((1, part.dim(0)?), DType::F64, &Device::Cpu)?;
        sum = (sum + ones.matmul(&part)?)?;
        products = (products + part.t()?.matmul(&part)?)?;
    }
    let mean = (sum / train.len() as f64)?;
    let covariance = ((products / train.len() as f64)? - mean.t()?.matmul(&mean)?)?;
    let matrix = inverse_square_root(&covariance)?;
    Ok((mean.to_dtype(DType::F32)?, matrix.to_dtype(DType::F32)?))
}

/// C^(-1/2) of a symmetric positive definite matrix, by the coupled Newton–Schulz iteration
/// (Higham, "Functions of Matrices", 2008, equation 6.35): with Y = C / c and Z = 1 at first,
/// T = (3 − Z Y) / 2, Y ← Y T, Z ← T Z, Z tends to (C / c)^(-1/2). Matrix products are all it needs.
fn inverse_square_root(c: &Tensor) -> Result<Tensor> {
    let n = c.dim(0)?;
    let norm = |t: &Tensor| -> Result<f64> { Ok(t.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
    let scale = norm(c)?;
    let one = Tensor::eye(n, DType::F64, c.device())?;
    let (mut y, mut z) = ((c / scale)?, one.clone());
    for _ in 0..60 {
        let product = z.matmul(&y)?;
        let distance = norm(&(&product - &one)?)?;
        let t = ((&one * 1.5)? - (product * 0.5)?)?;
        y = y.matmul(&t)?;
        z = t.matmul(&z)?;
        if distance < 1e-6 {
            return Ok((z / scale.sqrt())?);
        }
    }
    bail!(
        Setting,
        "the covariance of the images has no inverse: some pixels are constant or copies of others"
    )
}

/// The file that keeps a whitening.
const KIND: Kind = Kind { kind: "whitening", noun: "whitening", remedy: "it is fitted anew" };

fn write_whitening(path: &Path, (mean, matrix): &(Tensor, Tensor)) -> Result<()> {
    let tensors = [("mean", mean), ("matrix", matrix)];
    let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor.clone()));
    write_atomically(path, &KIND.seal(&(), &tensors.into())?)
}

/// The whitening kept at `path`. Fails where it is missing or damaged.
fn read_whitening(path: &Path, pixels: usize) -> Result<(Tensor, Tensor)> {
    let whitening: Contents<()> = KIND.read(path)?;
    let part = |name, shape| whitening.tensor(name, shape, "the data set").cloned();
    Ok((part("mean", &[1, pixels])?, part("matrix", &[pixels, pixels])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newton_schulz_inverts_the_square_root() -> Result<()> {
        // Eigenvalues from 1 to 1e-6 in a basis that is not the axes'.
        let n = 12;
        let values: Vec<f64> = (0..n * n).map(|i| (1.3 * i as f64).sin()).collect();
        let a = Tensor::from_vec(values, (n, n), &Device::Cpu)?;
        let c = (a.t()?.matmul(&a)? + (Tensor::eye(n, DType::F64, &Device::Cpu)? * 1e-6)?)?;
        let root = inverse_square_root(&c)?;
        let one = root.matmul(&c)?.matmul(&root)?;
        let error =
            (one - Tensor::eye(n, DType::F64, &Device::Cpu)?)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(error < 1e-6, "{error}");
        Ok(())
    }
}
