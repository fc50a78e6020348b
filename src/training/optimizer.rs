//! Adam (Kingma and Ba 2015, <https://arxiv.org/abs/1412.6980>) and SGD with momentum (Sutskever et al.
//! 2013, <https://proceedings.mlr.press/v28/sutskever13.html>, as PyTorch has it): their state, which
//! checkpoints keep, and their step: parameter by parameter on the CPU, all in one launch on a GPU.

use super::average::Average;
use super::config::Config;
#[cfg(feature = "cuda")]
use super::replay::Replay;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::optimizer as cuda;
use crate::kernels::{Input, Op, Update, contiguous};
use crate::networks::Gradients;
use candle_core::{Result, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What moves the weights along the gradient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam, as in the paper.
    #[default]
    Adam,
    /// Stochastic gradient descent with momentum, as in He et al. 2016 for ResNets.
    Sgd,
}

impl Optimizer {
    /// The running means that it keeps for each parameter, as checkpoints name them.
    pub(super) fn means(self) -> &'static [&'static str] {
        match self {
            Self::Adam => &["adam.mean", "adam.square"],
            Self::Sgd => &["sgd.velocity"],
        }
    }
}

/// An optimizer's state.
pub(super) struct OptimizerState {
    parameters: BTreeMap<String, Var>,
    /// By parameter, (means, …): the running means in the order of [`Optimizer::means`].
    pub(super) means: BTreeMap<String, Tensor>,
    pub(super) steps: usize,
    /// The weights' running average, where there is one.
    pub(super) average: Option<Average>,
    /// What moves the parameters on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) gpu: Option<cuda::Optimizer>,
    #[cfg(feature = "cuda")]
    pub(super) replay: Replay,
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
            parameters,
            means,
            steps: 0,
            average: None,
            #[cfg(feature = "cuda")]
            gpu,
            #[cfg(feature = "cuda")]
            replay: Replay::default(),
        })
    }

    /// Begins a step of this rate, which [`Self::apply`] ends.
    pub(super) fn begin(&mut self, config: &Config, rate: f64) -> Result<Rates> {
        self.steps += 1;
        let rates = Rates::new(config, rate, self.steps);
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &mut self.gpu {
            gpu.set_step(rates.rate, rates.epsilon)?;
        }
        Ok(rates)
    }

    /// Moves every parameter by its gradient.
    pub(super) fn apply(&mut self, gradients: &Gradients, config: &Config, all: Rates) -> Result<()> {
        #[cfg(feature = "cuda")]
        if self.gpu.is_some() {
            return self.apply_there(gradients, config);
        }
        // Parameters are many and small: side by side they fill the cores.
        self.means.par_iter().try_for_each(|(name, means)| {
            let Some(grad) = gradients.get(name) else {
                return Ok(());
            };
            let (weight, grad) = (&self.parameters[name], grad.contiguous()?);
            let faster = faster(name, config);
            let rates = Rates { rate: all.rate * faster, weight_decay: all.weight_decay / faster, ..all };
            match config.optimizer {
                Optimizer::Adam => means.inplace_op2(&grad, &Op(Moments(rates)))?,
                Optimizer::Sgd => means.inplace_op3(&grad, weight, &Op(Velocity(rates)))?,
            }
            match config.nesterov {
                true => weight.inplace_op3(means, &grad, &Op(Ahead(rates))),
                false => weight.inplace_op2(means, &Op(Step(config.optimizer, rates))),
            }
        })
    }

    /// [`Self::apply`] on a GPU, which knows the rates since the step began.
    #[cfg(feature = "cuda")]
    fn apply_there(&mut self, gradients: &Gradients, config: &Config) -> Result<()> {
        let Self { parameters, means, gpu: Some(gpu), .. } = self else { return Ok(()) };
        let trained = means.iter().filter_map(|(name, means)| Some((name, means, gradients.get(name)?)));
        let trained: Vec<_> = trained
            .map(|(name, means, grad)| Ok((name, means, grad.contiguous()?)))
            .collect::<Result<_>>()?;
        let parameters: Vec<_> = trained
            .iter()
            .map(|(name, means, grad)| {
                let rate = faster(name, config);
                let decay = config.weight_decay / rate;
                cuda::Parameter { weight: &parameters[*name], grad, means, rate, decay }
            })
            .collect();
        match config.optimizer {
            Optimizer::Adam => gpu.launch("adam", &parameters, [config.beta1, config.beta2].map(Into::into)),
            Optimizer::Sgd => {
                let nesterov = usize::from(config.nesterov);
                gpu.launch("sgd", &parameters, [config.momentum.into(), nesterov.into()])
            }
        }
    }
}

