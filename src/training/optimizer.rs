//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>) and SGD with momentum (Sutskever et al.
//! 2013, <https://proceedings.mlr.press/v28/sutskever13.html>, as PyTorch has it): their state, which
//! checkpoints keep, and their step: parameter by parameter on the CPU, all in one launch on a GPU.

use super::average::Average;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::optimizer as cuda;
use crate::kernels::{Input, Op, Update, contiguous};
use crate::networks::Gradients;
use candle_core::{Result, Tensor, Var};
use clap::builder::BoolishValueParser;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What moves the weights along the gradient, with the settings that it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// Adam, as in the paper.
    Adam(Adam),
    /// Stochastic gradient descent with momentum, as in He et al. 2016 for ResNets.
    Sgd(Sgd),
}

/// The settings of Adam.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Adam {
    /// Beta 1 of Adam: decay of the gradient's mean; the paper says 0.99, its code uses 0.9
    #[arg(long, env, value_name = "X")]
    pub beta1: f64,
    /// Beta 2 of Adam: decay of the squared gradient's mean
    #[arg(long, env, value_name = "X")]
    pub beta2: f64,
}

/// The settings of SGD.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default)]
pub struct Sgd {
    /// Momentum of SGD
    #[arg(long, env, value_name = "X")]
    pub momentum: f64,
    /// Nesterov momentum: SGD looks a step ahead
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub nesterov: bool,
    /// Learning-rate factor of SGD for the biases of batch normalisations, whose weight decay is divided by it
    #[arg(long, env, value_name = "X")]
    pub norm_rate: f64,
    /// Weight decay: SGD adds this fraction of every parameter to its gradient
    #[arg(long, env, value_name = "X")]
    pub weight_decay: f64,
    /// Weight decay of weights alone: SGD leaves out biases and batch normalisations
    #[arg(long, env, value_name = "yes|no", hide_possible_values = true, value_parser = BoolishValueParser::new(), action = clap::ArgAction::Set)]
    pub decay_weights_only: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999 }
    }
}

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, norm_rate: 1.0, weight_decay: 0.0, decay_weights_only: false }
    }
}

impl Optimizer {
    /// The running means that it keeps for each parameter, as checkpoints name them.
    pub(super) fn means(self) -> &'static [&'static str] {
        match self {
            Self::Adam(_) => &["adam.mean", "adam.square"],
            Self::Sgd(_) => &["sgd.velocity"],
        }
    }

    /// What is wrong with its settings.
    pub(super) fn wrong(self) -> Option<String> {
        let decay = |x: f64| (0.0..1.0).contains(&x);
        let (right, wanted) = match self {
            Self::Adam(adam) => (decay(adam.beta1) && decay(adam.beta2), "beta1 and beta2 must be in 0..1"),
            Self::Sgd(sgd) if !decay(sgd.momentum) => (false, "momentum must be in 0..1"),
            Self::Sgd(sgd) if !(sgd.norm_rate.is_finite() && sgd.norm_rate > 0.0) => {
                (false, "norm_rate must be above 0")
            }
            Self::Sgd(sgd) => (sgd.weight_decay >= 0.0, "weight_decay must be at least 0"),
        };
        (!right).then(|| format!("{wanted}, got {self:?}"))
    }

    /// How far a step of this rate goes, the first one being number 1.
    fn stride(self, rate: f64, step: usize) -> Stride {
        let Self::Adam(Adam { beta1, beta2 }) = self else {
            return Stride { rate, epsilon: 0.0 };
        };
        // Both bias corrections, folded into the step size and epsilon as in the paper's section 2.
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let correction = (1.0 - beta2.powi(step)).sqrt();
        Stride { rate: rate * correction / (1.0 - beta1.powi(step)), epsilon: 1e-8 * correction }
    }
}

/// How far to step. Adam's step size and epsilon have the corrections of the moments' start at zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stride {
    rate: f64,
    /// What Adam adds to the root of a squared gradient.
    epsilon: f64,
}

/// An optimizer's state.
pub(super) struct OptimizerState {
    pub(super) optimizer: Optimizer,
    parameters: BTreeMap<String, Var>,
    /// By parameter, (means, …): the running means in the order of [`Optimizer::means`].
    pub(super) means: BTreeMap<String, Tensor>,
    pub(super) steps: usize,
    /// The weights' running average, where there is one.
    pub(super) average: Option<Average>,
    /// What moves the parameters on a GPU.
    #[cfg(feature = "cuda")]
    gpu: Option<cuda::Optimizer>,
}

impl OptimizerState {
    pub(super) fn new(optimizer: Optimizer, parameters: BTreeMap<String, Var>) -> Result<Self> {
        let zeros = |var: &Var| {
            let zero = var.zeros_like()?;
            Tensor::stack(&vec![zero; optimizer.means().len()], 0)
        };
        let means =
            parameters.iter().map(|(name, var)| Ok((name.clone(), zeros(var)?))).collect::<Result<_>>()?;
        #[cfg(feature = "cuda")]
        let gpu = match parameters.values().next() {
            Some(var) if var.device().is_cuda() => {
                Some(cuda::Optimizer::new(var.device(), parameters.len())?)
            }
            _ => None,
        };
        Ok(Self {
            optimizer,
            parameters,
            means,
            steps: 0,
            average: None,
            #[cfg(feature = "cuda")]
            gpu,
        })
    }

