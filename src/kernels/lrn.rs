//! Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3), as Chainer
//! computes it: `y = x / (k + alpha * sum x²)^beta`, the sum over `n` neighbouring channels and
//! alpha not divided by `n`.

use super::{Number, Op, Operation, Thread, by_chunks, each};
use crate::simd::Real;
use candle_core::{Result, Shape, Tensor, bail};

/// The constants of a local response normalisation.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lrn {
    /// Channels in the sum, an odd number; the sum is centred and stops at the first and last
    /// channel.
    pub n: usize,
    /// Added to the sum, above 0.
    pub k: f64,
    /// Factor of the sum of squares.
    pub alpha: f64,
    /// Exponent.
    pub beta: f64,
}

impl Default for Lrn {
    /// The values in the authors' AlexNet: n = 3, alpha = 5e-5, beta = 0.75, and Chainer's k = 2.
    fn default() -> Self {
        Self { n: 3, k: 2.0, alpha: 5e-5, beta: 0.75 }
    }
}

/// Normalises `x` (batch, channels, height, width) across channels; the shape stays. f32 and
/// f64. Fails when `n` is even or `k` is not above 0.
pub fn lrn(x: &Tensor, constants: Lrn) -> Result<Tensor> {
    x.dims4()?;
    constants.check()?;
    x.contiguous()?.apply_op1(Op(constants))
}

impl Lrn {
    /// Fails when `n` is even or `k` is not above 0.
    pub fn check(&self) -> Result<()> {
        if self.n.is_multiple_of(2) || self.k <= 0.0 {
            bail!("lrn: n must be odd and k above 0, got n = {} and k = {}", self.n, self.k)
        }
        Ok(())
    }

    /// The gradient of `x`, given the output's.
    pub fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&grad.contiguous()?, &Op(LrnGrad(*self)))
    }

    /// As the kernels take them, for images of this shape.
    fn numbers(&self, shape: &Shape) -> Result<Vec<Number>> {
        let (_, channels, height, width) = shape.dims4()?;
        let sizes = [channels, height * width, self.n].map(Number::from);
        Ok(sizes.into_iter().chain([self.k, self.alpha, self.beta].map(Number::from)).collect())
    }

    /// `k + alpha · Σ x²` for every element of one image of `planes` of `area` pixels.
    #[inline(always)]
    fn scales<T: Real>(&self, image: &[T], area: usize, scales: &mut [T]) {
        let (channels, half) = (image.len() / area, self.n / 2);
        let (k, alpha) = (T::from_f64(self.k), T::from_f64(self.alpha));
        for (channel, scales) in scales.chunks_mut(area).enumerate() {
            scales.fill(T::zero());
            for near in channel.saturating_sub(half)..(channel + half + 1).min(channels) {
                for (scale, &x) in scales.iter_mut().zip(&image[near * area..]) {
                    *scale += x * x;
                }
            }
            scales.iter_mut().for_each(|scale| *scale = k + alpha * *scale);
        }
    }

    /// Replaces every scale by `scale^-beta`. For the usual beta of 3/4 two square roots do, many times
    /// faster than a power.
    #[inline(always)]
    pub fn powers<T: Real>(&self, scales: &mut [T]) {
        if self.beta == 0.75 {
            let one = T::from_f64(1.0);
            for scale in scales {
                let root = scale.root();
                *scale = one / (root * root.root());
            }
        } else {
            for scale in scales {
                *scale = T::from_f64(scale.to_f64().powf(-self.beta));
            }
        }
    }

    /// The gradient of one image. `scales`, `powers` and `inner` are scratch of the image's size.
    #[inline(always)]
    fn image_grad<T: Real>(
        &self,
        (image, grad): (&[T], &[T]),
        area: usize,
        [scales, powers, inner]: [&mut [T]; 3],
        out: &mut [T],
    ) {
        let factor = T::from_f64(-2.0 * self.alpha * self.beta);
        let (channels, half) = (image.len() / area, self.n / 2);
        self.scales(image, area, scales);
        powers.copy_from_slice(scales);
        self.powers(powers);
        each(out, [grad, powers], |[g, power]| g * power);
        each(inner, [grad, image, powers, scales], |[g, x, power, scale]| g * x * power / scale);
        for (channel, out) in out.chunks_mut(area).enumerate() {
            let image = &image[channel * area..][..area];
            for near in channel.saturating_sub(half)..(channel + half + 1).min(channels) {
                let inner = &inner[near * area..][..area];
                for ((out, &x), &inner) in out.iter_mut().zip(image).zip(inner) {
                    *out += factor * x * inner;
                }
            }
        }
    }
}

