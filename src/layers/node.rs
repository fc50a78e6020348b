//! A layer at its place in a network, and what happens to lists of them.

use super::{Layer, Operator};
use crate::kernels::inference::{StepBuilder, View};
use crate::kernels::{self, Beside, PixelGrad, Pixels};
use crate::{Error, Result, Rng};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use std::collections::BTreeMap;
use std::fmt;

/// The shape of one sample between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Channels, height, width.
    Image(usize, usize, usize),
    /// A vector.
    Flat(usize),
}

impl From<[usize; 3]> for Shape {
    fn from([channels, height, width]: [usize; 3]) -> Self {
        Self::Image(channels, height, width)
    }
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

    /// Channels, height and width, or that they are expected.
    pub fn image(self) -> Fit<[usize; 3]> {
        match self {
            Self::Image(channels, height, width) => Ok([channels, height, width]),
            Self::Flat(_) => Err("an image".to_string()),
        }
    }

    /// Height and width of an image of so many channels, or that it is expected.
    pub(super) fn image_of(self, channels: usize) -> Fit<[usize; 2]> {
        match self.image()? {
            [found, height, width] if found == channels => Ok([height, width]),
            _ => Err(format!("an image of {channels} channels")),
        }
    }
}

/// A shape, or what is expected instead.
pub type Fit<T = Shape> = std::result::Result<T, String>;

/// What a layer expects, with what the kernels say of what it got.
pub(super) fn unfit(expected: &str, cause: candle_core::Error) -> String {
    format!("{expected} ({})", Error::from(cause))
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(channels, height, width) => write!(f, "{channels}x{height}x{width}"),
            Self::Flat(len) => write!(f, "{len}"),
        }
    }
}

/// What a layer keeps from pass to pass.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    /// Weight and bias, which are trained.
    pub parameters: Option<(Var, Var)>,
    /// Running mean and variance.
    pub statistics: Option<(Var, Var)>,
}

/// Makes a layer's variables.
pub(crate) struct Initial<'a> {
    /// The layer's.
    pub(crate) name: &'a str,
    pub(crate) seed: u64,
    pub(crate) device: &'a Device,
}

impl Initial<'_> {
    /// A vector of equal values.
    pub(super) fn filled(&self, len: usize, value: f32) -> Result<Var> {
        Ok(Var::from_tensor(&Tensor::full(value, len, self.device)?)?)
    }

    /// Weight (outputs, …) and bias (outputs) as Chainer draws them: normal with variance 1 / fan-in, biases zero.
    /// Each layer has a stream of its own, so that changing one layer leaves the others' initial weights as they
    /// were.
    pub(super) fn draw(&self, dims: &[usize]) -> Result<(Var, Var)> {
        let fan_in: usize = dims[1..].iter().product();
        let normal = Normal::new(0.0, (1.0 / fan_in as f64).sqrt()).expect("a finite deviation");
        let stream = u64::from(crc32fast::hash(self.name.as_bytes()));
        let mut rng = Rng::seed_from_u64(self.seed ^ (stream << 32));
        let count = dims.iter().product();
        let weight: Vec<f32> = (0..count).map(|_| normal.sample(&mut rng) as f32).collect();
        let weight = Tensor::from_vec(weight, dims, self.device)?;
        let bias = Tensor::zeros(dims[0], DType::F32, self.device)?;
        Ok((Var::from_tensor(&weight)?, Var::from_tensor(&bias)?))
    }
}

/// A layer at its place in a network.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Node {
    /// Kind and number within its part of the network, as in `branch1.conv2`.
    pub name: String,
    /// No branch.
    pub layer: Layer,
    /// What it makes of a sample.
    pub output: Shape,
    pub variables: Variables,
    /// The layers inside it.
    pub inner: Vec<Node>,
    /// Those that its input takes beside them.
    pub beside: Vec<Node>,
}

impl Node {
    fn operator(&self) -> &dyn Operator {
        self.layer.operator().expect("a branch is no node")
    }

    /// Multiply-accumulates of one sample.
    pub(crate) fn macs(&self) -> usize {
        self.operator().macs(self.output) + self.within().map(Self::macs).sum::<usize>()
    }

