//! Batch normalisation of images (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>). candle
//! composes it of a dozen tensor operations, which take several times the convolution before it.

use super::{contiguous, dispatch, unset};
use crate::simd::Real;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType,
    bail,
};
use pulp::Arch;
use rayon::prelude::*;

/// Added to the variance; Chainer's value.
pub const EPSILON: f64 = 2e-5;

/// Mean and variance of every channel of a batch, in f64.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f64>,
    /// Variances, divided by the number of values rather than one less.
    pub variance: Vec<f64>,
    /// Values of a channel: batch × height × width.
    pub count: usize,
}

/// Normalises every channel of `x` (batch, channels, height, width) to mean 0 and variance 1 by the
/// moments of this batch, and scales and shifts it by `weight` and `bias` (channels): training.
/// Returns the result, differentiable in all three arguments, moments included, and the moments.
/// CPU; f32 and f64. Fails when the sizes do not fit.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Moments)> {
    check(x, weight, bias)?;
    let x = x.contiguous()?;
    let moments = Moments::of(&x)?;
    let op = Normalise::new(&moments.mean, &moments.variance, true);
    Ok((
        x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?,
        moments,
    ))
}

impl Moments {
    fn of(x: &Tensor) -> Result<Self> {
        let (batch, channels, height, width) = x.dims4()?;
        let raw = x.apply_op1_no_bwd(&Sums)?.to_vec1::<f64>()?;
        Ok(Self {
            mean: raw[..channels].to_vec(),
            variance: raw[channels..].to_vec(),
            count: batch * height * width,
        })
    }

    /// The gradients of `x`, weight and bias of [`batch_norm`], given the output's.
    pub(crate) fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        Normalise::new(&self.mean, &self.variance, true).backward(x, weight, grad)
    }
}

/// [`batch_norm`] by given means and variances (channels): inference.
pub fn batch_norm_by(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
) -> Result<Tensor> {
    check(x, weight, bias)?;
    let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (mean, variance) = (values(mean)?, values(variance)?);
    if mean.len() != x.dim(1)? || variance.len() != mean.len() {
        bail!(
            "batch_norm: {} channels need as many means and variances, got {} and {}",
            x.dim(1)?,
            mean.len(),
            variance.len()
        )
    }
    let op = Normalise::new(&mean, &variance, false);
    x.contiguous()?
        .apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<()> {
    let (_, channels, ..) = x.dims4()?;
    if weight.dims() != [channels] || bias.dims() != [channels] {
        bail!(
            "batch_norm: an image of shape {:?} needs a weight and a bias ({channels}), got {:?} and {:?}",
            x.shape(),
            weight.shape(),
            bias.shape()
        )
    }
    Ok(())
}

/// Sums of `f` over a plane, sixteen side by side so that they fill vector registers.
#[inline(always)]
fn sum_by<T: Real>(count: usize, f: impl Fn(usize) -> T) -> f64 {
    let mut lanes = [T::zero(); 16];
    let whole = count / 16 * 16;
    for start in (0..whole).step_by(16) {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + i);
        }
    }
    let rest = (whole..count).fold(T::zero(), |sum, i| sum + f(i));
    lanes.iter().fold(rest, |sum, &x| sum + x).to_f64()
}

/// Mean and variance of every channel: (batch, channels, height, width) to f64 (2 · channels).
/// Moments of single planes, which stay in the cache between the two sums, are put together as in
/// Chan, Golub and LeVeque 1979, in the order of the batch.
struct Sums;

impl CustomOp1 for Sums {
    fn name(&self) -> &'static str {
        "batch_norm-moments"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn moments<T: Real>(x: &[T], channels: usize, area: usize) -> Vec<f64> {
            let planes: Vec<(f64, f64)> = x
                .par_chunks(area)
                .with_min_len(PLANES_PER_TASK)
                .map(|plane| {
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            let mean = sum_by(area, |i| plane[i]) / area as f64;
                            let center = T::from_f64(mean);
                            let square =
                                sum_by(area, |i| (plane[i] - center) * (plane[i] - center));
                            (mean, square)
                        },
                    )
                })
                .collect();
            let batch = planes.len() / channels;
            let mut moments = vec![0.0; 2 * channels];
            for channel in 0..channels {
                let of = |i: usize| planes[i * channels + channel];
                let mean = (0..batch).map(|i| of(i).0).sum::<f64>() / batch as f64;
                let square: f64 = (0..batch)
                    .map(|i| of(i).1 + area as f64 * (of(i).0 - mean).powi(2))
                    .sum();
                moments[channel] = mean;
                moments[channels + channel] = square / (batch * area) as f64;
            }
            moments
        }
        let (_, channels, height, width) = layout.shape().dims4()?;
        let out =
            dispatch!(self, x, T => moments::<T>(contiguous(x, layout)?, channels, height * width));
        Ok((CpuStorage::F64(out), Shape::from(2 * channels)))
    }
}

/// Planes are small: a task takes several, so that starting it does not cost more than it does.
const PLANES_PER_TASK: usize = 16;

/// `(x − mean) · scale · weight + bias`, channel by channel.
#[derive(Debug, Clone)]
struct Normalise {
    mean: Vec<f64>,
    /// 1 / √(variance + ε).
    scale: Vec<f64>,
    /// Whether mean and scale depend on x, which the gradient then accounts for.
    of_batch: bool,
}