/// How many times further than the others a parameter moves.
fn faster(name: &str, config: &Config) -> f64 {
    let of_norm = name.contains("batch_norm") && name.ends_with(".bias");
    if of_norm { config.norm_rate } else { 1.0 }
}

/// How far and how smoothly to step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    beta1: f64,
    beta2: f64,
    momentum: f64,
    weight_decay: f64,
    /// Adam's step size and epsilon have the corrections of the moments' start at zero.
    rate: f64,
    epsilon: f64,
}

impl Rates {
    fn new(config: &Config, rate: f64, steps: usize) -> Self {
        let (beta1, beta2) = (config.beta1, config.beta2);
        // Both bias corrections, folded into the step size and epsilon as in the paper's section 2.
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        let correction = (1.0 - beta2.powi(steps)).sqrt();
        Self {
            beta1,
            beta2,
            momentum: config.momentum,
            weight_decay: config.weight_decay,
            rate: match config.optimizer {
                Optimizer::Adam => rate * correction / (1.0 - beta1.powi(steps)),
                Optimizer::Sgd => rate,
            },
            epsilon: 1e-8 * correction,
        }
    }
}

/// Adam's running means (2, …) of the gradient and its square.
struct Moments(Rates);

impl Update<1> for Moments {
    fn name(&self) -> &'static str {
        "adam_moments"
    }

    fn cpu(&self, moments: &mut [f32], [grad]: [Input<'_>; 1]) -> Result<()> {
        let grad = contiguous::<f32>(grad)?;
        let (mean, square) = moments.split_at_mut(grad.len());
        let (beta1, rest1) = (self.0.beta1 as f32, (1.0 - self.0.beta1) as f32);
        let (beta2, rest2) = (self.0.beta2 as f32, (1.0 - self.0.beta2) as f32);
        for ((mean, square), &g) in mean.iter_mut().zip(square).zip(grad) {
            *mean = *mean * beta1 + g * rest1;
            *square = *square * beta2 + g * g * rest2;
        }
        Ok(())
    }
}

/// SGD's running sum (1, …) of the gradient, to which the decay of the weights adds.
struct Velocity(Rates);

impl Update<2> for Velocity {
    fn name(&self) -> &'static str {
        "sgd_velocity"
    }

    fn cpu(&self, velocity: &mut [f32], [grad, weight]: [Input<'_>; 2]) -> Result<()> {
        let (grad, weight) = (contiguous::<f32>(grad)?, contiguous::<f32>(weight)?);
        let (momentum, decay) = (self.0.momentum as f32, self.0.weight_decay as f32);
        for ((velocity, &g), &w) in velocity.iter_mut().zip(grad).zip(weight) {
            *velocity = *velocity * momentum + (g + w * decay);
        }
        Ok(())
    }
}

/// The weights, moved by Adam's running means or SGD's sum.
struct Step(Optimizer, Rates);

impl Update<1> for Step {
    fn name(&self) -> &'static str {
        match self.0 {
            Optimizer::Adam => "adam_step",
            Optimizer::Sgd => "sgd_step",
        }
    }

    fn cpu(&self, weight: &mut [f32], [means]: [Input<'_>; 1]) -> Result<()> {
        let means = contiguous::<f32>(means)?;
        let (rate, epsilon) = (self.1.rate as f32, self.1.epsilon as f32);
        match self.0 {
            Optimizer::Adam => {
                let (mean, square) = means.split_at(weight.len());
                for ((weight, &mean), &square) in weight.iter_mut().zip(mean).zip(square) {
                    *weight -= mean / (square.sqrt() + epsilon) * rate;
                }
            }
            Optimizer::Sgd => {
                for (weight, &velocity) in weight.iter_mut().zip(means) {
                    *weight -= velocity * rate;
                }
            }
        }
        Ok(())
    }
}

