//! The layers of a network's list.
//!
//! What a layer does is said in four places, each a `match` that the compiler wants complete: its shape
//! and parameters (`build.rs`), its forward pass (`network.rs`), its gradient (`training/tape.rs`), and
//! how it runs on single images (`exits/plan.rs`).

use crate::Result;
use crate::error::bail;
use crate::kernels::{Lrn, Pooling};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One entry of a network's list. As JSON it is part of what identifies runs and records: a field that
/// is added later needs `#[serde(default, skip_serializing_if = …)]`, so that lists without it stay the
/// same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Convolution with bias and a square kernel, on `padding` zeros around the image.
    Conv {
        inputs: usize,
        outputs: usize,
        kernel: usize,
        padding: usize,
        #[serde(default = "one", skip_serializing_if = "is_one")]
        stride: usize,
        #[serde(default, skip_serializing_if = "is_default")]
        start: Start,
    },
    /// Fully connected layer; an image is flattened first.
    Linear { inputs: usize, outputs: usize },
    /// Pooling over square windows.
    Pool { kind: Pooling, kernel: usize, stride: usize },
    /// Local response normalisation.
    Lrn(Lrn),
    /// Batch normalisation of every channel.
    BatchNorm {
        channels: usize,
        /// Whether the scale stays 1.
        #[serde(default, skip_serializing_if = "is_default")]
        plain: bool,
    },
    /// Rectifier.
    Relu,
    /// Gaussian error linear unit.
    Gelu,
    /// Multiplication by a number.
    Scale(f32),
    /// Dropout with this probability while training, nothing otherwise.
    Dropout(f32),
    /// A residual block: the rectified sum of what these layers give and the block's input
    /// ([`crate::kernels::add_shortcut`]).
    Residual(Vec<Layer>),
    /// A side branch that ends in an exit.
    Branch(Vec<Layer>),
}

/// What a convolution's weights are before training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Normal with variance 1 / fan-in, as Chainer draws them.
    #[default]
    Normal,
    /// The same, but as many of the first outputs as there are inputs pass these on (Dirac).
    Identity,
    /// Fitted to the training images, and never trained: products with patches of their pixels that have
    /// no correlation and variance 1, and their negatives
    /// ([`crate::data::Split::patch_whitening`]). The bias is trained.
    Whitening,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(stride: &usize) -> bool {
    *stride == 1
}

/// A convolution with stride 1: input channels, output channels, kernel size, padding.
pub fn conv(inputs: usize, outputs: usize, kernel: usize, padding: usize) -> Layer {
    Layer::Conv { inputs, outputs, kernel, padding, stride: 1, start: Start::Normal }
}

/// A fully connected layer: input size (channels × height × width of an image), output size.
pub fn linear(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear { inputs, outputs }
}

/// Max pooling whose windows may hang over the edge: window size, stride.
pub fn max_pool(kernel: usize, stride: usize) -> Layer {
    let kind = Pooling::Max;
    Layer::Pool { kind, kernel, stride }
}

/// Max pooling whose windows stay inside the image: window size, stride.
pub fn max_pool_inside(kernel: usize, stride: usize) -> Layer {
    let kind = Pooling::MaxInside;
    Layer::Pool { kind, kernel, stride }
}

/// Average pooling whose windows stay inside the image: window size, stride.
pub fn average_pool(kernel: usize, stride: usize) -> Layer {
    let kind = Pooling::Average;
    Layer::Pool { kind, kernel, stride }
}

/// Batch normalisation: channels. In training it uses the moments of the batch and updates running
/// statistics with them (decay 0.9 per step, as in Chainer); otherwise it uses the running statistics.
pub fn batch_norm(channels: usize) -> Layer {
    Layer::BatchNorm { channels, plain: false }
}

/// [`batch_norm`] whose scale stays 1.
pub fn plain_norm(channels: usize) -> Layer {
    Layer::BatchNorm { channels, plain: true }
}

/// Local response normalisation with the constants of the authors' AlexNet.
pub fn lrn() -> Layer {
    Layer::Lrn(Lrn::default())
}

/// Rectifier.
pub fn relu() -> Layer {
    Layer::Relu
}

/// Gaussian error linear unit, x · Φ(x).
pub fn gelu() -> Layer {
    Layer::Gelu
}

/// Multiplication by `factor`.
pub fn scale(factor: f32) -> Layer {
    Layer::Scale(factor)
}

/// Dropout with probability `p` of losing an element.
pub fn dropout(p: f32) -> Layer {
    Layer::Dropout(p)
}

/// A residual block: `max(layers(x) + x, 0)`. Where the layers give a smaller image or more channels,
/// x is subsampled and padded with channels of zeros.
pub fn residual(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Residual(layers.into())
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
    /// This convolution or pooling with another stride. Fails for other layers, which have none.
    pub fn stride(mut self, step: usize) -> Result<Self> {
        match &mut self {
            Self::Conv { stride, .. } | Self::Pool { stride, .. } => *stride = step,
            other => bail!(Setting, "{other} has no stride; only a convolution or a pooling has"),
        }
        Ok(self)
    }

    /// This convolution with other weights before training. Fails for other layers.
    pub fn start(mut self, with: Start) -> Result<Self> {
        match &mut self {
            Self::Conv { start, .. } => *start = with,
            other => bail!(Setting, "{other} has no start; only a convolution has"),
        }
        Ok(self)
    }

    /// Whether it is a side branch.
    pub fn is_branch(&self) -> bool {
        matches!(self, Self::Branch(_))
    }

    /// What its parameters are named after.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::Linear { .. } => "linear",
            Self::Pool { kind, .. } => match kind {
                Pooling::Max | Pooling::MaxInside => "max_pool",
                Pooling::Average => "average_pool",
            },
            Self::Lrn(_) => "lrn",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Relu => "relu",
            Self::Gelu => "gelu",
            Self::Scale(_) => "scale",
            Self::Dropout(_) => "dropout",
            Self::Residual(_) => "residual",
            Self::Branch(_) => "branch",
        }
    }
}

/// As it is written in a list.
impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Conv { inputs, outputs, kernel, padding, stride, .. } => {
                write!(f, "{kind}({inputs}, {outputs}, {kernel}, {padding})")?;
                match stride {
                    1 => Ok(()),
                    _ => write!(f, " stride {stride}"),
                }
            }
            Self::Linear { inputs, outputs } => write!(f, "{kind}({inputs}, {outputs})"),
            Self::Pool { kernel, stride, .. } => write!(f, "{kind}({kernel}, {stride})"),
            Self::BatchNorm { channels, .. } => write!(f, "{kind}({channels})"),
            Self::Lrn(_) | Self::Relu | Self::Gelu => write!(f, "{kind}()"),
            Self::Scale(factor) => write!(f, "{kind}({factor})"),
            Self::Dropout(p) => write!(f, "{kind}({p})"),
            Self::Residual(_) => write!(f, "residual block"),
            Self::Branch(_) => write!(f, "branch"),
        }
    }
}