impl Normalise {
    fn new(mean: &[f64], variance: &[f64], of_batch: bool) -> Self {
        Self {
            mean: mean.to_vec(),
            scale: variance
                .iter()
                .map(|v| 1.0 / (v + EPSILON).sqrt())
                .collect(),
            of_batch,
        }
    }
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(
            n: &Normalise,
            x: &[T],
            weight: &[T],
            bias: &[T],
            area: usize,
        ) -> Vec<T> {
            let channels = weight.len();
            // One multiplication and one addition a pixel.
            let lines: Vec<(T, T)> = (0..channels)
                .map(|c| {
                    let slope = n.scale[c] * weight[c].to_f64();
                    let start = bias[c].to_f64() - n.mean[c] * slope;
                    (T::from_f64(slope), T::from_f64(start))
                })
                .collect();
            let mut out = unset(x.len());
            out.par_chunks_mut(area)
                .zip(x.par_chunks(area))
                .enumerate()
                .with_min_len(PLANES_PER_TASK)
                .for_each(|(plane, (out, x))| {
                    let (slope, start) = lines[plane % channels];
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            for (out, &x) in out.iter_mut().zip(x) {
                                *out = x * slope + start;
                            }
                        },
                    );
                });
            out
        }
        let (_, _, height, width) = x_layout.shape().dims4()?;
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(forward::<T>(
            self,
            contiguous(x, x_layout)?,
            contiguous(weight, weight_layout)?,
            contiguous(bias, bias_layout)?,
            height * width,
        )));
        Ok((out, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, weight, bias) = self.backward(x, weight, grad)?;
        Ok((Some(x), Some(weight), Some(bias)))
    }
}

impl Normalise {
    fn backward(
        &self,
        x: &Tensor,
        weight: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let grad = grad.contiguous()?;
        let (_, channels, ..) = x.dims4()?;
        let sums = x.apply_op2_no_bwd(&grad, &GradSums(self.clone()))?;
        let grad_bias = sums.narrow(0, 0, channels)?;
        let grad_weight = sums.narrow(0, channels, channels)?;
        let grad_x = GradX {
            normalise: self.clone(),
            weight: weight.to_dtype(DType::F64)?.to_vec1()?,
            grad_bias: grad_bias.to_vec1()?,
            grad_weight: grad_weight.to_vec1()?,
        };
        Ok((
            x.apply_op2_no_bwd(&grad, &grad_x)?,
            grad_weight.to_dtype(weight.dtype())?,
            grad_bias.to_dtype(weight.dtype())?,
        ))
    }
}

/// The gradients of bias and weight, one behind the other: Σ g and Σ g · (x − mean) · scale.
struct GradSums(Normalise);

impl CustomOp2 for GradSums {
    fn name(&self) -> &'static str {
        "batch_norm-grad-sums"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn sums<T: Real>(n: &Normalise, x: &[T], grad: &[T], area: usize) -> Vec<f64> {
            let channels = n.mean.len();
            let planes: Vec<(f64, f64)> = x
                .par_chunks(area)
                .zip(grad.par_chunks(area))
                .enumerate()
                .with_min_len(PLANES_PER_TASK)
                .map(|(plane, (x, grad))| {
                    let mean = T::from_f64(n.mean[plane % channels]);
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            let sum = sum_by(area, |i| grad[i]);
                            (sum, sum_by(area, |i| grad[i] * (x[i] - mean)))
                        },
                    )
                })
                .collect();
            let mut sums = vec![0.0; 2 * channels];
            for (i, (sum, product)) in planes.into_iter().enumerate() {
                sums[i % channels] += sum;
                sums[channels + i % channels] += product * n.scale[i % channels];
            }
            sums
        }
        let (_, channels, height, width) = x_layout.shape().dims4()?;
        let out = dispatch!(self, x, T => sums::<T>(
            &self.0,
            contiguous(x, x_layout)?,
            contiguous(grad, grad_layout)?,
            height * width,
        ));
        Ok((CpuStorage::F64(out), Shape::from(2 * channels)))
    }
}

/// `scale · weight · (g − mean(g) − x̂ · mean(g · x̂))` where the moments are the batch's, else
/// `scale · weight · g`.
struct GradX {
    normalise: Normalise,
    weight: Vec<f64>,
    grad_bias: Vec<f64>,
    grad_weight: Vec<f64>,
}

impl CustomOp2 for GradX {
    fn name(&self) -> &'static str {
        "batch_norm-grad-input"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(g: &GradX, x: &[T], grad: &[T], area: usize) -> Vec<T> {
            let (n, channels) = (&g.normalise, g.weight.len());
            let count = (x.len() / channels) as f64;
            // As `g · a + x · b + c`.
            let lines: Vec<(T, T, T)> = (0..channels)
                .map(|channel| {
                    let slope = n.scale[channel] * g.weight[channel];
                    let of_batch = f64::from(u8::from(n.of_batch)) / count;
                    let by_x = -slope * n.scale[channel] * g.grad_weight[channel] * of_batch;
                    let start = -slope * g.grad_bias[channel] * of_batch - by_x * n.mean[channel];
                    (T::from_f64(slope), T::from_f64(by_x), T::from_f64(start))
                })
                .collect();
            let mut out = unset(x.len());
            out.par_chunks_mut(area)
                .zip(x.par_chunks(area))
                .zip(grad.par_chunks(area))
                .enumerate()
                .with_min_len(PLANES_PER_TASK)
                .for_each(|(plane, ((out, x), grad))| {
                    let (slope, by_x, start) = lines[plane % channels];
                    Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                                *out = grad * slope + (x * by_x + start);
                            }
                        },
                    );
                });
            out
        }
        let (_, _, height, width) = x_layout.shape().dims4()?;
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(backward::<T>(
            self,
            contiguous(x, x_layout)?,
            contiguous(grad, grad_layout)?,
            height * width,
        )));
        Ok((out, x_layout.shape().clone()))
    }
}
