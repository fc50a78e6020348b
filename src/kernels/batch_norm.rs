//! Batch normalisation of images (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>). candle
//! composes it of a dozen tensor operations, which take several times the convolution before it.

use super::{Input, Number, Op, Operation, Thread, Update, by_chunks, contiguous, dispatch, each, slices};
use crate::simd::Real;
use candle_core::{CpuStorage, DType, Result, Shape, Tensor, bail};

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

    fn kernel(&self) -> Result<Vec<Number>> {
        Ok(vec![self.decay.into(), self.factor.into()])
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

/// Two numbers that `f` makes of each plane of `area` elements, given its number.
fn of_planes<T: Real, const N: usize>(
    inputs: [&[T]; N],
    area: usize,
    f: impl Fn(usize, [&[T]; N]) -> [f64; 2] + Sync,
) -> Vec<[f64; 2]> {
    let planes = by_chunks(
        inputs,
        (2 * inputs[0].len() / area, 2),
        || (),
        #[inline(always)]
        |plane, inputs: [&[T]; N], (): &mut (), out: &mut [f64]| out.copy_from_slice(&f(plane, inputs)),
    );
    planes.as_chunks().0.to_vec()
}

/// Channels of images (batch, channels, height, width), and the pixels of each.
fn sizes(images: &Shape) -> Result<(usize, usize)> {
    let (_, channels, height, width) = images.dims4()?;
    Ok((channels, height * width))
}

/// Means of all channels and behind them variances, given mean and Σ (x − mean)² of every channel of every image, of `area`
/// pixels: combined as in Chan, Golub and LeVeque 1979, in the order of the batch.
pub(crate) fn join(planes: &[[f64; 2]], channels: usize, area: usize) -> Vec<f64> {
    let batch = planes.len() / channels;
    let mut moments = vec![0.0; 2 * channels];
    for channel in 0..channels {
        let of = |i: usize| planes[i * channels + channel];
        let mean = (0..batch).map(|i| of(i)[0]).sum::<f64>() / batch as f64;
        let square: f64 = (0..batch).map(|i| of(i)[1] + area as f64 * (of(i)[0] - mean).powi(2)).sum();
        moments[channel] = mean;
        moments[channels + channel] = square / (batch * area) as f64;
    }
    moments
}

/// Mean and variance of every channel: (batch, channels, height, width) to f64 (2 · channels).
/// Single planes stay in the cache between the two sums.
struct Sums;

impl Operation<1> for Sums {
    fn name(&self) -> &'static str {
        "moments"
    }

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        Ok(Shape::from(2 * sizes(x)?.0))
    }

    fn cpu_storage(&self, [x]: [Input<'_>; 1]) -> Result<CpuStorage> {
        fn moments<T: Real>(x: &[T], channels: usize, area: usize) -> Vec<f64> {
            let planes = of_planes(
                [x],
                area,
                #[inline(always)]
                |_, [plane]| {
                    let mean = sum_by(area, |i| plane[i]) / area as f64;
                    let center = T::from_f64(mean);
                    [mean, sum_by(area, |i| (plane[i] - center) * (plane[i] - center))]
                },
            );
            join(&planes, channels, area)
        }
        let (channels, area) = sizes(x.1.shape())?;
        Ok(CpuStorage::F64(dispatch!(self, x.0, T => moments::<T>(contiguous(x)?, channels, area))))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Channel, Vec::new()))
    }
}

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

    /// Of each channel slope and start: the result is `x · slope + start`, one multiplication and one addition per pixel.
    fn slopes<T: Real>(&self, weight: &[T], bias: &[T]) -> Result<Vec<(T, T)>> {
        let (mean, scale) = self.lines()?;
        let line = |c: usize| {
            let slope = scale[c] * weight[c].to_f64();
            let start = bias[c].to_f64() - mean[c] * slope;
            (T::from_f64(slope), T::from_f64(start))
        };
        Ok((0..weight.len()).map(line).collect())
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

    fn cpu<T: Real>(&self, [x, weight, bias]: [&[T]; 3], shape: &Shape) -> Result<Vec<T>> {
        let (lines, (channels, area)) = (self.slopes(weight, bias)?, sizes(shape)?);
        Ok(by_chunks(
            [x],
            (x.len(), area),
            || (),
            #[inline(always)]
            |plane, x: [&[T]; 1], (): &mut (), out: &mut [T]| {
                let (slope, start) = lines[plane % channels];
                each(out, x, |[x]| x * slope + start);
            },
        ))
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        let (channels, area) = sizes(shape)?;
        Ok((Thread::Results, vec![channels.into(), area.into(), EPSILON.into()]))
    }

    fn held(&self) -> Vec<&Tensor> {
        vec![&self.mean, &self.variance]
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
        "batch_norm_sums"
    }

    fn shape(&self, [x, _]: [&Shape; 2]) -> Result<Shape> {
        Ok(Shape::from(2 * sizes(x)?.0))
    }

    fn cpu_storage(&self, inputs: [Input<'_>; 2]) -> Result<CpuStorage> {
        fn sums<T: Real>(norm: &Normalise, inputs: [&[T]; 2], area: usize) -> Result<Vec<f64>> {
            let (mean, scale) = norm.lines()?;
            let channels = mean.len();
            let planes = of_planes(
                inputs,
                area,
                #[inline(always)]
                |plane, [x, grad]| {
                    let mean = T::from_f64(mean[plane % channels]);
                    [sum_by(area, |i| grad[i]), sum_by(area, |i| grad[i] * (x[i] - mean))]
                },
            );
            let mut sums = vec![0.0; 2 * channels];
            for (i, [sum, product]) in planes.into_iter().enumerate() {
                sums[i % channels] += sum;
                sums[channels + i % channels] += product * scale[i % channels];
            }
            Ok(sums)
        }
        let (_, area) = sizes(inputs[0].1.shape())?;
        Ok(CpuStorage::F64(dispatch!(self, inputs[0].0, T => sums::<T>(&self.0, slices(inputs)?, area)?)))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Channel, vec![EPSILON.into()]))
    }

    fn held(&self) -> Vec<&Tensor> {
        self.0.held()
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
        "batch_norm_grad"
    }

    fn cpu<T: Real>(&self, inputs: [&[T]; 2], shape: &Shape) -> Result<Vec<T>> {
        let ((mean, scale), (channels, area)) = (self.normalise.lines()?, sizes(shape)?);
        let weight = self.weight.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let sums = self.sums.to_vec1::<f64>()?;
        let count = (shape.elem_count() / channels) as f64;
        let of_batch = f64::from(u8::from(self.normalise.of_batch)) / count;
        // As `g · a + x · b + c`.
        let line = |c: usize| {
            let slope = scale[c] * weight[c];
            let by_x = -slope * scale[c] * sums[channels + c] * of_batch;
            let start = -slope * sums[c] * of_batch - by_x * mean[c];
            (T::from_f64(slope), T::from_f64(by_x), T::from_f64(start))
        };
        let lines: Vec<(T, T, T)> = (0..channels).map(line).collect();
        Ok(by_chunks(
            inputs,
            (shape.elem_count(), area),
            || (),
            #[inline(always)]
            |plane, inputs: [&[T]; 2], (): &mut (), out: &mut [T]| {
                let (slope, by_x, start) = lines[plane % channels];
                each(out, inputs, |[x, grad]| grad * slope + (x * by_x + start));
            },
        ))
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        let ((channels, area), of_batch) = (sizes(shape)?, usize::from(self.normalise.of_batch));
        Ok((Thread::Results, vec![channels.into(), area.into(), of_batch.into(), EPSILON.into()]))
    }

    fn held(&self) -> Vec<&Tensor> {
        vec![&self.weight, &self.normalise.mean, &self.normalise.variance, &self.sums]
    }
}
