//! Batch normalisation of images (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>). candle
//! composes it of a dozen tensor operations, which take several times the convolution before it.

use super::{Input, Op, Operation, Update, contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::{Real, vectorized};
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// Added to the variance; Chainer's value.
pub const EPSILON: f64 = 2e-5;

/// Mean and variance of every channel of a batch; they stay on its device.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Means (channels): in f64 on the CPU, on a GPU in the type of the images.
    pub mean: Tensor,
    /// Variances likewise, divided by the number of values rather than one less.
    pub variance: Tensor,
    /// Values of a channel: batch × height × width.
    pub count: usize,
}

/// Normalises every channel of `x` (batch, channels, height, width) to mean 0 and variance 1 by the
/// moments of this batch, and scales and shifts it by `weight` and `bias` (channels): training.
/// Returns the result, differentiable in all three arguments, moments included, and the moments.
/// f32 and f64. Fails when the sizes do not fit.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(Tensor, Moments)> {
    check(x, weight, bias)?;
    let x = x.contiguous()?;
    let moments = Moments::of(&x)?;
    let op = Normalise::new(&x, &moments.mean, &moments.variance, true)?;
    Ok((x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Op(op))?, moments))
}

impl Moments {
    fn of(x: &Tensor) -> Result<Self> {
        let (batch, channels, height, width) = x.dims4()?;
        let moments = x.apply_op1_no_bwd(&Op(Sums))?;
        Ok(Self {
            mean: moments.narrow(0, 0, channels)?,
            variance: moments.narrow(0, channels, channels)?,
            count: batch * height * width,
        })
    }

    /// The gradients of `x`, weight and bias of [`batch_norm`], given the output's.
    pub fn backward(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        Normalise::new(x, &self.mean, &self.variance, true)?.backward(x, weight, grad)
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
    let channels = x.dim(1)?;
    if mean.dims() != [channels] || variance.dims() != [channels] {
        bail!(
            "batch_norm: {channels} channels need as many means and variances, got {:?} and {:?}",
            mean.shape(),
            variance.shape()
        )
    }
    let op = Normalise::new(x, mean, variance, false)?;
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Op(op))
}

/// Updates `running` (channels) in place to `decay · running + (1 − decay) · factor · batch`.
pub fn update_running(running: &Tensor, batch: &Tensor, factor: f64, decay: f64) -> Result<()> {
    running.inplace_op2(batch, &Op(UpdateRunning { factor, decay }))
}

struct UpdateRunning {
    factor: f64,
    decay: f64,
}

