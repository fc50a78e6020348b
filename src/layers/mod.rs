//! The layers of a network's list, each in a file of its own.
//!
//! A layer's file says all that it does: how it is written, its shapes, its initial weights, its cost, its pass in
//! inference and in training, its gradient, and its step of a compiled plan. That is what [`Operator`] asks for. A new
//! layer is such a file, a variant of [`Layer`], and a line in `Layer::operator`; outside this folder only ONNX names it
//! (`runs/onnx/layers.rs`). Begin with `gelu.rs`, the simplest, then `conv.rs`, which has everything. In training some layers
//! also take images whose channels lie side by side, or sixteen images that do (`Activation`).

mod batch_norm;
mod conv;
mod dropout;
mod gelu;
mod linear;
mod lrn;
mod node;
mod pool;
mod quantize;
mod relu;
mod residual;
mod scale;

pub use batch_norm::{BatchNorm, batch_norm, plain_norm};
pub use conv::{Conv, Start, conv};
pub use dropout::{Dropout, dropout};
pub use gelu::gelu;
pub use linear::{Linear, linear};
pub use lrn::lrn;
pub(crate) use node::{Activation, Gradient, Initial, Step, backward, place, run, train};
pub use node::{Fit, Gradients, Node, Pass, Shape, Variables};
pub use pool::{Pool, average_pool, max_pool, max_pool_inside};
pub use quantize::{Quantize, quantize};
pub use relu::relu;
pub use residual::{Residual, Skip, residual};
pub use scale::{Scale, scale};

// The layers' files use all of this.
use crate::data::{Split, Train};
use crate::kernels::inference::{StepBuilder, View};
use crate::kernels::{self, Beside, ConvGeometry, Lrn, Moments, Pixels, Pooling, Shortcut, Zeros};
use crate::{Result, Rng, bail};
use candle_core::{Tensor, Var};
use node::{detached, keep, pixel_step, plain_step, step, unfit, values};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One entry of a network's list. As JSON it is part of what identifies runs and records: a field that
/// is added later needs `#[serde(default, skip_serializing_if = …)]`, so that lists without it stay the
/// same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Convolution with bias and a square kernel.
    Conv(Conv),
    /// Fully connected layer; an image is flattened first.
    Linear(Linear),
    /// Pooling over square windows.
    Pool(Pool),
    /// Local response normalisation.
    Lrn(Lrn),
    /// Batch normalisation of every channel.
    BatchNorm(BatchNorm),
    /// Rectifier.
    Relu,
    /// Gaussian error linear unit.
    Gelu,
    /// Multiplication by a number.
    Scale(Scale),
    /// Rounding to 256 values.
    Quantize(Quantize),
    /// Dropout while training, nothing otherwise.
    Dropout(Dropout),
    /// The rectified sum of what some layers give and their input.
    Residual(Residual),
    /// A side branch that ends in an exit. Its layers run beside the trunk, which goes on from what it had here.
    Branch(Vec<Layer>),
}

/// What a layer does. Shapes are those of one sample; tensors have the batch in front of them.
pub(crate) trait Operator {
    /// What it is called in a list, and what its parameters are named after.
    fn kind(&self) -> &'static str;

    /// What stands behind the kind in a list.
    fn arguments(&self) -> String {
        "()".to_string()
    }

    /// The layers inside it.
    fn inner(&self) -> &[Layer] {
        &[]
    }

    /// Those that its input takes beside them.
    fn beside(&self) -> &[Layer] {
        &[]
    }

    /// What it makes of a sample of this shape, or what it expects instead.
    fn output(&self, input: Shape) -> Fit {
        Ok(input)
    }

    /// What it keeps from pass to pass, as it is before training.
    fn variables(&self, _initial: &Initial<'_>) -> Result<Variables> {
        Ok(Variables::default())
    }

    /// Multiply-accumulates for one sample, of its output's shape, without those of the layers inside it. Those of
    /// convolutions and linear layers count, as is usual.
    fn macs(&self, _output: Shape) -> usize {
        0
    }

    /// The output for `x`: in inference, or under candle's autograd in training.
    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor>;

    /// The output for `x` in training, and the step back.
    fn train(&self, node: &Node, x: Activation, rng: &mut Rng) -> Result<(Activation, Step)>;

    /// Appends its steps to those of a plan: they read `from`. Returns what they write.
    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View>;
}

/// A side branch that leaves the trunk here; its last layer gives one logit per class.
pub fn branch(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Branch(layers.into())
}

/// The list without its branches: the baseline that a network with early exits is compared with,
/// and from whose trained weights it starts.
pub fn without_branches(layers: &[Layer]) -> Vec<Layer> {
    let trunk = layers.iter().filter(|layer| !layer.is_branch());
    trunk.cloned().collect()
}

impl Layer {
    /// What it does; nothing for a branch, which is a part of the network and no layer of its trunk.
    pub(crate) fn operator(&self) -> Option<&dyn Operator> {
        Some(match self {
            Self::Conv(conv) => conv,
            Self::Linear(linear) => linear,
            Self::Pool(pool) => pool,
            Self::Lrn(lrn) => lrn,
            Self::BatchNorm(norm) => norm,
            Self::Relu => &relu::Relu,
            Self::Gelu => &gelu::Gelu,
            Self::Scale(scale) => scale,
            Self::Quantize(rounding) => rounding,
            Self::Dropout(dropout) => dropout,
            Self::Residual(block) => block,
            Self::Branch(_) => return None,
        })
    }

    /// This convolution or pooling with another stride. Fails for other layers, which have none.
    pub fn stride(mut self, step: usize) -> Result<Self> {
        match &mut self {
            Self::Conv(Conv { stride, .. }) | Self::Pool(Pool { stride, .. }) => *stride = step,
            other => bail!(Setting, "{other} has no stride; only a convolution or a pooling has"),
        }
        Ok(self)
    }

    /// This convolution with other weights before training. Fails for other layers.
    pub fn start(mut self, with: Start) -> Result<Self> {
        match &mut self {
            Self::Conv(conv) => conv.start = with,
            other => bail!(Setting, "{other} has no start; only a convolution has"),
        }
        Ok(self)
    }

    /// This residual block whose input comes in again in another way. Fails for other layers.
    pub fn skip(mut self, with: Skip) -> Result<Self> {
        match &mut self {
            Self::Residual(block) => block.skip = with,
            other => bail!(Setting, "{other} has no skip; only a residual block has"),
        }
        Ok(self)
    }

    /// What it makes of a sample of this shape, or what it expects instead.
    pub fn output(&self, input: Shape) -> Fit {
        self.operator().map_or(Ok(input), |operator| operator.output(input))
    }

    /// Whether it is a side branch.
    pub fn is_branch(&self) -> bool {
        matches!(self, Self::Branch(_))
    }
}

/// As it is written in a list.
impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operator() {
            Some(operator) => write!(f, "{}{}", operator.kind(), operator.arguments()),
            None => write!(f, "branch"),
        }
    }
}
