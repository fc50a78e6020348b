//! Gradients of a whole network, layer by layer.
//!
//! candle's autograd fills a tensor with zeros and adds to it for every gradient it is given, on one
//! thread: a fifth of a training step. A network is a list, so its gradients need no graph: each
//! layer leaves behind what turns the gradient of its output into that of its input, and the
//! list is walked backwards. The operations' gradients are the same ones that candle's autograd
//! uses (`tests/training.rs` compares).

use crate::kernels::{self, Precision};
use crate::networks::{Layer, Network, Node, Pass, Start};
use crate::{Result, Rng};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

/// Gradients by the name of their parameter.
pub type Gradients = BTreeMap<String, Tensor>;

/// Takes the gradient of a layer's output, adds those of its parameters to the map, and gives that of
/// its input, unless told that nobody asks for it.
type Step = Box<dyn FnOnce(&Tensor, bool, &mut Gradients) -> Result<Option<Tensor>>>;

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
                (x, steps) = forward(segment, &x, rng)?;
                tape.segments.push(steps);
            }
            let mut end = x.clone();
            if let Some(branch) = self.branches.get(i) {
                let steps;
                (end, steps) = forward(branch, &x, rng)?;
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

fn backward(
    steps: Vec<Step>,
    grad: &Tensor,
    of_input: bool,
    gradients: &mut Gradients,
) -> Result<Option<Tensor>> {
    let mut grad = Some(grad.clone());
    for (i, step) in steps.into_iter().enumerate().rev() {
        if let Some(of_output) = grad {
            grad = step(&of_output, of_input || i > 0, gradients)?;
        }
    }
    Ok(grad)
}

fn forward(nodes: &[Node], x: &Tensor, rng: &mut Rng) -> Result<(Tensor, Vec<Step>)> {
    let (mut x, mut steps) = (x.clone(), Vec::new());
    for node in nodes {
        let step;
        (x, step) = one(node, &x, rng)?;
        steps.push(step);
    }
    Ok((x, steps))
}

/// One layer: its output and its step of the tape.
fn one(node: &Node, x: &Tensor, rng: &mut Rng) -> Result<(Tensor, Step)> {
    let x = x.contiguous()?;
    let parameters = || {
        let (weight, bias) = node.parameters.as_ref().expect("built with parameters");
        // Without the variable candle builds no graph.
        let plain = |var: &Var| var.as_tensor().detach();
        (plain(weight), plain(bias))
    };
    let name = node.name.clone();
    // A weight that is not trained has no gradient.
    let keep = move |gradients: &mut Gradients, weight: Option<Tensor>, bias: Tensor| {
        weight.map(|weight| gradients.insert(format!("{name}.weight"), weight));
        gradients.insert(format!("{name}.bias"), bias);
    };
    Ok(match node.layer {
        Layer::Conv { padding, stride, start, .. } => {
            let (weight, bias) = parameters();
            let out = kernels::conv2d(&x, &weight, &bias, padding, stride)?;
            let step: Step = Box::new(move |grad, of_input, gradients| {
                let geometry = (padding, stride);
                let (x, weight, bias) = kernels::conv2d_backward(&x, &weight, grad, geometry, of_input)?;
                let weight = (start != Start::Whitening).then_some(weight);
                keep(gradients, weight, bias);
                Ok(x)
            });
            (out, step)
        }
        Layer::Linear { .. } => {
            let (weight, bias) = parameters();
            let flat = x.flatten_from(1)?;
            let out = kernels::linear(&flat, &weight, &bias)?;
            let step: Step = Box::new(move |grad, _, gradients| {
                let (flat, weight, bias) = kernels::linear_backward(&flat, &weight, grad)?;
                keep(gradients, Some(weight), bias);
                Ok(Some(flat.reshape(x.shape())?))
            });
            (out, step)
        }
        Layer::BatchNorm { plain, .. } => {
            let (weight, bias) = parameters();
            let (out, moments) = kernels::batch_norm(&x, &weight, &bias)?;
            node.update_statistics(&moments)?;
            let step: Step = Box::new(move |grad, _, gradients| {
                let (x, weight, bias) = moments.backward(&x, &weight, grad)?;
                keep(gradients, (!plain).then_some(weight), bias);
                Ok(Some(x))
            });
            (out, step)
        }
        Layer::Pool { kind, kernel, stride } => {
            let (_, _, height, width) = x.dims4()?;
            let pool = kernels::Pool::new(kind, height, width, kernel, stride)?;
            let out = kernels::pool2d(&x, kind, kernel, stride)?;
            (out, Box::new(move |grad, _, _| Ok(Some(pool.backward(&x, grad)?))))
        }
        Layer::Lrn(constants) => {
            let out = kernels::lrn(&x, constants)?;
            (out, Box::new(move |grad, _, _| Ok(Some(constants.backward(&x, grad)?))))
        }
        Layer::Relu => {
            let out = kernels::relu(&x)?;
            let kept = out.clone();
            (out, Box::new(move |grad, _, _| Ok(Some(kernels::relu_backward(&kept, grad)?))))
        }
        Layer::Gelu => {
            let out = kernels::gelu(&x)?;
            (out, Box::new(move |grad, _, _| Ok(Some(kernels::gelu_backward(&x, grad)?))))
        }
        Layer::Scale(factor) => {
            let factor = f64::from(factor);
            ((&x * factor)?, Box::new(move |grad, _, _| Ok(Some((grad * factor)?))))
        }
        Layer::Dropout(p) => {
            let mask = kernels::dropout_mask(&x, p, rng)?;
            let out = (&x * &mask)?;
            (out, Box::new(move |grad, _, _| Ok(Some((grad * mask)?))))
        }
        Layer::Residual(_) => {
            let (body, steps) = forward(&node.inner, &x, rng)?;
            let shortcut = kernels::Shortcut::between(&x, &body)?;
            let out = kernels::add_shortcut(&body, &x)?;
            let kept = out.clone();
            let step: Step = Box::new(move |grad, _, gradients| {
                let (of_body, of_input) = shortcut.backward(&kept, grad)?;
                let through = backward(steps, &of_body, true, gradients)?;
                Ok(match through {
                    Some(through) => Some(kernels::add(&of_input, &through)?),
                    None => Some(of_input),
                })
            });
            (out, step)
        }
        Layer::Branch(_) => unreachable!("branches are not nodes"),
    })
}