/// The weights, moved by where SGD's sum of gradients will be a step ahead (Nesterov, as PyTorch has it).
struct Ahead(Rates);

impl Update<2> for Ahead {
    fn name(&self) -> &'static str {
        "nesterov_step"
    }

    fn cpu(&self, weight: &mut [f32], [velocity, grad]: [Input<'_>; 2]) -> Result<()> {
        let (velocity, grad) = (contiguous::<f32>(velocity)?, contiguous::<f32>(grad)?);
        let Rates { momentum, weight_decay, rate, .. } = self.0;
        let (momentum, decay, rate) = (momentum as f32, weight_decay as f32, rate as f32);
        for ((weight, &velocity), &g) in weight.iter_mut().zip(velocity).zip(grad) {
            *weight -= (velocity * momentum + (g + *weight * decay)) * rate;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Three steps, each with another gradient and another rate, on a parameter of this name, 0.5, -1, 2.
    fn three_steps(config: &Config, name: &str) -> Result<Vec<f32>> {
        let parameter = Var::new(&[0.5f32, -1.0, 2.0], &Device::Cpu)?;
        let parameters = BTreeMap::from([(name.to_string(), parameter.clone())]);
        let mut state = OptimizerState::new(config.optimizer, parameters)?;
        for (step, rate) in [0.1, 0.05, 0.2].into_iter().enumerate() {
            let gradient = [0.1f32, -2.0, 0.3].map(|g| g * (step as f32 + 1.0) - 0.25);
            let gradients = BTreeMap::from([(name.to_string(), Tensor::new(&gradient, &Device::Cpu)?)]);
            let rates = state.begin(config, rate)?;
            state.apply(&gradients, config, rates)?;
        }
        parameter.as_tensor().to_vec1()
    }

    /// PyTorch 2.15 (tests/pytorch_values.py, OPTIMIZERS).
    #[test]
    fn steps_agree_with_pytorch() -> Result<()> {
        let sgd = Config { optimizer: Optimizer::Sgd, weight_decay: 0.01, ..Config::default() };
        for (config, expected) in [
            (Config::default(), [0.733_386_75_f32, -0.658_644_1, 1.684_793]),
            (Config { momentum: 0.0, weight_decay: 0.0, ..sgd.clone() }, [0.507_5, 0.687_5, 1.847_5]),
            (sgd.clone(), [0.543_785_1, 1.924_019_1, 1.759_483_5]),
            (Config { nesterov: true, ..sgd }, [0.54501456, 3.3194387, 1.624198]),
        ] {
            for (ours, theirs) in three_steps(&config, "w")?.into_iter().zip(expected) {
                assert!((ours - theirs).abs() < 1e-6, "{:?}: {ours} and {theirs}", config.optimizer);
            }
        }
        Ok(())
    }

    #[test]
    fn biases_of_normalisations_have_a_rate_of_their_own() -> Result<()> {
        let config = Config {
            optimizer: Optimizer::Sgd,
            nesterov: true,
            weight_decay: 0.04,
            norm_rate: 4.0,
            ..Config::default()
        };
        let others = Config { norm_rate: 1.0, ..config.clone() };
        assert_eq!(three_steps(&config, "conv1.bias")?, three_steps(&others, "conv1.bias")?);
        // Steps four times as large with a quarter of the decay.
        let slow = Config { weight_decay: 0.01, norm_rate: 1.0, ..config.clone() };
        let parameter = three_steps(&config, "batch_norm2.bias")?;
        let moved = |w: &[f32]| w[0] - 0.5;
        assert!(moved(&parameter) / moved(&three_steps(&slow, "batch_norm2.bias")?) > 3.0);
        Ok(())
    }
}
