//! Operations of any number of tensors, each said once: candle has a trait for each number.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::launch::{Number, Thread};
use crate::{Real, dispatch};
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
    /// For messages, and what its kernel is called in `cuda/kernels.cu`.
    fn name(&self) -> &'static str;

    /// The shape of the result, given those of the inputs.
    fn shape(&self, inputs: [&Shape; N]) -> Result<Shape> {
        Ok(inputs[0].clone())
    }

    /// The result on the CPU; `shape` is that of the first input.
    fn cpu<T: Real>(&self, inputs: [&[T]; N], shape: &Shape) -> Result<Vec<T>> {
        let _ = (inputs, shape);
        bail!("internal error: {} is for the GPU", self.name())
    }

    /// The same for operations whose tensors have different types.
    fn cpu_storage(&self, inputs: [Input<'_>; N]) -> Result<CpuStorage> {
        Ok(dispatch!(self, inputs[0].0, T => {
            T::to_cpu_storage_owned(self.cpu::<T>(slices(inputs)?, inputs[0].1.shape())?)
        }))
    }

    /// What a thread of its kernel computes, and the numbers that the kernel takes, given the shape of the first input.
    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        let _ = shape;
        Ok((Thread::Result, Vec::new()))
    }

    /// Further tensors that its kernel takes behind the inputs.
    fn held(&self) -> Vec<&Tensor> {
        Vec::new()
    }

    /// The result on a GPU.
    #[cfg(feature = "cuda")]
    fn cuda(&self, inputs: [cuda::Input<'_>; N]) -> Result<CudaStorage> {
        let shape = self.shape(inputs.map(|(_, layout)| layout.shape()))?;
        let (thread, numbers) = self.kernel(inputs[0].1.shape())?;
        let held = self.held();
        let held: Vec<_> = held.iter().map(|tensor| tensor.storage_and_layout()).collect();
        let mut all = inputs.to_vec();
        for (storage, layout) in &held {
            all.push((cuda::storage(storage)?, layout));
        }
        cuda::map(self.name(), inputs[0].0.dtype(), &all, shape.elem_count(), thread, &numbers)
    }

    /// The gradients of the inputs that need one, given the result and its gradient.
    fn backward(&self, inputs: [&Tensor; N], out: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let _ = (inputs, out, grad);
        bail!("internal error: {} is not differentiable", self.name())
    }
}

/// What becomes of a tensor of f32, in place, by `N` others.
pub trait Update<const N: usize>: Send + Sync {
    /// For messages, and what its kernel is called in `cuda/kernels.cu`.
    fn name(&self) -> &'static str;

    /// On the CPU.
    fn cpu(&self, target: &mut [f32], inputs: [Input<'_>; N]) -> Result<()>;

    /// On a GPU: the numbers that the kernel takes. A thread changes one element, of as many as the target or the first
    /// of the others has, whichever has fewer.
    fn kernel(&self) -> Result<Vec<Number>> {
        bail!("internal error: {} is for the CPU", self.name())
    }
}

/// An operation or an update as candle takes it.
pub struct Op<T>(pub T);

/// What candle's trait for so many tensors asks for.
macro_rules! operation {
    ($custom:ident, $count:literal, [$($x:ident $at:ident),+], $gradients:ty) => {
        impl<T: Operation<$count>> $custom for Op<T> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, $($x: &CpuStorage, $at: &Layout),+) -> Result<(CpuStorage, Shape)> {
                Ok((self.0.cpu_storage([$(($x, $at)),+])?, self.0.shape([$($at.shape()),+])?))
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($x: &CudaStorage, $at: &Layout),+) -> Result<(CudaStorage, Shape)> {
                Ok((self.0.cuda([$(($x, $at)),+])?, self.0.shape([$($at.shape()),+])?))
            }

            fn bwd(&self, $($x: &Tensor),+, out: &Tensor, grad: &Tensor) -> Result<$gradients> {
                let [$($x),+] = self.0.backward([$($x),+], out, grad)?;
                Ok(($($x),+))
            }
        }
    };
}
operation!(CustomOp1, 1, [a at], Option<Tensor>);
operation!(CustomOp2, 2, [a at, b bt], (Option<Tensor>, Option<Tensor>));
operation!(CustomOp3, 3, [a at, b bt, c ct], (Option<Tensor>, Option<Tensor>, Option<Tensor>));

/// The same for updates by so many tensors.
macro_rules! update {
    ($inplace:ident, $count:literal, [$($x:ident $at:ident),+]) => {
        impl<T: Update<$count>> $inplace for Op<T> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, target: &mut CpuStorage, _: &Layout, $($x: &CpuStorage, $at: &Layout),+) -> Result<()> {
                let CpuStorage::F32(target) = target else { bail!("{} works on f32 only", self.0.name()) };
                self.0.cpu(target, [$(($x, $at)),+])
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, target: &mut CudaStorage, to: &Layout, $($x: &CudaStorage, $at: &Layout),+) -> Result<()> {
                let (inputs, numbers) = ([$(($x, $at)),+], self.0.kernel()?);
                let len = to.shape().elem_count().min(inputs[0].1.shape().elem_count());
                let dtype = inputs[0].0.dtype();
                cuda::update(self.0.name(), dtype, &inputs, target, to.start_offset(), len, &numbers)
            }
        }
    };
}
update!(InplaceOp2, 1, [a at]);
update!(InplaceOp3, 2, [a at, b bt]);

/// The elements of a tensor that is known to be contiguous.
pub fn contiguous<'a, T: WithDType>((storage, layout): Input<'a>) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("internal error: an operation got a tensor that is not contiguous"),
    }
}

/// [`contiguous`] of each.
pub fn slices<'a, T: WithDType, const N: usize>(inputs: [Input<'a>; N]) -> Result<[&'a [T]; N]> {
    let mut slices = [&[][..]; N];
    for (slice, input) in slices.iter_mut().zip(inputs) {
        *slice = contiguous(input)?;
    }
    Ok(slices)
}