    /// The number of trained values.
    pub(crate) fn parameter_count(&self) -> usize {
        let parameters = self.variables.parameters.as_ref();
        let own = parameters.map_or(0, |(weight, bias)| weight.elem_count() + bias.elem_count());
        own + self.within().map(Self::parameter_count).sum::<usize>()
    }

    /// The layers inside and beside it.
    pub(crate) fn within(&self) -> impl Iterator<Item = &Node> {
        self.inner.iter().chain(&self.beside)
    }

    pub(super) fn parameters(&self) -> &(Var, Var) {
        self.variables.parameters.as_ref().expect("built with parameters")
    }

    pub(super) fn statistics(&self) -> &(Var, Var) {
        self.variables.statistics.as_ref().expect("built with statistics")
    }

    /// Weight and bias; outside training under autograd without what makes candle keep every activation for a
    /// backward pass.
    pub(super) fn parameters_for(&self, pass: &Pass<'_>) -> (Tensor, Tensor) {
        let (weight, bias) = self.parameters();
        match pass {
            Pass::Train(_) => (weight.as_tensor().clone(), bias.as_tensor().clone()),
            Pass::Evaluate => detached(self.parameters()),
        }
    }
}

/// The values of two variables, without the graph that candle would build.
pub(super) fn detached((a, b): &(Var, Var)) -> (Tensor, Tensor) {
    (a.as_tensor().detach(), b.as_tensor().detach())
}

/// The values of two variables, flat, on the host.
pub(super) fn values((a, b): &(Var, Var)) -> Result<[Vec<f32>; 2]> {
    Ok([a.flatten_all()?.to_vec1()?, b.to_vec1()?])
}

/// Whether a pass through the network trains it.
pub enum Pass<'a> {
    /// Inference: dropout does nothing, and nothing is kept for a backward pass.
    Evaluate,
    /// Training: dropout draws from this generator.
    Train(&'a mut Rng),
}

/// Gradients by the name of their parameter.
pub type Gradients = BTreeMap<String, Tensor>;

/// What goes from layer to layer in training.
#[derive(Debug, Clone)]
pub(crate) enum Activation {
    /// A tensor with the batch in front; images are (batch, channels, height, width).
    Plain(Tensor),
    /// Images whose channels lie side by side, or sixteen images that do.
    Pixels(Pixels),
}

impl Activation {
    /// The tensor, contiguous.
    pub(crate) fn plain(&self) -> Result<Tensor> {
        Ok(match self {
            Self::Plain(values) => values.contiguous()?,
            Self::Pixels(pixels) => pixels.planes()?,
        })
    }

    pub(super) fn pixels(self, beside: Beside) -> Result<Pixels> {
        Ok(match self {
            Self::Plain(values) => Pixels::of_planes(&values, beside)?,
            Self::Pixels(pixels) => pixels.arranged(beside)?,
        })
    }

    /// (channels, height, width) of an image.
    pub(super) fn image(&self) -> Result<[usize; 3]> {
        Ok(match self {
            Self::Plain(values) => {
                values.dims4().map(|(_, channels, height, width)| [channels, height, width])?
            }
            Self::Pixels(pixels) => pixels.shape()?,
        })
    }

    /// Images in the batch.
    fn batch(&self) -> Result<usize> {
        Ok(match self {
            Self::Plain(values) => values.dim(0)?,
            Self::Pixels(pixels) => pixels.batch()?,
        })
    }

    /// Whether it may become pixels.
    fn may_be_pixels(&self) -> bool {
        match self {
            Self::Plain(values) => values.device().is_cpu() && values.dtype() == DType::F32,
            Self::Pixels(_) => true,
        }
    }
}

/// The gradient of an [`Activation`].
#[derive(Debug, Clone)]
pub(crate) enum Gradient {
    Plain(Tensor),
    Pixels(PixelGrad),
}

impl Gradient {
    pub(super) fn plain(self) -> Result<Tensor> {
        Ok(match self {
            Self::Plain(values) => values,
            Self::Pixels(grad) => grad.planes()?,
        })
    }

    /// The same as pixels that lie as these.
    pub(super) fn pixels(self, like: &Pixels) -> Result<PixelGrad> {
        Ok(match self {
            Self::Plain(values) => PixelGrad::of_planes(&values, like.beside())?,
            Self::Pixels(grad) => grad.arranged(like.beside())?,
        })
    }

