//! Operations of any number of tensors, each said once: candle has a trait for each number.

#[cfg(feature = "cuda")]
use crate::cuda;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor,
    WithDType, bail,
};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};

/// A tensor on the CPU; it must be contiguous.
pub type Input<'a> = (&'a CpuStorage, &'a Layout);

/// What an operation makes of `N` tensors of f32 or f64. [`Op`] is what candle applies.
pub trait Operation<const N: usize>: Send + Sync {
    /// For messages.
    fn name(&self) -> &'static str;

    /// On the CPU.
    fn cpu(&self, inputs: [Input<'_>; N]) -> Result<(CpuStorage, Shape)> {
        let _ = inputs;
        bail!("internal error: {} is for the GPU", self.name())
    }

    /// On a GPU.
    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: [cuda::Input<'_>; N]) -> Result<(CudaStorage, Shape)> {
        let _ = inputs;
        bail!("internal error: {} is for the CPU", self.name())
    }

    /// The gradients of the inputs that need one, given the result and its gradient.
    fn backward(&self, inputs: [&Tensor; N], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let _ = (inputs, out, grad);
        bail!("internal error: {} is not differentiable", self.name())
    }
}

/// What becomes of a tensor of f32, in place, by `N` others.
pub trait Update<const N: usize>: Send + Sync {
    /// For messages.
    fn name(&self) -> &'static str;

    /// On the CPU.
    fn cpu(&self, target: &mut [f32], inputs: [Input<'_>; N]) -> Result<()>;

    /// On a GPU: the kernel, and the numbers that it takes. A thread changes one element, of as many as the target
    /// or the first of the others has, whichever has fewer.
    #[cfg(feature = "cuda")]
    fn kernel(&self) -> Result<(&'static str, Vec<cuda::Number>)> {
        bail!("internal error: {} is for the CPU", self.name())
    }
}

/// An operation or an update as candle takes it.
pub struct Op<T>(pub T);

impl<T: Operation<1>> CustomOp1 for Op<T> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, a: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        self.0.cpu([(a, at)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, a: &CudaStorage, at: &Layout) -> Result<(CudaStorage, Shape)> {
        self.0.cuda([(a, at)])
    }

    fn bwd(&self, a: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.0.backward([a], out, grad)?;
        Ok(a)
    }
}

/// What candle's traits for two and three tensors ask for.
macro_rules! for_candle {
    ($custom:ident, $inplace:ident, $count:literal, $less:literal, [$($x:ident $at:ident),+], [$($y:ident $by:ident),+], ($($none:ty),+)) => {
        impl<T: Operation<$count>> $custom for Op<T> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, $($x: &CpuStorage, $at: &Layout),+) -> Result<(CpuStorage, Shape)> {
                self.0.cpu([$(($x, $at)),+])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($x: &CudaStorage, $at: &Layout),+) -> Result<(CudaStorage, Shape)> {
                self.0.cuda([$(($x, $at)),+])
            }

            fn bwd(&self, $($x: &Tensor),+, out: &Tensor, grad: &Tensor) -> Result<($($none),+)> {
                let [$($x),+] = self.0.backward([$($x),+], out, grad)?;
                Ok(($($x),+))
            }
        }

        impl<T: Update<$less>> $inplace for Op<T> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, target: &mut CpuStorage, _: &Layout, $($y: &CpuStorage, $by: &Layout),+) -> Result<()> {
                let CpuStorage::F32(target) = target else { bail!("{} works on f32 only", self.0.name()) };
                self.0.cpu(target, [$(($y, $by)),+])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, target: &mut CudaStorage, at: &Layout, $($y: &CudaStorage, $by: &Layout),+) -> Result<()> {
                let inputs = [$(($y, $by)),+];
                let (kernel, numbers) = self.0.kernel()?;
                let len = at.shape().elem_count().min(inputs[0].1.shape().elem_count());
                let dtype = inputs[0].0.dtype();
                cuda::update(kernel, dtype, &inputs, target, at.start_offset(), len, &numbers)
            }
        }
    };
}
for_candle!(CustomOp2, InplaceOp2, 2, 1, [a at, b bt], [x xt], (Option<Tensor>, Option<Tensor>));
for_candle!(CustomOp3, InplaceOp3, 3, 2, [a at, b bt, c ct], [x xt, y yt], (Option<Tensor>, Option<Tensor>, Option<Tensor>));

/// The elements of a tensor that is known to be contiguous.
pub fn contiguous<'a, T: WithDType>((storage, layout): Input<'a>) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("internal error: an operation got a tensor that is not contiguous"),
    }
}
