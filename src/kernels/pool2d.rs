//! Pooling over windows that may overlap: the largest value, or the mean.
//!
//! candle's `max_pool2d` has no ceiling mode, scales its gradient wrongly, and refuses the
//! gradient where kernel and stride differ, as its `avg_pool2d` does. Chainer, which the paper used,
//! pools the largest values in ceiling mode (`cover_all=True`), so that windows hang over the lower and
//! right edge, and AlexNet's windows overlap (3 wide, 2 apart).

use super::{Number, Op, Operation, Thread, by_chunks, each};
use crate::simd::Real;
use candle_core::{Result, Shape, Tensor, bail};
use serde::{Deserialize, Serialize};

/// What a window gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Its largest value. Windows may hang over the edge and see only what is inside:
    /// ⌈(size − kernel) / stride⌉ + 1 of them. The gradient goes to the first largest element, in
    /// prediction order, as in PyTorch.
    Max,
    /// The same for windows that stay inside the image.
    MaxInside,
    /// Its mean. Windows stay inside the image: ⌊(size − kernel) / stride⌋ + 1 of them.
    Average,
}

/// Pools each `kernel` × `kernel` window, windows `stride` apart: (batch, channels, height, width) to
/// (batch, channels, windows, windows), f32 and f64. Fails when the window is larger than the image.
pub fn pool2d(x: &Tensor, kind: Pooling, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let pool = Pool::new(kind, height, width, kernel, stride)?;
    x.contiguous()?.apply_op1(Op(pool))
}

/// The windows of one pooling over planes of one size.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    pub kind: Pooling,
    height: usize,
    width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub out_height: usize,
    pub out_width: usize,
}

impl Pool {
    pub fn new(kind: Pooling, height: usize, width: usize, kernel: usize, stride: usize) -> Result<Self> {
        if kernel == 0 || stride == 0 || kernel > height || kernel > width {
            bail!(
                "pooling: a window of {kernel} with stride {stride} does not fit an image of {height}x{width}"
            )
        }
        let windows = |size: usize| match kind {
            // A window must begin inside the image, or it would see nothing at all.
            Pooling::Max => ((size - kernel).div_ceil(stride) + 1).min((size - 1) / stride + 1),
            Pooling::MaxInside | Pooling::Average => (size - kernel) / stride + 1,
        };
        let (out_height, out_width) = (windows(height), windows(width));
        Ok(Self { kind, height, width, kernel, stride, out_height, out_width })
    }

    /// The pixels of a window along an axis of so many.
    #[inline(always)]
    pub(crate) fn inside(&self, window: usize, size: usize) -> std::ops::Range<usize> {
        let start = window * self.stride;
        start..size.min(start + self.kernel)
    }

    /// As the kernels take them.
    fn numbers(&self) -> Vec<Number> {
        let average = usize::from(self.kind == Pooling::Average);
        [self.height, self.width, self.kernel, self.stride, self.out_height, self.out_width, average]
            .map(Number::from)
            .to_vec()
    }