    /// The sum of two gradients of the same activation.
    pub(crate) fn add(self, other: Self) -> Result<Self> {
        Ok(match (self, other) {
            (Self::Plain(one), Self::Plain(other)) => Self::Plain(kernels::add(&one, &other)?),
            (Self::Pixels(one), Self::Pixels(other)) => Self::Pixels(one.plus(other)?),
            (Self::Pixels(one), Self::Plain(other)) | (Self::Plain(other), Self::Pixels(one)) => {
                let other = PixelGrad::of_planes(&other, one.beside())?;
                Self::Pixels(one.plus(other)?)
            }
        })
    }

    /// The same times a number.
    pub(crate) fn scale(self, factor: f64) -> Result<Self> {
        Ok(match self {
            Self::Plain(values) => Self::Plain((values * factor)?),
            Self::Pixels(grad) => Self::Pixels(grad.scale(factor)?),
        })
    }
}

/// Takes the gradient of a layer's output, adds those of its parameters to the map, and gives that of
/// its input, unless told that nobody asks for it.
pub(crate) type Step = Box<dyn FnOnce(Gradient, bool, &mut Gradients) -> Result<Option<Gradient>>>;

/// The step of a layer that works on plain tensors.
pub(super) fn plain_step(
    backward: impl FnOnce(&Tensor, bool, &mut Gradients) -> Result<Option<Tensor>> + 'static,
) -> Step {
    Box::new(|grad, of_input, gradients| {
        Ok(backward(&grad.plain()?, of_input, gradients)?.map(Gradient::Plain))
    })
}

/// The step of a layer without parameters that reads these pixels.
pub(super) fn pixel_step(
    x: Pixels,
    backward: impl FnOnce(&Pixels, PixelGrad) -> candle_core::Result<PixelGrad> + 'static,
) -> Step {
    Box::new(move |grad, _, _| Ok(Some(Gradient::Pixels(backward(&x, grad.pixels(&x)?)?))))
}

/// The same for one that works on plain tensors.
pub(super) fn step(backward: impl FnOnce(&Tensor) -> candle_core::Result<Tensor> + 'static) -> Step {
    plain_step(|grad, _, _| Ok(Some(backward(grad)?)))
}

/// What a layer called `name` adds to the map; a weight that is not trained has no gradient.
pub(super) fn keep(gradients: &mut Gradients, name: &str, weight: Option<Tensor>, bias: Tensor) {
    if let Some(weight) = weight {
        gradients.insert(format!("{name}.weight"), weight);
    }
    gradients.insert(format!("{name}.bias"), bias);
}

/// The output of layers one after another.
pub(crate) fn run(nodes: &[Node], x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
    nodes.iter().try_fold(x.clone(), |x, node| node.operator().forward(node, &x, pass))
}

/// Their output in training, and their steps back.
pub(crate) fn train(nodes: &[Node], x: Activation, rng: &mut Rng) -> Result<(Activation, Vec<Step>)> {
    let (mut x, mut steps) = (x, Vec::new());
    for (i, node) in nodes.iter().enumerate() {
        let step;
        (x, step) = match &node.layer {
            Layer::Conv(conv) if x.may_be_pixels() => match conv.suits_pixels(&nodes[i + 1..], x.batch()?) {
                Some((beside, normalised)) => conv.train_pixels(node, x.pixels(beside)?, normalised)?,
                None => conv.train(node, x, rng)?,
            },
            _ => node.operator().train(node, x, rng)?,
        };
        steps.push(step);
    }
    Ok((x, steps))
}

/// Takes the steps back, given the gradient of the last layer's output: that of the first one's input, where
/// somebody asks for it.
pub(crate) fn backward(
    steps: Vec<Step>,
    grad: Gradient,
    of_input: bool,
    gradients: &mut Gradients,
) -> Result<Option<Gradient>> {
    let mut grad = Some(grad);
    for (i, step) in steps.into_iter().enumerate().rev() {
        if let Some(of_output) = grad {
            grad = step(of_output, of_input || i > 0, gradients)?;
        }
    }
    Ok(grad)
}

/// Appends layers to a plan, the first of which reads `from`; returns what the last one writes.
pub(crate) fn place(nodes: &[Node], from: View, builder: &mut StepBuilder) -> Result<View> {
    nodes.iter().try_fold(from, |from, node| node.operator().place(node, from, builder))
}