    /// Begins a step of this rate, which [`Self::apply`] ends.
    pub(super) fn begin(&mut self, rate: f64) -> Result<Stride> {
        self.steps += 1;
        let stride = self.optimizer.stride(rate, self.steps);
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &mut self.gpu {
            gpu.set_step(stride.rate, stride.epsilon)?;
        }
        Ok(stride)
    }

    /// Moves every parameter by its gradient.
    pub(super) fn apply(&mut self, gradients: &Gradients, stride: Stride) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.gpu.is_some() {
            return self.apply_there(gradients);
        }
        // Parameters are many and small: side by side they fill the cores.
        self.means.par_iter().try_for_each(|(name, means)| {
            let Some(grad) = gradients.get(name) else {
                return Ok(());
            };
            let (weight, grad) = (&self.parameters[name], grad.contiguous()?);
            match self.optimizer {
                Optimizer::Adam(adam) => adam.step(weight, means, &grad, stride),
                Optimizer::Sgd(sgd) => {
                    let (faster, decay) = sgd.of_parameter(name);
                    sgd.step(weight, means, &grad, stride.rate * faster, decay)
                }
            }
        })
    }

    /// [`Self::apply`] on a GPU, which knows the stride since the step began.
    #[cfg(feature = "cuda")]
    fn apply_there(&mut self, gradients: &Gradients) -> Result<()> {
        let Self { optimizer, parameters, means, gpu: Some(gpu), .. } = self else { return Ok(()) };
        let trained = means.iter().filter_map(|(name, means)| Some((name, means, gradients.get(name)?)));
        let trained: Vec<_> = trained
            .map(|(name, means, grad)| Ok((name, means, grad.contiguous()?)))
            .collect::<Result<_>>()?;
        let parameters: Vec<_> = trained
            .iter()
            .map(|(name, means, grad)| {
                let (rate, decay) = match optimizer {
                    Optimizer::Adam(_) => (1.0, 0.0),
                    Optimizer::Sgd(sgd) => sgd.of_parameter(name),
                };
                cuda::Parameter { weight: &parameters[*name], grad, means, rate, decay }
            })
            .collect();
        match *optimizer {
            Optimizer::Adam(Adam { beta1, beta2 }) => {
                gpu.launch("adam", &parameters, [beta1.into(), beta2.into()])
            }
            Optimizer::Sgd(Sgd { momentum, nesterov, .. }) => {
                gpu.launch("sgd", &parameters, [momentum.into(), usize::from(nesterov).into()])
            }
        }
    }

    /// Makes a recorded step find its parameters and gradients.
    #[cfg(feature = "cuda")]
    pub(super) fn before_replay(&mut self) -> Result<()> {
        self.gpu.as_mut().map_or(Ok(()), cuda::Optimizer::before_replay)
    }
}

