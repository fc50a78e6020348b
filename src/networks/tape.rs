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
    /// None where the trunk is frozen.
    segments: Vec<Vec<Step>>,
    branches: Vec<Vec<Step>>,
    precision: Precision,
}

impl Network {
    /// A training pass over images (batch, channels, height, width): the logits (batch, classes) of
    /// every exit, and what it takes to go back. Dropout draws from `rng`.
    pub fn forward_with_tape(&self, images: &Tensor, rng: &mut Rng) -> Result<(Vec<Tensor>, Tape)> {
        self.pass_with_tape(images, rng, false)
    }

    /// [`Self::forward_with_tape`] for training the branches alone: the trunk does what it does in inference,
    /// and its parameters get no gradients.
    pub fn branches_with_tape(&self, images: &Tensor, rng: &mut Rng) -> Result<(Vec<Tensor>, Tape)> {
        self.pass_with_tape(images, rng, true)
    }

    fn pass_with_tape(&self, images: &Tensor, rng: &mut Rng, frozen: bool) -> Result<(Vec<Tensor>, Tape)> {
        let _scope = self.precision.scope();
        let mut tape = Tape { segments: Vec::new(), branches: Vec::new(), precision: self.precision };
        let (mut x, mut logits) = (images.clone(), Vec::new());
        for (i, segment) in self.segments.iter().enumerate() {
            if frozen {
                x = self.segment(i, &x, &mut Pass::Evaluate)?;
            } else {
                let steps;
                (x, steps) = train(segment, &x, rng)?;
                tape.segments.push(steps);
            }
            let mut end = x.clone();
            if let Some(branch) = self.branches.get(i) {
                let steps;
                (end, steps) = train(branch, &x, rng)?;
                tape.branches.push(steps);
            }
            logits.push(end);
        }
        Ok((logits, tape))
    }
}

impl Tape {
    /// The gradients of all parameters, given those of the logits of every exit (batch, classes).
    pub fn backward(self, mut logits: Vec<Tensor>) -> Result<Gradients> {
        let _scope = self.precision.scope();
        let mut gradients = Gradients::new();
        if self.segments.is_empty() {
            for (branch, of_exit) in self.branches.into_iter().zip(&logits) {
                backward(branch, of_exit, false, &mut gradients)?;
            }
            return Ok(gradients);
        }
        let mut grad = logits.pop();
        let mut branches = self.branches;
        for (i, segment) in self.segments.into_iter().enumerate().rev() {
            // The last segment has no branch.
            if let (true, Some(of_exit)) = (branches.len() > i, logits.get(i)) {
                let branch = branches.pop().unwrap_or_default();
                let more = backward(branch, of_exit, true, &mut gradients)?;
                grad = match (grad, more) {
                    (Some(grad), Some(more)) => Some(kernels::add(&grad, &more)?),
                    (grad, more) => grad.or(more),
                };
            }
            if let Some(of_segment) = grad {
                // Nobody asks for the gradient of the images.
                grad = backward(segment, &of_segment, i > 0, &mut gradients)?;
            }
        }
        Ok(gradients)
    }
}
