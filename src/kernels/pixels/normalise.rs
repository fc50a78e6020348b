//! Batch normalisation that is read through.

use super::{PixelGrad, Pixels, Sums, Through, across, floats, fold, sizes, where_above};
use crate::batch_norm::{EPSILON, Moments, join};
use crate::simd::vectorized;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

/// `x · slope + start`, channel by channel.
#[derive(Debug)]
pub(super) struct Norm {
    mean: Vec<f64>,
    /// 1 / √(variance + ε).
    scale: Vec<f64>,
    weight: Vec<f64>,
    pub(super) slope: Vec<f32>,
    pub(super) start: Vec<f32>,
}

/// Two sums for each element of a row.
pub(super) struct RowSums([Vec<f32>; 2]);

impl RowSums {
    pub(super) fn new(len: usize) -> Self {
        Self([vec![0.0; len], vec![0.0; len]])
    }

    /// Mean and Σ (x − mean)² of every channel of one image.
    #[inline(always)]
    pub(super) fn moments(&mut self, image: &[f32], to: &mut [[f64; 2]]) {
        let [sums, centers] = self.0.each_mut().map(Vec::as_mut_slice);
        let (channels, len) = (to.len(), sums.len());
        let area = (image.len() / channels) as f64;
        sums.fill(0.0);
        for row in image.chunks_exact(len) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
        }
        for (to, &sum) in to.iter_mut().zip(fold(sums, channels)) {
            to[0] = f64::from(sum) / area;
        }
        for pixel in centers.chunks_exact_mut(channels) {
            pixel.iter_mut().zip(to.iter()).for_each(|(center, to)| *center = to[0] as f32);
        }
        sums.fill(0.0);
        for row in image.chunks_exact(len) {
            for ((sum, &x), &center) in sums.iter_mut().zip(row).zip(centers.iter()) {
                *sum += (x - center) * (x - center);
            }
        }
        for (to, &sum) in to.iter_mut().zip(fold(sums, channels)) {
            to[1] = f64::from(sum);
        }
    }

    /// Takes in a row of a gradient and of the pixels that were read through a normalisation: `center` is the mean, and
    /// the gradient counts where `x · slope + start` is above 0.
    #[inline(always)]
    pub(super) fn add(&mut self, grad: &[f32], x: &[f32], [slope, start, center]: [&[f32]; 3]) {
        // Slices of one length, and plain indices: only so the compiler makes vectors of it.
        let [sums, products] = self.0.each_mut().map(Vec::as_mut_slice);
        let len = grad.len();
        let (sums, products, x) = (&mut sums[..len], &mut products[..len], &x[..len]);
        let (slope, start, center) = (&slope[..len], &start[..len], &center[..len]);
        for i in 0..len {
            let grad = where_above(x[i] * slope[i] + start[i], grad[i]);
            sums[i] += grad;
            products[i] += grad * (x[i] - center[i]);
        }
    }

    /// The sums of every channel.
    pub(super) fn finish(mut self, channels: usize) -> Sums {
        let [sums, products] = self.0.each_mut().map(|sums| fold(sums, channels));
        sums.iter().zip(products).map(|(&sum, &product)| [f64::from(sum), f64::from(product)]).collect()
    }
}

/// The sums of these sums.
pub(super) fn add_sums(parts: &[Sums], channels: usize) -> Sums {
    let mut sums = vec![[0.0; 2]; channels];
    for part in parts {
        for (sum, more) in sums.iter_mut().zip(part) {
            *sum = [sum[0] + more[0], sum[1] + more[1]];
        }
    }
    sums
}

impl Norm {
    /// By these moments, with weight and bias (channels).
    fn new(moments: &Moments, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (mean, variance) = (moments.mean.to_vec1::<f64>()?, moments.variance.to_vec1::<f64>()?);
        let scale: Vec<f64> = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        let (weight, bias) = (weight.to_vec1::<f32>()?, bias.to_vec1::<f32>()?);
        if weight.len() != mean.len() || bias.len() != mean.len() {
            bail!("batch_norm: {} channels need a weight and a bias each", mean.len())
        }
        let weight: Vec<f64> = weight.into_iter().map(f64::from).collect();
        let slopes = scale.iter().zip(&weight).map(|(scale, weight)| scale * weight);
        let slope = slopes.clone().map(|slope| slope as f32).collect();
        let starts =
            slopes.zip(&bias).zip(&mean).map(|((slope, &bias), mean)| f64::from(bias) - mean * slope);
        let start = starts.map(|start| start as f32).collect();
        Ok(Self { mean, scale, weight, slope, start })
    }

    /// What [`RowSums::add`] takes, for rows of so many pixels.
    pub(super) fn lines(&self, width: usize, rectified: bool) -> [Vec<f32>; 3] {
        let channels = self.mean.len();
        let center: Vec<f32> = self.mean.iter().map(|&mean| mean as f32).collect();
        match rectified {
            true => across([&self.slope, &self.start, &center], width),
            // Above 0 everywhere.
            false => across([&vec![0.0; channels], &vec![1.0; channels], &center], width),
        }
    }
}