/// A normalisation of pixels whose channels lie side by side, and what it needs for one of them.
pub struct Near<'a> {
    lrn: &'a Lrn,
    /// What is summed up, with zeros where the sums reach beyond the first and the last channel.
    terms: Vec<f32>,
    scales: Vec<f32>,
    powers: Vec<f32>,
}

impl<'a> Near<'a> {
    pub fn new(lrn: &'a Lrn, channels: usize) -> Self {
        let terms = vec![0.0; channels + lrn.n - 1];
        Self { lrn, terms, scales: vec![0.0; channels], powers: vec![0.0; channels] }
    }

    /// Of each channel the sum over its neighbours.
    #[inline(always)]
    fn sums(terms: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for near in 0..=terms.len() - sums.len() {
            sums.iter_mut().zip(&terms[near..]).for_each(|(sum, term)| *sum += term);
        }
    }

    #[inline(always)]
    fn scale(&mut self, pixel: &[f32]) {
        let (k, alpha, half) = (self.lrn.k as f32, self.lrn.alpha as f32, self.lrn.n / 2);
        self.terms[half..].iter_mut().zip(pixel).for_each(|(square, x)| *square = x * x);
        Self::sums(&self.terms, &mut self.scales);
        self.scales.iter_mut().for_each(|scale| *scale = k + alpha * *scale);
        self.powers.copy_from_slice(&self.scales);
        self.lrn.powers(&mut self.powers);
    }

    #[inline(always)]
    pub fn normalise(&mut self, pixel: &[f32], out: &mut [f32]) {
        self.scale(pixel);
        for ((out, x), power) in out.iter_mut().zip(pixel).zip(&self.powers) {
            *out = x * power;
        }
    }

    /// The gradient of a pixel, given its output's.
    #[inline(always)]
    pub fn gradient(&mut self, pixel: &[f32], grad: &[f32], out: &mut [f32]) {
        self.scale(pixel);
        let (channels, half) = (pixel.len(), self.lrn.n / 2);
        let factor = (-2.0 * self.lrn.alpha * self.lrn.beta) as f32;
        let terms = &mut self.terms[half..][..channels];
        let (powers, scales) = (&self.powers[..channels], &mut self.scales[..channels]);
        for c in 0..channels {
            terms[c] = grad[c] * pixel[c] * powers[c] / scales[c];
        }
        Self::sums(&self.terms, scales);
        for c in 0..channels {
            out[c] = grad[c] * powers[c] + factor * pixel[c] * scales[c];
        }
    }
}

impl Operation<1> for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }

    fn cpu<T: Real>(&self, x: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let (_, channels, height, width) = shape.dims4()?;
        let (area, size) = (height * width, channels * height * width);
        Ok(by_chunks(
            x,
            (shape.elem_count(), size),
            || vec![T::zero(); size],
            #[inline(always)]
            |_, [image]: [&[T]; 1], scales: &mut Vec<T>, out: &mut [T]| {
                self.scales(image, area, scales);
                self.powers(scales);
                each(out, [image, scales], |[x, power]| x * power);
            },
        ))
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.numbers(shape)?))
    }

    fn backward(&self, [x]: [&Tensor; 1], _out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(self.backward(x, grad)?)])
    }
}

/// `dx_i = g_i s_i^-beta − 2 alpha beta x_i Σ_j g_j x_j s_j^(-beta-1)`, j over the channels whose
/// sum holds x_i.
struct LrnGrad(Lrn);

impl Operation<2> for LrnGrad {
    fn name(&self) -> &'static str {
        "lrn_grad"
    }

    fn cpu<T: Real>(&self, inputs: [&[T]; 2], shape: &Shape) -> Result<Vec<T>> {
        let (_, channels, height, width) = shape.dims4()?;
        let (area, size) = (height * width, channels * height * width);
        let zeros = || vec![T::zero(); size];
        Ok(by_chunks(
            inputs,
            (shape.elem_count(), size),
            || (zeros(), zeros(), zeros()),
            #[inline(always)]
            |_, [image, grad]: [&[T]; 2], (a, b, c): &mut (Vec<T>, Vec<T>, Vec<T>), out: &mut [T]| {
                self.0.image_grad((image, grad), area, [a, b, c], out);
            },
        ))
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.0.numbers(shape)?))
    }
}