impl Update<1> for UpdateRunning {
    fn name(&self) -> &'static str {
        "update_running"
    }

    fn cpu(&self, running: &mut [f32], [batch]: [Input<'_>; 1]) -> Result<()> {
        let (keep, take) = (self.decay as f32, (1.0 - self.decay) as f32);
        for (running, &batch) in running.iter_mut().zip(contiguous::<f64>(batch)?) {
            *running = *running * keep + (batch * self.factor) as f32 * take;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn kernel(&self) -> Result<(&'static str, Vec<cuda::Number>)> {
        Ok((self.name(), vec![self.decay.into(), self.factor.into()]))
    }
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
/// Moments of single planes, which stay in the cache between the two sums, are combined as in
/// Chan, Golub and LeVeque 1979, in the order of the batch.
struct Sums;

impl Operation<1> for Sums {
    fn name(&self) -> &'static str {
        "batch_norm-moments"
    }

    fn cpu(&self, [x]: [Input<'_>; 1]) -> Result<(CpuStorage, Shape)> {
        fn moments<T: Real>(x: &[T], channels: usize, area: usize) -> Vec<f64> {
            let planes: Vec<(f64, f64)> = x
                .par_chunks(area)
                .with_min_len(PLANES_PER_TASK)
                .map(|plane| {
                    vectorized(
                        #[inline(always)]
                        || {
                            let mean = sum_by(area, |i| plane[i]) / area as f64;
                            let center = T::from_f64(mean);
                            let square = sum_by(area, |i| (plane[i] - center) * (plane[i] - center));
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
                let square: f64 = (0..batch).map(|i| of(i).1 + area as f64 * (of(i).0 - mean).powi(2)).sum();
                moments[channel] = mean;
                moments[channels + channel] = square / (batch * area) as f64;
            }
            moments
        }
        let (_, channels, height, width) = x.1.shape().dims4()?;
        let out = dispatch!(self, x.0, T => moments::<T>(contiguous(x)?, channels, height * width));
        Ok((CpuStorage::F64(out), Shape::from(2 * channels)))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x]: [cuda::Input<'_>; 1]) -> Result<(CudaStorage, Shape)> {
        let (batch, channels, height, width) = x.1.shape().dims4()?;
        let (dtype, area) = (x.0.dtype(), height * width);
        let sizes = (batch, channels, area);
        let out = cuda::channel_sums("moments", dtype, &[x], sizes, &[], 2 * channels)?;
        Ok((out, Shape::from(2 * channels)))
    }
}

/// Planes are small: a task takes several, so that starting it costs less than running it.
const PLANES_PER_TASK: usize = 16;

/// `(x − mean) · scale · weight + bias`, channel by channel; the scale is 1 / √(variance + ε).
#[derive(Debug, Clone)]
struct Normalise {
    mean: Tensor,
    variance: Tensor,
    /// Whether mean and variance depend on x, which the gradient then accounts for.
    of_batch: bool,
}

impl Normalise {
    fn new(x: &Tensor, mean: &Tensor, variance: &Tensor, of_batch: bool) -> Result<Self> {
        // The kernels take them in the type of x.
        let dtype = if x.device().is_cuda() { x.dtype() } else { DType::F64 };
        Ok(Self {
            mean: mean.to_dtype(dtype)?.contiguous()?,
            variance: variance.to_dtype(dtype)?.contiguous()?,
            of_batch,
        })
    }

    /// Mean and scale of every channel, on the CPU.
    fn lines(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let values = |t: &Tensor| t.to_vec1::<f64>();
        let scale = |v: &f64| 1.0 / (v + EPSILON).sqrt();
        let variance = values(&self.variance)?;
        Ok((values(&self.mean)?, variance.iter().map(scale).collect()))
    }
}

impl Operation<3> for Normalise {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu(&self, [x, weight, bias]: [Input<'_>; 3]) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(
            (mean, scale): &(Vec<f64>, Vec<f64>),
            x: &[T],
            weight: &[T],
            bias: &[T],
            area: usize,
        ) -> Vec<T> {
            let channels = weight.len();
            // One multiplication and one addition per pixel.
            let lines: Vec<(T, T)> = (0..channels)
                .map(|c| {
                    let slope = scale[c] * weight[c].to_f64();
                    let start = bias[c].to_f64() - mean[c] * slope;
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
                    vectorized(
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
        let (_, _, height, width) = x.1.shape().dims4()?;
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(forward::<T>(
            &self.lines()?,
            contiguous(x)?,
            contiguous(weight)?,
            contiguous(bias)?,
            height * width,
        )));
        Ok((out, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, weight, bias]: [cuda::Input<'_>; 3]) -> Result<(CudaStorage, Shape)> {
        let (_, channels, height, width) = x.1.shape().dims4()?;
        let (mean, mean_layout) = self.mean.storage_and_layout();
        let (variance, variance_layout) = self.variance.storage_and_layout();
        let inputs = [
            x,
            weight,
            bias,
            (cuda::storage(&mean)?, mean_layout),
            (cuda::storage(&variance)?, variance_layout),
        ];
        let numbers = [channels.into(), (height * width).into(), EPSILON.into()];
        let shape = x.1.shape().clone();
        let out = cuda::map_images("normalise", x.0.dtype(), &inputs, shape.elem_count(), &numbers)?;
        Ok((out, shape))
    }

    fn backward(
        &self,
        [x, weight, _bias]: [&Tensor; 3],
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (x, weight, bias) = self.backward(x, weight, grad)?;
        Ok([Some(x), Some(weight), Some(bias)])
    }
}

impl Normalise {
    fn backward(&self, x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let grad = grad.contiguous()?;
        let (_, channels, ..) = x.dims4()?;
        let sums = x.apply_op2_no_bwd(&grad, &Op(GradSums(self.clone())))?;
        let grad_bias = sums.narrow(0, 0, channels)?;
        let grad_weight = sums.narrow(0, channels, channels)?;
        let grad_x = GradX { normalise: self.clone(), weight: weight.contiguous()?, sums };
        Ok((
            x.apply_op2_no_bwd(&grad, &Op(grad_x))?,
            grad_weight.to_dtype(weight.dtype())?,
            grad_bias.to_dtype(weight.dtype())?,
        ))
    }
}

/// The gradients of bias and weight, one behind the other: Σ g and Σ g · (x − mean) · scale.
struct GradSums(Normalise);

impl Operation<2> for GradSums {
    fn name(&self) -> &'static str {
        "batch_norm-grad-sums"
    }

    fn cpu(&self, [x, grad]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        fn sums<T: Real>((mean, scale): &(Vec<f64>, Vec<f64>), x: &[T], grad: &[T], area: usize) -> Vec<f64> {
            let channels = mean.len();
            let planes: Vec<(f64, f64)> = x
                .par_chunks(area)
                .zip(grad.par_chunks(area))
                .enumerate()
                .with_min_len(PLANES_PER_TASK)
                .map(|(plane, (x, grad))| {
                    let mean = T::from_f64(mean[plane % channels]);
                    vectorized(
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
                sums[channels + i % channels] += product * scale[i % channels];
            }
            sums
        }
        let (_, channels, height, width) = x.1.shape().dims4()?;
        let out = dispatch!(self, x.0, T => sums::<T>(
            &self.0.lines()?,
            contiguous(x)?,
            contiguous(grad)?,
            height * width,
        ));
        Ok((CpuStorage::F64(out), Shape::from(2 * channels)))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, grad]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (batch, channels, height, width) = x.1.shape().dims4()?;
        let (mean, mean_layout) = self.0.mean.storage_and_layout();
        let (variance, variance_layout) = self.0.variance.storage_and_layout();
        let inputs =
            [x, grad, (cuda::storage(&mean)?, mean_layout), (cuda::storage(&variance)?, variance_layout)];
        let (dtype, sizes) = (x.0.dtype(), (batch, channels, height * width));
        let numbers = [EPSILON.into()];
        let out = cuda::channel_sums("normalise_sums", dtype, &inputs, sizes, &numbers, 2 * channels)?;
        Ok((out, Shape::from(2 * channels)))
    }
}

/// `scale · weight · (g − mean(g) − x̂ · mean(g · x̂))` where the moments are the batch's, else
/// `scale · weight · g`.
struct GradX {
    normalise: Normalise,
    weight: Tensor,
    /// Of [`GradSums`].
    sums: Tensor,
}

impl Operation<2> for GradX {
    fn name(&self) -> &'static str {
        "batch_norm-grad-input"
    }

    fn cpu(&self, [x, grad]: [Input<'_>; 2]) -> Result<(CpuStorage, Shape)> {
        let (mean, scale) = self.normalise.lines()?;
        let weight = self.weight.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let sums = self.sums.to_vec1::<f64>()?;
        let of_batch = f64::from(u8::from(self.normalise.of_batch));
        let lines = |count: f64| -> Vec<(f64, f64, f64)> {
            let channels = weight.len();
            // As `g · a + x · b + c`.
            (0..channels)
                .map(|channel| {
                    let slope = scale[channel] * weight[channel];
                    let of_batch = of_batch / count;
                    let by_x = -slope * scale[channel] * sums[channels + channel] * of_batch;
                    let start = -slope * sums[channel] * of_batch - by_x * mean[channel];
                    (slope, by_x, start)
                })
                .collect()
        };
        fn apply<T: Real>(lines: &[(f64, f64, f64)], x: &[T], grad: &[T], area: usize) -> Vec<T> {
            let line = |&(a, b, c): &(f64, f64, f64)| (T::from_f64(a), T::from_f64(b), T::from_f64(c));
            let lines: Vec<(T, T, T)> = lines.iter().map(line).collect();
            let channels = lines.len();
            let mut out = unset(x.len());
            out.par_chunks_mut(area)
                .zip(x.par_chunks(area))
                .zip(grad.par_chunks(area))
                .enumerate()
                .with_min_len(PLANES_PER_TASK)
                .for_each(|(plane, ((out, x), grad))| {
                    let (slope, by_x, start) = lines[plane % channels];
                    vectorized(
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
        let (batch, _, height, width) = x.1.shape().dims4()?;
        let lines = lines((batch * height * width) as f64);
        let out = dispatch!(self, x.0, T => T::to_cpu_storage_owned(apply::<T>(
            &lines,
            contiguous(x)?,
            contiguous(grad)?,
            height * width,
        )));
        Ok((out, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, [x, grad]: [cuda::Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
        let (_, channels, height, width) = x.1.shape().dims4()?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let (mean, mean_layout) = self.normalise.mean.storage_and_layout();
        let (variance, variance_layout) = self.normalise.variance.storage_and_layout();
        let (sums, sums_layout) = self.sums.storage_and_layout();
        let inputs = [
            x,
            grad,
            (cuda::storage(&weight)?, weight_layout),
            (cuda::storage(&mean)?, mean_layout),
            (cuda::storage(&variance)?, variance_layout),
            (cuda::storage(&sums)?, sums_layout),
        ];
        let of_batch = usize::from(self.normalise.of_batch);
        let sizes = [channels, height * width, of_batch].map(cuda::Number::from);
        let numbers = [&sizes[..], &[EPSILON.into()]].concat();
        let shape = x.1.shape().clone();
        let out = cuda::map_images("normalise_grad", x.0.dtype(), &inputs, shape.elem_count(), &numbers)?;
        Ok((out, shape))
    }
}