impl Pixels {
    /// Mean and variance of every channel, where a convolution gave these values and they are not normalised yet.
    pub fn moments(&self) -> Option<&Moments> {
        self.moments.as_ref().filter(|_| self.norm.is_none() && !self.rectified)
    }

    /// The same through a batch normalisation by [`Self::moments`], with weight and bias (channels).
    pub fn normalised(&self, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let Some(moments) = self.moments() else { bail!("internal error: pixels without moments") };
        Ok(Self { norm: Some(Arc::new(Norm::new(moments, weight, bias)?)), ..self.clone() })
    }

    /// The same through a rectifier.
    pub fn rectified(&self) -> Self {
        Self { rectified: true, ..self.clone() }
    }

    /// The gradient of what a rectifier gets, given that of [`Self::rectified`].
    pub fn rectified_backward(&self, grad: PixelGrad) -> Result<PixelGrad> {
        let (grad, (_, [.., channels])) = (grad.alone()?, sizes(&self.values)?);
        let mut lines = [1.0, 0.0, 1.0, 0.0, 0.0].map(|number| vec![number; channels]);
        if let Some(norm) = &self.norm {
            lines[..2].clone_from_slice(&[norm.slope.clone(), norm.start.clone()]);
        }
        let through = Some(Arc::new(Through { x: self.values.clone(), lines }));
        Ok(PixelGrad { through, rectified: self.norm.is_some(), ..grad })
    }

    /// The gradients of the values, of weight and of bias (channels) of the normalisation that they are read through, given
    /// that of what is read.
    pub fn normalised_backward(&self, grad: PixelGrad) -> Result<(PixelGrad, Tensor, Tensor)> {
        let Some(norm) = &self.norm else { bail!("internal error: pixels without a normalisation") };
        // It looks itself where a rectifier lets the gradient through.
        let grad = if grad.rectified { grad } else { grad.alone()? };
        let (batch, [height, width, channels]) = sizes(&self.values)?;
        let sums = match &grad.sums {
            Some(sums) => sums.clone(),
            None => self.sums(norm, &grad)?,
        };
        let count = (batch * height * width) as f64;
        let mut lines = [(); 5].map(|()| Vec::with_capacity(channels));
        let (mut of_weight, mut of_bias) = (Vec::new(), Vec::new());
        for (c, [sum, product]) in sums.into_iter().enumerate() {
            let scale = norm.scale[c];
            let slope = scale * norm.weight[c];
            let by_x = -slope * scale * scale * product / count;
            let start = -slope * sum / count - by_x * norm.mean[c];
            let (steep, low) = if grad.rectified { (norm.slope[c], norm.start[c]) } else { (0.0, 1.0) };
            let numbers = [steep, low, slope as f32, by_x as f32, start as f32];
            lines.iter_mut().zip(numbers).for_each(|(line, number)| line.push(number));
            of_weight.push((product * scale) as f32);
            of_bias.push(sum as f32);
        }
        let through = Some(Arc::new(Through { x: self.values.clone(), lines }));
        let device = self.values.device();
        Ok((
            PixelGrad { through, ..PixelGrad::new(grad.values, grad.beside) },
            Tensor::from_vec(of_weight, channels, device)?,
            Tensor::from_vec(of_bias, channels, device)?,
        ))
    }

    fn sums(&self, norm: &Norm, grad: &PixelGrad) -> Result<Sums> {
        let (_, [height, width, channels]) = sizes(&self.values)?;
        let (x, values) = (floats(&self.values)?, floats(&grad.values)?);
        let (row, lines) = (width * channels, norm.lines(width, grad.rectified));
        let lines = lines.each_ref().map(Vec::as_slice);
        let of_images: Vec<Sums> = x
            .par_chunks(height * row)
            .zip(values.par_chunks(height * row))
            .map(|(x, grad)| {
                let mut sums = RowSums::new(row);
                vectorized(
                    #[inline(always)]
                    || {
                        for (grad, x) in grad.chunks_exact(row).zip(x.chunks_exact(row)) {
                            sums.add(grad, x, lines);
                        }
                    },
                );
                sums.finish(channels)
            })
            .collect();
        Ok(add_sums(&of_images, channels))
    }
}

/// Moments of a batch, given those of its images.
pub(super) fn moments(
    of_images: &[[f64; 2]],
    channels: usize,
    area: usize,
    like: &Tensor,
) -> Result<Moments> {
    let moments = Tensor::from_vec(join(of_images, channels, area), 2 * channels, like.device())?;
    Ok(Moments {
        mean: moments.narrow(0, 0, channels)?,
        variance: moments.narrow(0, channels, channels)?,
        count: of_images.len() / channels * area,
    })
}
