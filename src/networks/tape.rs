//! Gradients of a whole network, layer by layer.
//!
//! candle's autograd fills a tensor with zeros and adds to it for every gradient it is given, on one
//! thread: a fifth of a training step. A network is a list, so its gradients need no graph: each
//! layer leaves behind what turns the gradient of its output into that of its input, and the
//! list is walked backwards. The operations' gradients are the same ones that candle's autograd
//! uses (`tests/training.rs` compares).

use super::network::Network;
use crate::kernels::Precision;
use crate::layers::{Activation, Gradient, Gradients, Pass, Step, backward, train};
use crate::{Result, Rng, bail};
use candle_core::Tensor;

/// What a training pass leaves behind for its backward pass.
pub struct Tape {
    /// Of each exit the trunk's segment before it, and its branch.
    exits: Vec<(Vec<Step>, Vec<Step>)>,
    /// Whether the trunk was not trained: its segments then have no steps.
    frozen: bool,
    /// Whether the trunk follows at each exit the mean of what this exit and those behind it say, and not their sum
    /// (gradient equilibrium, Li et al. 2019, <https://arxiv.org/abs/1908.06294>).
    pub(crate) equilibrium: bool,
    precision: Precision,
}

impl Network {
    /// A training pass over images (batch, channels, height, width): the logits (batch, classes) of
    /// every exit, and what it takes to go back. Dropout draws from `rng`. Fails on images of another size, and on none.
    pub fn forward_with_tape(&self, images: &Tensor, rng: &mut Rng) -> Result<(Vec<Tensor>, Tape)> {
        self.pass_with_tape(images, rng, false)
    }

    /// [`Self::forward_with_tape`]; with `frozen` for training the branches alone: the trunk does what it does in
    /// inference, and its parameters get no gradients.
    pub(crate) fn pass_with_tape(
        &self,
        images: &Tensor,
        rng: &mut Rng,
        frozen: bool,
    ) -> Result<(Vec<Tensor>, Tape)> {
        self.check_images(images)?;
        if images.dim(0)? == 0 {
            bail!(Shape, "{} is trained on images, and got none", self.name)
        }
        let _scope = self.precision.scope();
        let (mut x, mut logits, mut exits) = (Activation::Plain(images.clone()), Vec::new(), Vec::new());
        for (i, segment) in self.segments.iter().enumerate() {
            let of_segment;
            (x, of_segment) = match frozen {
                true => (Activation::Plain(self.segment(i, &x.plain()?, &mut Pass::Evaluate)?), Vec::new()),
                false => train(segment, x, rng)?,
            };
            let branch = self.branches.get(i).map_or(&[][..], Vec::as_slice);
            let (end, of_branch) = train(branch, x.clone(), rng)?;
            logits.push(end.plain()?);
            exits.push((of_segment, of_branch));
        }
        Ok((logits, Tape { exits, frozen, equilibrium: false, precision: self.precision }))
    }
}

impl Tape {
    /// The gradients of all parameters, given those of the logits of every exit (batch, classes).
    pub fn backward(self, logits: Vec<Tensor>) -> Result<Gradients> {
        let _scope = self.precision.scope();
        let (mut gradients, mut grad) = (Gradients::new(), None::<Gradient>);
        let exits = self.exits.len();
        for (i, ((segment, branch), of_exit)) in self.exits.into_iter().zip(logits).enumerate().rev() {
            let more = backward(branch, Gradient::Plain(of_exit), !self.frozen, &mut gradients)?;
            let of_segment = match (grad, more) {
                (Some(grad), Some(more)) if self.equilibrium => {
                    // `grad` is already a mean of those behind this exit.
                    let share = 1.0 / (exits - i) as f64;
                    Some(grad.scale(1.0 - share)?.add(more.scale(share)?)?)
                }
                (Some(grad), Some(more)) => Some(grad.add(more)?),
                (grad, more) => grad.or(more),
            };
            // Nobody asks for the gradient of the images, or of what a frozen trunk gives.
            grad = match of_segment {
                Some(of_segment) if !self.frozen => backward(segment, of_segment, i > 0, &mut gradients)?,
                _ => None,
            };
        }
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{branch, linear, relu};
    use candle_core::Device;
    use rand::SeedableRng;

    #[test]
    fn in_equilibrium_the_trunk_follows_the_mean_of_the_exits_behind_it() -> Result<()> {
        let first = [linear(6, 5), relu(), branch([linear(5, 3)])];
        let layers = [&first[..], &[linear(5, 5), relu(), branch([linear(5, 3)]), linear(5, 3)]].concat();
        let network = Network::new("three", [1, 2, 3], layers, 0, &Device::Cpu)?;
        let images: Vec<f32> = (0..24).map(|i| (1.7 * i as f32).sin()).collect();
        let images = Tensor::from_vec(images, (4, 1, 2, 3), &Device::Cpu)?;
        // The gradients where these exits want something.
        let gradients = |wanted: &[usize], equilibrium| -> Result<Gradients> {
            let (logits, mut tape) = network.forward_with_tape(&images, &mut Rng::seed_from_u64(0))?;
            tape.equilibrium = equilibrium;
            let factor = |exit| if wanted.contains(&exit) { 1.0 + exit as f64 } else { 0.0 };
            tape.backward(
                logits.iter().enumerate().map(|(i, z)| Ok((z * factor(i))?)).collect::<Result<_>>()?,
            )
        };
        let alone = [gradients(&[0], false)?, gradients(&[1], false)?, gradients(&[2], false)?];
        let together = gradients(&[0, 1, 2], true)?;
        for (name, behind) in [
            ("linear1.weight", &[0, 1, 2][..]),
            ("linear2.weight", &[1, 2]),
            ("linear3.bias", &[2]),
            ("branch1.linear1.weight", &[0]),
            ("branch2.linear1.weight", &[1]),
        ] {
            let mut mean = (&together[name] * 0.0)?;
            for &exit in behind {
                mean = (mean + (&alone[exit][name] / behind.len() as f64)?)?;
            }
            let apart = (mean - &together[name])?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(apart < 1e-6, "{name}: {apart} apart");
        }
        Ok(())
    }
}
