//! Filters that whiten patches of images.

use super::{Split, Train};
use crate::{Result, bail};
use candle_core::Device;

/// Images that the filters are fitted to, and what is added to the variances, as in airbench.
const IMAGES: usize = 5000;
const MORE: f64 = 5e-4;

impl Split<Train> {
    /// Filters (2 · patch, channels, size, size) whose products with the patches of size × size pixels of the
    /// first 5,000 images, as networks see them, have no correlation and variance 1: the eigenvectors of the
    /// patches' covariance, the one with the largest eigenvalue λ first, divided by √(λ + 0.0005); then their
    /// negatives (Keller Jordan's airbench, <https://arxiv.org/abs/2404.00498>, section 3.2).
    pub fn patch_whitening(&self, size: usize) -> Result<Vec<f32>> {
        let [channels, height, width] = self.image_shape();
        if size > height || size > width {
            bail!(Shape, "patches of {size} pixels do not fit images of {height}x{width}")
        }
        let n = channels * size * size;
        let (mut covariance, mut patch) = (vec![0.0; n * n], vec![0.0; n]);
        let mut count = 0;
        let samples: Vec<usize> = (0..self.len().min(IMAGES)).collect();
        for samples in samples.chunks(500) {
            let images = self.batch(samples, &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            for image in images.chunks(channels * height * width) {
                for place in 0..(height - size + 1) * (width - size + 1) {
                    let (top, left) = (place / (width - size + 1), place % (width - size + 1));
                    for (i, value) in patch.iter_mut().enumerate() {
                        let (channel, y, x) = (i / (size * size), i / size % size, i % size);
                        *value = f64::from(image[(channel * height + top + y) * width + left + x]);
                    }
                    for i in 0..n {
                        let row = &mut covariance[i * n..][..=i];
                        row.iter_mut().zip(&patch).for_each(|(sum, value)| *sum += patch[i] * value);
                    }
                    count += 1;
                }
            }
        }
        for i in 0..n {
            for j in 0..=i {
                covariance[i * n + j] /= f64::from(count.max(1));
                covariance[j * n + i] = covariance[i * n + j];
            }
        }
        let mut pairs = eigenvectors(covariance, n);
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let filter = |(value, vector): &(f64, Vec<f64>)| -> Vec<f32> {
            vector.iter().map(|x| (x / (value + MORE).sqrt()) as f32).collect()
        };
        let filters: Vec<f32> = pairs.iter().flat_map(filter).collect();
        Ok(filters.iter().copied().chain(filters.iter().map(|x| -x)).collect())
    }
}

/// Eigenvalues and eigenvectors of a symmetric matrix (n, n), by Jacobi's rotations (Golub and Van Loan, "Matrix
/// Computations", section 8.5).
fn eigenvectors(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<f64> = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n))).collect();
    for _ in 0..30 {
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            if a[p * n + q] == 0.0 {
                continue;
            }
            let angle = 0.5 * (2.0 * a[p * n + q]).atan2(a[q * n + q] - a[p * n + p]);
            let (sine, cosine) = angle.sin_cos();
            let turn =
                |x: &mut f64, y: &mut f64| (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
            for k in 0..n {
                let (mut x, mut y) = (a[p * n + k], a[q * n + k]);
                turn(&mut x, &mut y);
                (a[p * n + k], a[q * n + k]) = (x, y);
            }
            for k in 0..n {
                for matrix in [&mut a, &mut vectors] {
                    let (mut x, mut y) = (matrix[k * n + p], matrix[k * n + q]);
                    turn(&mut x, &mut y);
                    (matrix[k * n + p], matrix[k * n + q]) = (x, y);
                }
            }
        }
    }
    (0..n).map(|i| (a[i * n + i], (0..n).map(|k| vectors[k * n + i]).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whitened_patches_have_no_correlation_and_variance_one() -> Result<()> {
        // Neighbours are alike.
        let bytes: Vec<u8> = (0..200 * 48).map(|i| (i * i / 7 % 190 + i % 60) as u8).collect();
        let split = Split::<Train>::new(bytes, vec![0; 200], [3, 4, 4])?;
        let filters = split.patch_whitening(2)?;
        assert_eq!(filters.len(), 24 * 12);
        let images = split.batch(&(0..200).collect::<Vec<_>>(), &Device::Cpu)?;
        let weight = candle_core::Tensor::from_vec(filters, (24, 3, 2, 2), &Device::Cpu)?;
        let bias = candle_core::Tensor::zeros(24, candle_core::DType::F32, &Device::Cpu)?;
        let white = crate::kernels::conv2d(&images, &weight, &bias, 0, 1)?;
        let white = white.transpose(0, 1)?.flatten_from(1)?;
        let products = (white.matmul(&white.t()?)? / white.dim(1)? as f64)?.to_vec2::<f32>()?;
        for (i, row) in products.iter().enumerate() {
            for (j, &product) in row.iter().enumerate() {
                // Variances are a little below 1, by what is added to them before the division.
                let expected = [0.0, 1.0, -1.0][if i == j {
                    1
                } else if i % 12 == j % 12 {
                    2
                } else {
                    0
                }];
                assert!((product - expected).abs() < 0.05, "{i}, {j}: {product}");
            }
        }
        Ok(())
    }
}
