//! The end of a residual block (He et al. 2016, <https://arxiv.org/abs/1512.03385>, option A): the
//! block's input comes in again, without parameters.

use super::{Number, Op, Operation, Thread, by_chunks, each};
use crate::simd::Real;
use candle_core::{Result, Shape, Tensor, bail};
use serde::{Deserialize, Serialize};

/// `max(body + shortcut(x), 0)`: the shortcut takes every `s`-th pixel of `x` (batch, in, height,
/// width) and puts zero channels *in front* until it has the shape of `body` (batch, out, ⌈height /
/// s⌉, ⌈width / s⌉), as the authors' code does; elsewhere by [`Shortcut::add`]. Differentiable in both; f32 and f64. Fails
/// when `x` has more channels than `body`, or another batch, or no `s` fits.
pub fn add_shortcut(body: &Tensor, x: &Tensor) -> Result<Tensor> {
    Shortcut::between(x, body, Zeros::Front)?.add(body, x)
}

/// Where channels of zeros go that a block's input lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zeros {
    /// In front, as in the authors' code.
    #[default]
    Front,
    /// Half of them in front, half behind.
    Around,
    /// Behind.
    Behind,
}

/// Where the pixels of a block's input end up in its output.
#[derive(Debug, Clone, Copy)]
pub struct Shortcut {
    from: [usize; 3],
    to: [usize; 3],
    stride: usize,
    /// Channels of zeros in front.
    front: usize,
}

impl Shortcut {
    pub fn new(from: [usize; 3], to: [usize; 3], zeros: Zeros) -> Result<Self> {
        let fits = |s: &usize| from[1].div_ceil(*s) == to[1] && from[2].div_ceil(*s) == to[2];
        match (1..=4).find(fits) {
            Some(stride) if from[0] <= to[0] => {
                let lacking = to[0] - from[0];
                let front = match zeros {
                    Zeros::Front => lacking,
                    Zeros::Around => lacking / 2,
                    Zeros::Behind => 0,
                };
                Ok(Self { from, to, stride, front })
            }
            _ => bail!(
                "a residual block cannot add its input of {}x{}x{} to {}x{}x{}",
                from[0],
                from[1],
                from[2],
                to[0],
                to[1],
                to[2]
            ),
        }
    }

    /// [`add_shortcut`] of tensors that this is [`Self::between`].
    pub fn add(self, body: &Tensor, x: &Tensor) -> Result<Tensor> {
        let (batch, x_batch) = (body.dims()[0], x.dims()[0]);
        if batch != x_batch {
            bail!("add_shortcut: the body has {batch} samples and its input {x_batch}")
        }
        body.contiguous()?.apply_op2(&x.contiguous()?, Op(self))
    }

    /// The gradients of body and input, given the output and its gradient.
    pub fn backward(&self, out: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
        let masked = super::relu_backward(out, grad)?;
        let grad_x = if self.is_identity() {
            masked.clone()
        } else {
            masked.apply_op1_no_bwd(&Op(ShortcutGrad(*self)))?
        };
        Ok((masked, grad_x))
    }

    /// That from `x` to `body`, batches of images.
    pub fn between(x: &Tensor, body: &Tensor, zeros: Zeros) -> Result<Self> {
        let image = |t: &Tensor| -> Result<[usize; 3]> {
            let (_, channels, height, width) = t.dims4()?;
            Ok([channels, height, width])
        };
        Self::new(image(x)?, image(body)?, zeros)
    }

    /// Whether the input comes in as it is.
    pub fn is_identity(&self) -> bool {
        self.from == self.to
    }

    /// The distance of the pixels that it takes, and the channels of zeros in front.
    pub fn strides(&self) -> [usize; 2] {
        [self.stride, self.front]
    }

    /// As the kernels take them.
    fn sizes(&self) -> Vec<Number> {
        self.from.iter().chain(&self.to).chain([&self.stride, &self.front]).map(|&size| size.into()).collect()
    }

    fn input_len(&self) -> usize {
        self.from.iter().product()
    }

    fn output_len(&self) -> usize {
        self.to.iter().product()
    }

    /// Calls `row(from, to)` with the starts of matching rows; pixel `x` of the output is pixel
    /// `x · stride` of the input.
    #[inline(always)]
    fn rows(&self, mut row: impl FnMut(usize, usize)) {
        for channel in 0..self.from[0] {
            for y in 0..self.to[1] {
                row(
                    (channel * self.from[1] + y * self.stride) * self.from[2],
                    ((channel + self.front) * self.to[1] + y) * self.to[2],
                );
            }
        }
    }

    /// `out = max(body + shortcut(x), 0)` for one sample without gaps.
    #[inline(always)]
    fn image<T: Real>(&self, body: &[T], x: &[T], out: &mut [T]) {
        let rectified = |x: T| if x < T::zero() { T::zero() } else { x };
        if self.is_identity() {
            return each(out, [body, x], |[body, x]| rectified(body + x));
        }
        each(out, [body], |[body]| rectified(body));
        self.rows(|from, to| {
            for i in 0..self.to[2] {
                out[to + i] = rectified(body[to + i] + x[from + i * self.stride]);
            }
        });
    }
}

impl Operation<2> for Shortcut {
    fn name(&self) -> &'static str {
        "add_shortcut"
    }

    fn cpu<T: Real>(&self, inputs: [&[T]; 2], _: &Shape) -> Result<Vec<T>> {
        Ok(by_chunks(
            inputs,
            (inputs[0].len(), self.output_len()),
            || (),
            #[inline(always)]
            |_, [body, x]: [&[T]; 2], (): &mut (), out: &mut [T]| self.image(body, x, out),
        ))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.sizes()))
    }

    fn backward(
        &self,
        [_body, _x]: [&Tensor; 2],
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (body, x) = self.backward(out, grad)?;
        Ok([Some(body), Some(x)])
    }
}

struct ShortcutGrad(Shortcut);

impl Operation<1> for ShortcutGrad {
    fn name(&self) -> &'static str {
        "add_shortcut_grad"
    }

    fn shape(&self, [grad]: [&Shape; 1]) -> Result<Shape> {
        let [channels, height, width] = self.0.from;
        Ok(Shape::from((grad.dims()[0], channels, height, width)))
    }

    fn cpu<T: Real>(&self, [grad]: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let s = &self.0;
        let work = |_, [grad]: [&[T]; 1], (): &mut (), out: &mut [T]| {
            out.fill(T::zero());
            s.rows(|from, to| {
                for i in 0..s.to[2] {
                    out[from + i * s.stride] = grad[to + i];
                }
            });
        };
        Ok(by_chunks([grad], (shape.dims()[0] * s.input_len(), s.input_len()), || (), work))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.0.sizes()))
    }
}
