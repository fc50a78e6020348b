//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>): its state, which checkpoints keep, and its
//! step on one parameter, in place on CPU and GPU.

use super::config::Config;
use super::tape::Gradients;
use crate::kernels::contiguous;
#[cfg(feature = "cuda")]
use crate::kernels::cuda;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, Var, bail};
#[cfg(feature = "cuda")]
use candle_core::{CudaStorage, backend::BackendStorage};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Adam with its state.
pub(super) struct Adam {
    parameters: BTreeMap<String, Var>,
    /// By parameter, (2, …): running means of gradient and squared gradient.
    pub(super) moments: BTreeMap<String, Tensor>,
    pub(super) steps: usize,
}

impl Adam {
    pub(super) fn new(parameters: BTreeMap<String, Var>) -> Result<Self> {
        let moments = parameters
            .iter()
            .map(|(name, var)| Ok((name.clone(), pair(&var.zeros_like()?, &var.zeros_like()?)?)))
            .collect::<Result<_>>()?;
        Ok(Self { parameters, moments, steps: 0 })
    }

    pub(super) fn step(&mut self, gradients: &Gradients, config: &Config, rate: f64) -> Result<()> {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        // Both bias corrections, folded into the step size and epsilon as in the paper's section 2.
        let (beta1, beta2) = (config.beta1, config.beta2);
        let correction = (1.0 - beta2.powi(steps)).sqrt();
        let rates = Rates {
            beta1,
            beta2,
            rate: rate * correction / (1.0 - beta1.powi(steps)),
            epsilon: 1e-8 * correction,
        };
        let update = |(name, moments): (&String, &Tensor)| -> Result<()> {
            match gradients.get(name) {
                Some(grad) => rates.step(&self.parameters[name], moments, grad),
                None => Ok(()),
            }
        };
        if self.parameters.values().any(|var| var.device().is_cuda()) {
            return self.moments.iter().try_for_each(update);
        }
        // Parameters are many and small: side by side they fill the cores.
        self.moments.par_iter().try_for_each(update)
    }
}

/// Two tensors of one shape as one, in storage of its own.
pub(super) fn pair(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    Tensor::stack(&[first, second], 0)
}

/// How far and how smoothly Adam steps.
#[derive(Debug, Clone, Copy)]
struct Rates {
    beta1: f64,
    beta2: f64,
    /// Step size and epsilon, both with the corrections of the moments' start at zero.
    rate: f64,
    epsilon: f64,
}

impl Rates {
    /// Moves `moments` (2, …), the running means of gradient and squared gradient, and then `weight`,
    /// f32 of the gradient's shape.
    fn step(&self, weight: &Tensor, moments: &Tensor, grad: &Tensor) -> Result<()> {
        moments.inplace_op2(&grad.contiguous()?, &Moments(*self))?;
        weight.inplace_op2(moments, &Step(*self))
    }
}

/// The elements of a tensor that is all of its storage.
fn elements(storage: &mut CpuStorage) -> Result<&mut [f32]> {
    match storage {
        CpuStorage::F32(elements) => Ok(elements),
        _ => bail!("Adam works on f32 only"),
    }
}

struct Moments(Rates);

impl InplaceOp2 for Moments {
    fn name(&self) -> &'static str {
        "adam-moments"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        _: &Layout,
        grad: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let grad = contiguous::<f32>(grad, layout)?;
        let (mean, square) = elements(moments)?.split_at_mut(grad.len());
        let (beta1, rest1) = (self.0.beta1 as f32, (1.0 - self.0.beta1) as f32);
        let (beta2, rest2) = (self.0.beta2 as f32, (1.0 - self.0.beta2) as f32);
        for ((mean, square), &g) in mean.iter_mut().zip(square).zip(grad) {
            *mean = *mean * beta1 + g * rest1;
            *square = *square * beta2 + g * g * rest2;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        moments: &mut CudaStorage,
        moments_layout: &Layout,
        grad: &CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (start, len) = (moments_layout.start_offset(), layout.shape().elem_count());
        let numbers = [self.0.beta1.into(), self.0.beta2.into()];
        let inputs = [(grad, layout)];
        cuda::update("adam_moments", grad.dtype(), &inputs, moments, start, len, &numbers)
    }
}

struct Step(Rates);

impl InplaceOp2 for Step {
    fn name(&self) -> &'static str {
        "adam-step"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        _: &Layout,
        moments: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (weight, moments) = (elements(weight)?, contiguous::<f32>(moments, layout)?);
        let (mean, square) = moments.split_at(weight.len());
        let (rate, epsilon) = (self.0.rate as f32, self.0.epsilon as f32);
        for ((weight, &mean), &square) in weight.iter_mut().zip(mean).zip(square) {
            *weight -= mean / (square.sqrt() + epsilon) * rate;
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        weight: &mut CudaStorage,
        weight_layout: &Layout,
        moments: &CudaStorage,
        layout: &Layout,
    ) -> Result<()> {
        let (start, len) = (weight_layout.start_offset(), weight_layout.shape().elem_count());
        let numbers = [self.0.rate.into(), self.0.epsilon.into()];
        let inputs = [(moments, layout)];
        cuda::update("adam_step", moments.dtype(), &inputs, weight, start, len, &numbers)
    }
}
