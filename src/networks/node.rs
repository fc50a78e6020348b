//! A layer at its place in a network.

use super::layer::Layer;
use candle_core::Var;
use std::fmt;

/// The shape of one sample between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Channels, height, width.
    Image(usize, usize, usize),
    /// A vector.
    Flat(usize),
}

impl Shape {
    /// Elements of one sample.
    pub fn len(self) -> usize {
        match self {
            Self::Image(channels, height, width) => channels * height * width,
            Self::Flat(len) => len,
        }
    }

    /// Whether a sample has no elements.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(channels, height, width) => write!(f, "{channels}x{height}x{width}"),
            Self::Flat(len) => write!(f, "{len}"),
        }
    }
}

/// A layer at its place: name, shapes, parameters.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Kind and number within its part of the network, as in `branch1.conv2`.
    pub(crate) name: String,
    pub(crate) layer: Layer,
    pub(crate) output: Shape,
    /// Weight and bias.
    pub(crate) parameters: Option<(Var, Var)>,
    /// Running mean and variance of a batch normalisation.
    pub(crate) statistics: Option<(Var, Var)>,
    /// The layers of a residual block.
    pub(crate) inner: Vec<Node>,
}

impl Node {
    /// Multiply-accumulates of one sample: those of convolutions and linear layers, as is usual.
    pub(crate) fn macs(&self) -> usize {
        match &self.layer {
            Layer::Conv { inputs, kernel, .. } => inputs * kernel * kernel * self.output.len(),
            Layer::Linear { inputs, outputs } => inputs * outputs,
            _ => self.inner.iter().map(Self::macs).sum(),
        }
    }

    pub(crate) fn parameter_count(&self) -> usize {
        let inner: usize = self.inner.iter().map(Self::parameter_count).sum();
        self.parameters.as_ref().map_or(inner, |(weight, bias)| weight.elem_count() + bias.elem_count())
    }
}
