//! Max pooling with overlapping windows that may hang over the lower and right edge.
//!
//! candle's `max_pool2d` has no ceiling mode, scales its gradient wrongly, and refuses the
//! gradient where kernel and stride differ. Chainer, which the paper used, pools in ceiling mode
//! (`cover_all=True`), and AlexNet's windows overlap (3 wide, 2 apart).

use super::{contiguous, dispatch, unset};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use pulp::Arch;
use rayon::prelude::*;

/// The largest value of each `kernel` × `kernel` window, windows `stride` apart.
///
/// (batch, channels, height, width) to (batch, channels, ⌈(height − kernel) / stride⌉ + 1, likewise
/// width); a window over the edge sees only what is inside. The gradient goes to the first largest
/// element of a window, in reading order, as in PyTorch. f32 and f64. Fails when the window is
/// larger than the image.
pub fn max_pool2d(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let pool = Pool::new(height, width, kernel, stride)?;
    x.contiguous()?.apply_op1(pool)
}

/// The windows of one pooling over planes of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    height: usize,
    width: usize,
    kernel: usize,
    stride: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
}

impl Pool {
    pub(crate) fn new(height: usize, width: usize, kernel: usize, stride: usize) -> Result<Self> {
        if kernel == 0 || stride == 0 || kernel > height || kernel > width {
            bail!(
                "max_pool2d: a window of {kernel} with stride {stride} does not fit an image of {height}x{width}"
            )
        }
        // A window must begin inside the image, or it would see nothing at all.
        let windows =
            |size: usize| ((size - kernel).div_ceil(stride) + 1).min((size - 1) / stride + 1);
        let (out_height, out_width) = (windows(height), windows(width));
        Ok(Self {
            height,
            width,
            kernel,
            stride,
            out_height,
            out_width,
        })
    }

    /// As the kernels take them.
    #[cfg(feature = "cuda")]
    fn sizes(&self) -> [cuda::Number; 6] {
        [
            self.height,
            self.width,
            self.kernel,
            self.stride,
            self.out_height,
            self.out_width,
        ]
        .map(cuda::Number::from)
    }

    /// The gradient of `x`, given the output's.
    pub(crate) fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&grad.contiguous()?, &PoolGrad(*self))
    }

    /// Pools one plane whose rows lie `row` elements apart; calls `put(y, x, largest)`.
    /// `column_max` is scratch of `width` elements.
    #[inline(always)]
    pub(crate) fn plane<T: Real>(
        &self,
        plane: &[T],
        row: usize,
        column_max: &mut [T],
        mut put: impl FnMut(usize, usize, T),
    ) {
        let larger = |a: T, b: T| if b > a { b } else { a };
        for y in 0..self.out_height {
            let top = y * self.stride;
            let column_max = &mut column_max[..self.width];
            column_max.copy_from_slice(&plane[top * row..][..self.width]);
            for below in top + 1..(top + self.kernel).min(self.height) {
                for (max, &value) in column_max.iter_mut().zip(&plane[below * row..]) {
                    *max = larger(*max, value);
                }
            }
            // Whole windows first: their length is known, so that no edge is tested in the loop.
            let whole = ((self.width - self.kernel) / self.stride + 1).min(self.out_width);
            for x in 0..whole {
                let window = &column_max[x * self.stride..x * self.stride + self.kernel];
                put(
                    y,
                    x,
                    window[1..]
                        .iter()
                        .fold(window[0], |max, &value| larger(max, value)),
                );
            }
            for x in whole..self.out_width {
                let window = &column_max[x * self.stride..];
                put(
                    y,
                    x,
                    window[1..]
                        .iter()
                        .fold(window[0], |max, &value| larger(max, value)),
                );
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
            let whole = if top + kernel > self.height {
                0
            } else {
                (self.width - kernel) / self.stride + 1
            };
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
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(p: &Pool, x: &[T]) -> Vec<T> {
            let planes = x.len() / (p.height * p.width);
            let mut out = unset(planes * p.out_height * p.out_width);
            out.par_chunks_mut(p.out_height * p.out_width)
                .zip(x.par_chunks(p.height * p.width))
                .with_min_len(PLANES_PER_TASK)
                .for_each_init(
                    || vec![T::zero(); p.width],
                    |column_max, (out, plane)| {
                        Arch::new().dispatch(
                            #[inline(always)]
                            || {
                                p.plane(plane, p.width, column_max, |y, x, max| {
                                    out[y * p.out_width + x] = max;
                                })
                            },
                        )
                    },
                );
            out
        }
        let (batch, channels, ..) = layout.shape().dims4()?;
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(forward::<T>(self, contiguous(x, layout)?)));
        Ok((
            out,
            Shape::from((batch, channels, self.out_height, self.out_width)),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, channels, ..) = layout.shape().dims4()?;
        let shape = Shape::from((batch, channels, self.out_height, self.out_width));
        let (dtype, len) = (x.dtype(), shape.elem_count());
        let out = cuda::map("max_pool2d", dtype, &[(x, layout)], len, &self.sizes())?;
        Ok((out, shape))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(x, grad)?))
    }
}

/// Planes are small: a task takes several, so that starting it does not cost more than it does.
const PLANES_PER_TASK: usize = 16;

struct PoolGrad(Pool);

impl CustomOp2 for PoolGrad {
    fn name(&self) -> &'static str {
        "max_pool2d-grad"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(p: &Pool, x: &[T], grad: &[T]) -> Vec<T> {
            let mut out = vec![T::zero(); x.len()];
            out.par_chunks_mut(p.height * p.width)
                .zip(x.par_chunks(p.height * p.width))
                .zip(grad.par_chunks(p.out_height * p.out_width))
                .with_min_len(PLANES_PER_TASK)
                .for_each(|((out, plane), grad)| match p.kernel {
                    2 => p.scatter::<T, 2>(plane, grad, out),
                    3 => p.scatter::<T, 3>(plane, grad, out),
                    _ => p.scatter::<T, 0>(plane, grad, out),
                });
            out
        }
        let out = dispatch!(self, x, T => T::to_cpu_storage_owned(backward::<T>(
            &self.0,
            contiguous(x, x_layout)?,
            contiguous(grad, grad_layout)?,
        )));
        Ok((out, x_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = x_layout.shape().clone();
        let inputs = [(x, x_layout), (grad, grad_layout)];
        let (dtype, len) = (x.dtype(), shape.elem_count());
        let out = cuda::map("max_pool2d_grad", dtype, &inputs, len, &self.0.sizes())?;
        Ok((out, shape))
    }
}