    /// The gradient of `x`, given the output's.
    pub fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&grad.contiguous()?, &Op(PoolGrad(*self)))
    }

    /// Calls `pixel(window, pixel)` for all pixels of all windows of a plane, for windows that stay inside.
    #[inline(always)]
    fn each(&self, mut pixel: impl FnMut(usize, usize)) {
        for window in 0..self.out_height * self.out_width {
            let (top, left) = (window / self.out_width * self.stride, window % self.out_width * self.stride);
            for y in top..top + self.kernel {
                for x in left..left + self.kernel {
                    pixel(window, y * self.width + x);
                }
            }
        }
    }

    /// The weight of a pixel in a window's mean.
    fn share<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.kernel * self.kernel) as f64)
    }

    /// Pools one plane. `row` is scratch of [`Self::row`] elements.
    #[inline(always)]
    fn plane<T: Real>(&self, plane: &[T], row: &mut [T], out: &mut [T]) {
        match (self.kind, self.kernel, self.stride) {
            (Pooling::Average, ..) => {
                out.fill(T::zero());
                self.each(|window, pixel| out[window] += plane[pixel]);
                out.iter_mut().for_each(|sum| *sum *= self.share());
            }
            (_, 2, 2) => self.largest::<T, 2, 2>(plane, row, out),
            (_, 3, 2) => self.largest::<T, 3, 2>(plane, row, out),
            _ => self.largest::<T, 0, 0>(plane, row, out),
        }
    }

    /// Elements of a row that no window hangs over.
    fn row(&self) -> usize {
        self.width.max((self.out_width - 1) * self.stride + self.kernel)
    }

    /// The number of the row of pixels that is so far below the top of window `y`. Below the edge it is the last row
    /// once more, which changes no largest value.
    #[inline(always)]
    fn pixels(&self, y: usize, stride: usize, below: usize) -> usize {
        (y * stride + below).min(self.height - 1)
    }

    /// The largest of each window: first of each column, then of the row of these. `K` and `S` are kernel and stride
    /// where the compiler is to know them, so that windows side by side fill vector registers, or 0.
    #[inline(always)]
    fn largest<T: Real, const K: usize, const S: usize>(&self, plane: &[T], row: &mut [T], out: &mut [T]) {
        let (kernel, stride) = if K == 0 { (self.kernel, self.stride) } else { (K, S) };
        // NaN is taken for the largest, as in PyTorch.
        let larger = |a: T, b: T| if b > a || b.partial_cmp(&b).is_none() { b } else { a };
        assert_eq!(row.len(), self.row());
        for (y, out) in out.chunks_mut(self.out_width).enumerate() {
            let (columns, beyond) = row.split_at_mut(self.width);
            let pixels = |below: usize| &plane[self.pixels(y, stride, below) * self.width..][..self.width];
            // Not in place: of that the compiler makes masked stores, which are slow.
            match kernel {
                2 => each(columns, [pixels(0), pixels(1)], |[a, b]| larger(a, b)),
                3 => each(columns, [pixels(0), pixels(1), pixels(2)], |[a, b, c]| larger(larger(a, b), c)),
                _ => {
                    columns.copy_from_slice(pixels(0));
                    for below in 1..kernel {
                        columns
                            .iter_mut()
                            .zip(pixels(below))
                            .for_each(|(max, &pixel)| *max = larger(*max, pixel));
                    }
                }
            }
            beyond.fill(columns[self.width - 1]);
            let row: &[T] = row;
            for (x, out) in out.iter_mut().enumerate() {
                // Safety: a row of this length has all elements of its last window.
                let at = |column: usize| unsafe { *row.get_unchecked(x * stride + column) };
                *out = (1..kernel).fold(at(0), |max, column| larger(max, at(column)));
            }
        }
    }

    /// Adds each window's gradient to the place of its first largest element. `K` is the window's
    /// size where the compiler is to unroll its loops, or 0.
    fn scatter<T: Real, const K: usize>(&self, plane: &[T], grad: &[T], out: &mut [T]) {
        let kernel = if K == 0 { self.kernel } else { K };
        for (y, grad) in grad.chunks(self.out_width).enumerate() {
            let top = y * self.stride;
            let bottom = (top + kernel).min(self.height);
            let whole = if top + kernel > self.height { 0 } else { (self.width - kernel) / self.stride + 1 };
            for (x, &grad) in grad.iter().enumerate() {
                let first = top * self.width + x * self.stride;
                let (mut best, mut max) = (first, plane[first]);
                // Selects rather than branches: which element wins is not predictable.
                let mut look = |at: usize| {
                    let larger = plane[at] > max;
                    best = if larger { at } else { best };
                    max = if larger { plane[at] } else { max };
                };
                if x < whole {
                    for row in 0..kernel {
                        (0..kernel).for_each(|column| look(first + row * self.width + column));
                    }
                } else {
                    let columns = kernel.min(self.width - x * self.stride);
                    for row in 0..bottom - top {
                        (0..columns).for_each(|column| look(first + row * self.width + column));
                    }
                }
                out[best] += grad;
            }
        }
    }

    /// The gradient of a plane.
    fn plane_backward<T: Real>(&self, plane: &[T], grad: &[T], out: &mut [T]) {
        out.fill(T::zero());
        match (self.kind, self.kernel) {
            (Pooling::Max | Pooling::MaxInside, 2) => self.scatter::<T, 2>(plane, grad, out),
            (Pooling::Max | Pooling::MaxInside, 3) => self.scatter::<T, 3>(plane, grad, out),
            (Pooling::Max | Pooling::MaxInside, _) => self.scatter::<T, 0>(plane, grad, out),
            (Pooling::Average, _) => {
                let share = self.share::<T>();
                self.each(|window, pixel| out[pixel] += grad[window] * share);
            }
        }
    }
}

impl Operation<1> for Pool {
    fn name(&self) -> &'static str {
        "pool2d"
    }

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        let (batch, channels, ..) = x.dims4()?;
        Ok(Shape::from((batch, channels, self.out_height, self.out_width)))
    }

    fn cpu<T: Real>(&self, x: [&[T]; 1], shape: &Shape) -> Result<Vec<T>> {
        let windows = self.out_height * self.out_width;
        let planes = shape.elem_count() / (self.height * self.width);
        Ok(by_chunks(
            x,
            (planes * windows, windows),
            || vec![T::zero(); self.row()],
            #[inline(always)]
            |_, [plane]: [&[T]; 1], row: &mut Vec<T>, out: &mut [T]| self.plane(plane, row, out),
        ))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.numbers()))
    }

    fn backward(&self, [x]: [&Tensor; 1], _out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(self.backward(x, grad)?)])
    }
}

struct PoolGrad(Pool);

impl Operation<2> for PoolGrad {
    fn name(&self) -> &'static str {
        "pool2d_grad"
    }

    fn cpu<T: Real>(&self, inputs: [&[T]; 2], shape: &Shape) -> Result<Vec<T>> {
        let work =
            |_, [plane, grad]: [&[T]; 2], (): &mut (), out: &mut [T]| self.0.plane_backward(plane, grad, out);
        Ok(by_chunks(inputs, (shape.elem_count(), self.0.height * self.0.width), || (), work))
    }

    fn kernel(&self, _: &Shape) -> Result<(Thread, Vec<Number>)> {
        Ok((Thread::Result, self.0.numbers()))
    }
}
