//! Average pooling. candle's refuses the gradient where windows overlap.

use super::{contiguous, dispatch};
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::simd::Real;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;

/// The mean of each `kernel` × `kernel` window, windows `stride` apart and inside the image:
/// (batch, channels, height, width) to (batch, channels, ⌊(height − kernel) / stride⌋ + 1, likewise
/// width). f32 and f64. Fails when the window is larger than the image.
pub fn avg_pool2d(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let pool = AveragePool::new(height, width, kernel, stride)?;
    x.contiguous()?.apply_op1(pool)
}

/// The windows of one pooling over planes of one size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AveragePool {
    height: usize,
    width: usize,
    kernel: usize,
    stride: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
}

impl AveragePool {
    pub(crate) fn new(height: usize, width: usize, kernel: usize, stride: usize) -> Result<Self> {
        if kernel == 0 || stride == 0 || kernel > height || kernel > width {
            bail!(
                "avg_pool2d: a window of {kernel} with stride {stride} does not fit an image of {height}x{width}"
            )
        }
        Ok(Self {
            height,
            width,
            kernel,
            stride,
            out_height: (height - kernel) / stride + 1,
            out_width: (width - kernel) / stride + 1,
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

    /// The gradient of the input, given the output's.
    pub(crate) fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        grad.contiguous()?.apply_op1_no_bwd(&AverageGrad(*self))
    }

    /// Calls `pixel(window, pixel)` for all pixels of all windows of a plane whose rows lie `row`
    /// apart.
    #[inline(always)]
    fn each(&self, row: usize, mut pixel: impl FnMut(usize, usize)) {
        for window in 0..self.out_height * self.out_width {
            let (top, left) = (
                window / self.out_width * self.stride,
                window % self.out_width * self.stride,
            );
            for y in top..top + self.kernel {
                for x in left..left + self.kernel {
                    pixel(window, y * row + x);
                }
            }
        }
    }

    fn share<T: Real>(&self) -> T {
        T::from_f64(1.0 / (self.kernel * self.kernel) as f64)
    }

    /// Pools one plane whose rows lie `row` apart.
    pub(crate) fn plane<T: Real>(&self, plane: &[T], row: usize, out: &mut [T]) {
        out.fill(T::zero());
        self.each(row, |window, pixel| out[window] += plane[pixel]);
        let share = self.share();
        out.iter_mut().for_each(|x| *x *= share);
    }
}

impl CustomOp1 for AveragePool {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn forward<T: Real>(p: &AveragePool, x: &[T]) -> Vec<T> {
            let (area, windows) = (p.height * p.width, p.out_height * p.out_width);
            let mut out = vec![T::zero(); x.len() / area * windows];
            out.par_chunks_mut(windows)
                .zip(x.par_chunks(area))
                .for_each(|(out, plane)| p.plane(plane, p.width, out));
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
        let out = cuda::map("avg_pool2d", dtype, &[(x, layout)], len, &self.sizes())?;
        Ok((out, shape))
    }

    fn bwd(&self, _x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.backward(grad)?))
    }
}

struct AverageGrad(AveragePool);

impl CustomOp1 for AverageGrad {
    fn name(&self) -> &'static str {
        "avg_pool2d-grad"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn backward<T: Real>(p: &AveragePool, grad: &[T]) -> Vec<T> {
            let (area, windows) = (p.height * p.width, p.out_height * p.out_width);
            let mut out = vec![T::zero(); grad.len() / windows * area];
            let share = p.share::<T>();
            out.par_chunks_mut(area)
                .zip(grad.par_chunks(windows))
                .for_each(|(out, grad)| {
                    p.each(p.width, |window, pixel| out[pixel] += grad[window] * share);
                });
            out
        }
        let (batch, channels, ..) = layout.shape().dims4()?;
        let out = dispatch!(self, grad, T => T::to_cpu_storage_owned(backward::<T>(&self.0, contiguous(grad, layout)?)));
        Ok((
            out,
            Shape::from((batch, channels, self.0.height, self.0.width)),
        ))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, grad: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, channels, ..) = layout.shape().dims4()?;
        let shape = Shape::from((batch, channels, self.0.height, self.0.width));
        let (dtype, len, sizes) = (grad.dtype(), shape.elem_count(), self.0.sizes());
        let out = cuda::map("avg_pool2d_grad", dtype, &[(grad, layout)], len, &sizes)?;
        Ok((out, shape))
    }
}
