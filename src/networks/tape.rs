//! Gradients of a whole network, layer by layer.
//!
//! candle's autograd fills a tensor with zeros and adds to it for every gradient it is given, on one
//! thread: a fifth of a training step. A network is a list, so its gradients need no graph: each
//! layer leaves behind what turns the gradient of its output into that of its input, and the
//! list is walked backwards. The operations' gradients are the same ones that candle's autograd
//! uses (`tests/training.rs` compares).

use super::network::Network;
use crate::kernels::{self, Precision};
use crate::layers::{Gradients, Pass, Step, backward, train};
use crate::{Result, Rng};
use candle_core::Tensor;

/// What a training pass leaves behind for its backward pass.
pub struct Tape {
    /// Of each exit the trunk's segment before it, and its branch.
    exits: Vec<(Vec<Step>, Vec<Step>)>,
    /// Whether the trunk was not trained: its segments then have no steps.
    frozen: bool,
    precision: Precision,
}

impl Network {
    /// A training pass over images (batch, channels, height, width): the logits (batch, classes) of
    /// every exit, and what it takes to go back. Dropout draws from `rng`.
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
        let _scope = self.precision.scope();
        let (mut x, mut logits, mut exits) = (images.clone(), Vec::new(), Vec::new());
        for (i, segment) in self.segments.iter().enumerate() {
            let of_segment;
            (x, of_segment) = match frozen {
                true => (self.segment(i, &x, &mut Pass::Evaluate)?, Vec::new()),
                false => train(segment, &x, rng)?,
            };
            let (end, of_branch) = train(self.branches.get(i).map_or(&[], Vec::as_slice), &x, rng)?;
            logits.push(end);
            exits.push((of_segment, of_branch));
        }
        Ok((logits, Tape { exits, frozen, precision: self.precision }))
    }
}

impl Tape {
    /// The gradients of all parameters, given those of the logits of every exit (batch, classes).
    pub fn backward(self, logits: Vec<Tensor>) -> Result<Gradients> {
        let _scope = self.precision.scope();
        let (mut gradients, mut grad) = (Gradients::new(), None);
        for (i, ((segment, branch), of_exit)) in self.exits.into_iter().zip(logits).enumerate().rev() {
            let more = backward(branch, &of_exit, !self.frozen, &mut gradients)?;
            let of_segment = match (grad, more) {
                (Some(grad), Some(more)) => Some(kernels::add(&grad, &more)?),
                (grad, more) => grad.or(more),
            };
            // Nobody asks for the gradient of the images, or of what a frozen trunk gives.
            grad = match of_segment {
                Some(of_segment) if !self.frozen => backward(segment, &of_segment, i > 0, &mut gradients)?,
                _ => None,
            };
        }
        Ok(gradients)
    }
}