/// What becomes of a tensor by `N` others on the CPU: a name for messages, and how.
struct Change<F>(&'static str, F);

impl<const N: usize, F: Fn(&mut [f32], [&[f32]; N]) + Send + Sync> Update<N> for Change<F> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cpu(&self, target: &mut [f32], inputs: [Input<'_>; N]) -> Result<()> {
        let mut slices = [&[][..]; N];
        for (slice, input) in slices.iter_mut().zip(inputs) {
            *slice = contiguous::<f32>(input)?;
        }
        (self.1)(target, slices);
        Ok(())
    }
}

impl Adam {
    /// Updates the running means (2, …) of the gradient and its square, and moves the weights by them.
    fn step(self, weight: &Tensor, means: &Tensor, grad: &Tensor, stride: Stride) -> Result<()> {
        let (beta1, rest1) = (self.beta1 as f32, (1.0 - self.beta1) as f32);
        let (beta2, rest2) = (self.beta2 as f32, (1.0 - self.beta2) as f32);
        let moments = move |moments: &mut [f32], [grad]: [&[f32]; 1]| {
            let (mean, square) = moments.split_at_mut(grad.len());
            for ((mean, square), &g) in mean.iter_mut().zip(square).zip(grad) {
                *mean = *mean * beta1 + g * rest1;
                *square = *square * beta2 + g * g * rest2;
            }
        };
        let (rate, epsilon) = (stride.rate as f32, stride.epsilon as f32);
        let step = move |weight: &mut [f32], [means]: [&[f32]; 1]| {
            let (mean, square) = means.split_at(weight.len());
            for ((weight, &mean), &square) in weight.iter_mut().zip(mean).zip(square) {
                *weight -= mean / (square.sqrt() + epsilon) * rate;
            }
        };
        means.inplace_op2(grad, &Op(Change("adam_moments", moments)))?;
        weight.inplace_op2(means, &Op(Change("adam_step", step)))
    }
}

impl Sgd {
    /// How many times further than the others a parameter moves, and what share of it adds to its gradient.
    fn of_parameter(self, name: &str) -> (f64, f64) {
        let (norm, bias) = (name.contains("batch_norm"), name.ends_with(".bias"));
        let faster = if norm && bias { self.norm_rate } else { 1.0 };
        let decays = !self.decay_weights_only || !(norm || bias);
        (faster, if decays { self.weight_decay / faster } else { 0.0 })
    }

    /// Updates the running sum (1, …) of the gradient, to which the decay of the weights adds, and moves the weights by it,
    /// or by where it will be a step ahead (Nesterov, as PyTorch has it).
    fn step(self, weight: &Tensor, sum: &Tensor, grad: &Tensor, rate: f64, decay: f64) -> Result<()> {
        let (momentum, decay, rate) = (self.momentum as f32, decay as f32, rate as f32);
        let add = move |sum: &mut [f32], [grad, weight]: [&[f32]; 2]| {
            for ((sum, &g), &w) in sum.iter_mut().zip(grad).zip(weight) {
                *sum = *sum * momentum + (g + w * decay);
            }
        };
        let step = move |weight: &mut [f32], [sum]: [&[f32]; 1]| {
            for (weight, &sum) in weight.iter_mut().zip(sum) {
                *weight -= sum * rate;
            }
        };
        let ahead = move |weight: &mut [f32], [sum, grad]: [&[f32]; 2]| {
            for ((weight, &sum), &g) in weight.iter_mut().zip(sum).zip(grad) {
                *weight -= (sum * momentum + (g + *weight * decay)) * rate;
            }
        };
        sum.inplace_op3(grad, weight, &Op(Change("sgd_velocity", add)))?;
        match self.nesterov {
            true => weight.inplace_op3(sum, grad, &Op(Change("nesterov_step", ahead))),
            false => weight.inplace_op2(sum, &Op(Change("sgd_step", step))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Three steps, each with another gradient and another rate, on a parameter of this name, 0.5, -1, 2.
    fn three_steps(optimizer: Optimizer, name: &str) -> Result<Vec<f32>> {
        let parameter = Var::new(&[0.5f32, -1.0, 2.0], &Device::Cpu)?;
        let parameters = BTreeMap::from([(name.to_string(), parameter.clone())]);
        let mut state = OptimizerState::new(optimizer, parameters)?;
        for (step, rate) in [0.1, 0.05, 0.2].into_iter().enumerate() {
            let gradient = [0.1f32, -2.0, 0.3].map(|g| g * (step as f32 + 1.0) - 0.25);
            let gradients = BTreeMap::from([(name.to_string(), Tensor::new(&gradient, &Device::Cpu)?)]);
            let stride = state.begin(rate)?;
            state.apply(&gradients, stride)?;
        }
        parameter.as_tensor().to_vec1()
    }

    /// PyTorch 2.15 (tests/pytorch_values.py, OPTIMIZERS).
    #[test]
    fn steps_agree_with_pytorch() -> Result<()> {
        let sgd = Sgd { weight_decay: 0.01, ..Sgd::default() };
        let plain = Sgd { momentum: 0.0, ..Sgd::default() };
        for (optimizer, expected) in [
            (Optimizer::Adam(Adam::default()), [0.733_386_75_f32, -0.658_644_1, 1.684_793]),
            (Optimizer::Sgd(plain), [0.507_5, 0.687_5, 1.847_5]),
            (Optimizer::Sgd(sgd), [0.543_785_1, 1.924_019_1, 1.759_483_5]),
            (Optimizer::Sgd(Sgd { nesterov: true, ..sgd }), [0.54501456, 3.3194387, 1.624198]),
        ] {
            for (ours, theirs) in three_steps(optimizer, "w")?.into_iter().zip(expected) {
                assert!((ours - theirs).abs() < 1e-6, "{optimizer:?}: {ours} and {theirs}");
            }
        }
        Ok(())
    }

    #[test]
    fn biases_of_normalisations_have_a_rate_of_their_own() -> Result<()> {
        let sgd = Sgd { nesterov: true, weight_decay: 0.04, norm_rate: 4.0, ..Sgd::default() };
        let three_steps = |sgd, name| three_steps(Optimizer::Sgd(sgd), name);
        let others = Sgd { norm_rate: 1.0, ..sgd };
        assert_eq!(three_steps(sgd, "conv1.bias")?, three_steps(others, "conv1.bias")?);
        // Steps four times as large with a quarter of the decay.
        let slow = Sgd { weight_decay: 0.01, ..others };
        let parameter = three_steps(sgd, "batch_norm2.bias")?;
        let moved = |w: &[f32]| w[0] - 0.5;
        assert!(moved(&parameter) / moved(&three_steps(slow, "batch_norm2.bias")?) > 3.0);
        // Without decay but for weights.
        let (weights, none) = (Sgd { decay_weights_only: true, ..sgd }, Sgd { weight_decay: 0.0, ..sgd });
        for (name, as_before) in
            [("conv1.weight", sgd), ("conv1.bias", none), ("residual1.batch_norm2.weight", none)]
        {
            assert_eq!(three_steps(weights, name)?, three_steps(as_before, name)?);
        }
        Ok(())
    }
}
