//! Networks with early exits, written as a flat list of layers with a [`branch`] where they fork.
//!
//! The list is the trunk, from the input to the last exit. A branch leaves the trunk where it
//! stands in the list and ends in a classifier of its own. From the list follow the trunk's
//! segments, the exits, the names of the parameters (which are the keys of a checkpoint), and what
//! each exit costs.

use crate::error::bail;
use crate::ops::{self, Lrn};
use crate::{Result, Rng};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use std::collections::BTreeMap;
use std::fmt;

/// One entry of a network's list.
#[derive(Debug, Clone, PartialEq)]
pub enum Layer {
    /// Convolution with bias and a square kernel, on `padding` zeros around the image.
    Conv {
        inputs: usize,
        outputs: usize,
        kernel: usize,
        padding: usize,
        stride: usize,
    },
    /// Fully connected layer; an image is flattened first.
    Linear { inputs: usize, outputs: usize },
    /// Max pooling whose windows may hang over the edge.
    MaxPool { kernel: usize, stride: usize },
    /// Average pooling; windows stay inside the image.
    AveragePool { kernel: usize, stride: usize },
    /// Local response normalisation.
    Lrn(Lrn),
    /// Batch normalisation of every channel.
    BatchNorm { channels: usize },
    /// Rectifier.
    Relu,
    /// Dropout with this probability while training, nothing otherwise.
    Dropout(f32),
    /// A residual block: the rectified sum of what these layers give and the block's input
    /// ([`ops::add_shortcut`]).
    Residual(Vec<Layer>),
    /// A side branch that ends in an exit.
    Branch(Vec<Layer>),
}

/// A convolution with stride 1: input channels, output channels, kernel size, padding.
pub fn conv(inputs: usize, outputs: usize, kernel: usize, padding: usize) -> Layer {
    Layer::Conv {
        inputs,
        outputs,
        kernel,
        padding,
        stride: 1,
    }
}

/// A fully connected layer: input size (channels × height × width of an image), output size.
pub fn linear(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear { inputs, outputs }
}

/// Max pooling: window size, stride.
pub fn max_pool(kernel: usize, stride: usize) -> Layer {
    Layer::MaxPool { kernel, stride }
}

/// Average pooling: window size, stride.
pub fn average_pool(kernel: usize, stride: usize) -> Layer {
    Layer::AveragePool { kernel, stride }
}

/// Batch normalisation: channels. While training it uses the moments of the batch and keeps running
/// means of them (decay 0.9 a step, as Chainer does), by which it normalises otherwise.
pub fn batch_norm(channels: usize) -> Layer {
    Layer::BatchNorm { channels }
}

/// Local response normalisation with the constants of the authors' AlexNet.
pub fn lrn() -> Layer {
    Layer::Lrn(Lrn::default())
}

/// Rectifier.
pub fn relu() -> Layer {
    Layer::Relu
}

/// Dropout with probability `p` of losing an element.
pub fn dropout(p: f32) -> Layer {
    Layer::Dropout(p)
}

/// A residual block: `max(layers(x) + x, 0)`, where the layers give a smaller image or more
/// channels with every second pixel of x and zeros for the channels it lacks.
pub fn residual(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Residual(layers.into())
}

/// A side branch that leaves the trunk here; its last layer gives one logit a class.
pub fn branch(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Branch(layers.into())
}

/// The list without its branches: the baseline that a network with early exits is compared with,
/// and from whose trained weights it starts.
pub fn without_branches(layers: &[Layer]) -> Vec<Layer> {
    layers
        .iter()
        .filter(|layer| !matches!(layer, Layer::Branch(_)))
        .cloned()
        .collect()
}

impl Layer {
    /// This convolution with another stride. Other layers stay as they are.
    pub fn stride(mut self, step: usize) -> Self {
        if let Self::Conv { stride, .. } = &mut self {
            *stride = step;
        }
        self
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv {
                inputs,
                outputs,
                kernel,
                padding,
                stride,
            } => {
                write!(f, "conv({inputs}, {outputs}, {kernel}, {padding})")?;
                if *stride == 1 {
                    Ok(())
                } else {
                    write!(f, " stride {stride}")
                }
            }
            Self::Linear { inputs, outputs } => write!(f, "linear({inputs}, {outputs})"),
            Self::MaxPool { kernel, stride } => write!(f, "max_pool({kernel}, {stride})"),
            Self::AveragePool { kernel, stride } => write!(f, "average_pool({kernel}, {stride})"),
            Self::Lrn(_) => write!(f, "lrn()"),
            Self::BatchNorm { channels } => write!(f, "batch_norm({channels})"),
            Self::Relu => write!(f, "relu()"),
            Self::Dropout(p) => write!(f, "dropout({p})"),
            Self::Residual(_) => write!(f, "residual block"),
            Self::Branch(_) => write!(f, "branch"),
        }
    }
}

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
    pub(crate) input: Shape,
    pub(crate) output: Shape,
    /// Weight and bias.
    pub(crate) parameters: Option<(Var, Var)>,
    /// Running mean and variance of a batch normalisation.
    pub(crate) statistics: Option<(Var, Var)>,
    /// The layers of a residual block.
    pub(crate) inner: Vec<Node>,
}

/// Whether a pass through the network trains it.
pub enum Pass<'a> {
    /// Inference: dropout does nothing, and nothing is kept for a backward pass.
    Evaluate,
    /// Training: dropout draws from this generator.
    Train(&'a mut Rng),
}

/// What it takes to leave a network at one exit, for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCost {
    /// Multiply-accumulates of convolutions and linear layers in the trunk up to where this exit
    /// branches off.
    pub trunk_macs: usize,
    /// Those of this exit's own branch (0 for the last exit, which is the trunk's own end).
    pub branch_macs: usize,
    /// All that have run when a sample leaves here: the trunk and every branch passed on the way.
    pub macs: usize,
}

/// A network with its parameters, on one device.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    layers: Vec<Layer>,
    input: Shape,
    classes: usize,
    pub(crate) segments: Vec<Vec<Node>>,
    /// One a segment but the last: what stands between segment i and exit i + 1.
    pub(crate) branches: Vec<Vec<Node>>,
    device: Device,
}

/// Lays out one part of the network (the trunk, or a branch) and draws its initial weights.
struct Builder<'a> {
    prefix: String,
    counts: BTreeMap<&'static str, usize>,
    seed: u64,
    device: &'a Device,
}

impl<'a> Builder<'a> {
    fn node(&mut self, layer: &Layer, input: Shape) -> Result<Node> {
        let kind = match layer {
            Layer::Conv { .. } => "conv",
            Layer::Linear { .. } => "linear",
            Layer::MaxPool { .. } => "max_pool",
            Layer::AveragePool { .. } => "average_pool",
            Layer::Lrn(_) => "lrn",
            Layer::BatchNorm { .. } => "batch_norm",
            Layer::Residual(_) => "residual",
            Layer::Relu => "relu",
            Layer::Dropout(_) => "dropout",
            Layer::Branch(_) => bail!(
                "{}branch: a branch inside a branch or a residual block is not supported; move it to the trunk",
                self.prefix
            ),
        };
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{}{kind}{count}", self.prefix);
        let wrong = |expected: String| {
            crate::Error::new(format!(
                "layer {name}, {layer}: it expects {expected}, but the layer before it gives {input} ({} values)",
                input.len()
            ))
        };
        let mut inner = Vec::new();
        let output = match (layer, input) {
            (
                Layer::Conv {
                    inputs,
                    outputs,
                    kernel,
                    padding,
                    stride,
                },
                Shape::Image(channels, height, width),
            ) => {
                if *inputs != channels {
                    return Err(wrong(format!("an image of {inputs} channels")));
                }
                let g = ops::ConvGeometry::of(
                    *inputs, height, width, *outputs, *kernel, *padding, *stride,
                )
                .map_err(|error| {
                    wrong(format!(
                        "an image that its kernel fits ({})",
                        crate::Error::from(error)
                    ))
                })?;
                Shape::Image(*outputs, g.out_height, g.out_width)
            }
            (Layer::MaxPool { kernel, stride }, Shape::Image(channels, height, width)) => {
                let pool = ops::Pool::new(height, width, *kernel, *stride).map_err(|error| {
                    wrong(format!(
                        "an image that its window fits ({})",
                        crate::Error::from(error)
                    ))
                })?;
                Shape::Image(channels, pool.out_height, pool.out_width)
            }
            (Layer::AveragePool { kernel, stride }, Shape::Image(channels, height, width)) => {
                let pool =
                    ops::AveragePool::new(height, width, *kernel, *stride).map_err(|error| {
                        wrong(format!(
                            "an image that its window fits ({})",
                            crate::Error::from(error)
                        ))
                    })?;
                Shape::Image(channels, pool.out_height, pool.out_width)
            }
            (Layer::BatchNorm { channels }, Shape::Image(given, ..)) => {
                if *channels != given {
                    return Err(wrong(format!("an image of {channels} channels")));
                }
                input
            }
            (Layer::Residual(layers), Shape::Image(channels, height, width)) => {
                if layers.iter().any(|l| matches!(l, Layer::Residual(_))) {
                    return Err(wrong("no residual block inside it".to_string()));
                }
                inner = self.inside(&name).nodes(layers, input)?;
                let end = inner.last().map_or(input, |node| node.output);
                let Shape::Image(out_channels, out_height, out_width) = end else {
                    return Err(wrong(format!("its layers to give an image, not {end}")));
                };
                let to = [out_channels, out_height, out_width];
                ops::Shortcut::new([channels, height, width], to).map_err(|error| {
                    wrong(format!(
                        "its layers to give an image that its input fits ({})",
                        crate::Error::from(error)
                    ))
                })?;
                end
            }
            (Layer::Lrn(_), Shape::Image(..)) | (Layer::Relu | Layer::Dropout(_), _) => input,
            (Layer::Linear { inputs, outputs }, _) => {
                if *inputs != input.len() {
                    return Err(wrong(format!("{inputs} values")));
                }
                Shape::Flat(*outputs)
            }
            _ => return Err(wrong("an image".to_string())),
        };
        if output.is_empty() {
            return Err(wrong("to give at least one value".to_string()));
        }
        let parameters = match *layer {
            Layer::Conv {
                inputs,
                outputs,
                kernel,
                ..
            } => Some(self.draw(&name, &[outputs, inputs, kernel, kernel])?),
            Layer::Linear { inputs, outputs } => Some(self.draw(&name, &[outputs, inputs])?),
            Layer::BatchNorm { channels } => {
                Some((self.fill(channels, 1.0)?, self.fill(channels, 0.0)?))
            }
            _ => None,
        };
        let statistics = match *layer {
            Layer::BatchNorm { channels } => {
                Some((self.fill(channels, 0.0)?, self.fill(channels, 1.0)?))
            }
            _ => None,
        };
        Ok(Node {
            name,
            layer: layer.clone(),
            input,
            output,
            parameters,
            statistics,
            inner,
        })
    }

    /// The nodes of a list of layers, the first of which gets `input`.
    fn nodes(mut self, layers: &[Layer], mut input: Shape) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for layer in layers {
            let node = self.node(layer, input)?;
            input = node.output;
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// A builder for the part of the network called `name`.
    fn inside(&self, name: &str) -> Self {
        Self {
            prefix: format!("{name}."),
            counts: BTreeMap::new(),
            ..*self
        }
    }

    fn fill(&self, len: usize, value: f32) -> Result<Var> {
        Ok(Var::from_tensor(&Tensor::full(value, len, self.device)?)?)
    }

    /// Initial weights as Chainer draws them: normal with variance 1 / fan-in, biases zero. Each
    /// layer has a stream of its own, so that changing one layer leaves the others' initial
    /// weights as they were.
    fn draw(&self, name: &str, dims: &[usize]) -> Result<(Var, Var)> {
        let fan_in: usize = dims[1..].iter().product();
        let normal = Normal::new(0.0, (1.0 / fan_in as f64).sqrt()).expect("a finite deviation");
        let stream = u64::from(crc32fast::hash(name.as_bytes()));
        let mut rng = Rng::seed_from_u64(self.seed ^ (stream << 32));
        let count = dims.iter().product();
        let weight: Vec<f32> = (0..count).map(|_| normal.sample(&mut rng) as f32).collect();
        let weight = Tensor::from_vec(weight, dims, self.device)?;
        let bias = Tensor::zeros(dims[0], DType::F32, self.device)?;
        Ok((Var::from_tensor(&weight)?, Var::from_tensor(&bias)?))
    }
}

impl Network {
    /// Builds `layers` for images of `input` (channels, height, width), with initial weights from
    /// `seed`, in f32.
    ///
    /// Fails, naming the layer and both shapes, where a layer does not fit the one before it, where
    /// exits disagree about the number of classes, and for a list that does not end in a vector
    /// of logits.
    pub fn new(
        name: &str,
        input: [usize; 3],
        layers: impl Into<Vec<Layer>>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let layers = layers.into();
        let [channels, height, width] = input;
        let input = Shape::Image(channels, height, width);
        let mut trunk = Builder {
            prefix: String::new(),
            counts: BTreeMap::new(),
            seed,
            device,
        };
        let (mut segments, mut branches) = (vec![Vec::new()], Vec::<Vec<Node>>::new());
        let mut shape = input;
        for layer in &layers {
            if let Layer::Branch(layers) = layer {
                let name = format!("branch{}", branches.len() + 1);
                branches.push(trunk.inside(&name).nodes(layers, shape)?);
                segments.push(Vec::new());
            } else {
                let node = trunk.node(layer, shape)?;
                shape = node.output;
                segments.last_mut().expect("never empty").push(node);
            }
        }
        let ends: Vec<Option<Shape>> = branches
            .iter()
            .map(|nodes| nodes.last().map(|node| node.output))
            .chain([Some(shape)])
            .collect();
        let Some(Shape::Flat(classes)) = ends[ends.len() - 1] else {
            bail!(
                "{name}: the list must end in a layer that gives one logit a class, such as linear(inputs, 10), but it ends in {shape}"
            )
        };
        for (i, end) in ends.iter().enumerate() {
            if *end != Some(Shape::Flat(classes)) {
                let end = end.map_or("nothing".to_string(), |end| end.to_string());
                bail!(
                    "{name}: branch{} ends in {end}, but the last exit gives {classes} logits",
                    i + 1
                )
            }
        }
        Ok(Self {
            name: name.to_string(),
            layers,
            input,
            classes,
            segments,
            branches,
            device: device.clone(),
        })
    }

    /// The name it was built with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The list it was built from.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The shape of one input image.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Classes that every exit tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The number of exits, the last one included.
    pub fn exits(&self) -> usize {
        self.segments.len()
    }

    /// Where its parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All layers, those inside residual blocks behind their block.
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let lists = self.segments.iter().chain(&self.branches);
        lists
            .flatten()
            .flat_map(|node| std::iter::once(node).chain(&node.inner))
    }

    /// All trained parameters by name (`conv1.weight`, `branch1.linear1.bias`, …), sorted.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        let mut all = BTreeMap::new();
        for node in self.nodes() {
            if let Some((weight, bias)) = &node.parameters {
                all.insert(format!("{}.weight", node.name), weight.clone());
                all.insert(format!("{}.bias", node.name), bias.clone());
            }
        }
        all
    }

    /// [`Self::parameters`] and the running means and variances of batch normalisations
    /// (`batch_norm1.mean`, …): all that inference depends on.
    pub fn state(&self) -> BTreeMap<String, Var> {
        let mut all = self.parameters();
        for node in self.nodes() {
            if let Some((mean, variance)) = &node.statistics {
                all.insert(format!("{}.mean", node.name), mean.clone());
                all.insert(format!("{}.variance", node.name), variance.clone());
            }
        }
        all
    }

    /// Copies the state of `other` that this network has under the same name, as from a
    /// trained baseline to the same trunk with branches. Fails, before anything is copied,
    /// where shapes differ or no name agrees.
    pub fn start_from(&self, other: &Network) -> Result<()> {
        let theirs = other.state();
        let pairs: Vec<_> = self
            .state()
            .into_iter()
            .filter_map(|(name, var)| theirs.get(&name).map(|from| (name, var, from)))
            .collect();
        if pairs.is_empty() {
            bail!(
                "{} has no parameter in common with {}",
                self.name,
                other.name
            )
        }
        for (name, to, from) in &pairs {
            if to.shape() != from.shape() {
                bail!(
                    "{name} is {:?} in {} and {:?} in {}",
                    to.shape(),
                    self.name,
                    from.shape(),
                    other.name
                )
            }
        }
        for (_, to, from) in &pairs {
            to.set(&from.as_tensor().copy()?)?;
        }
        Ok(())
    }

    /// Runs trunk segment `i`, from 0: (batch, …) in, (batch, …) out.
    pub fn segment(&self, i: usize, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        run(&self.segments[i], x, pass)
    }

    /// The logits (batch, classes) of exit `i`, from 0, given the output of segment `i`.
    pub fn exit(&self, i: usize, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        match self.branches.get(i) {
            Some(branch) => run(branch, x, pass),
            None => Ok(x.clone()),
        }
    }

    /// The logits (batch, classes) of every exit for images (batch, channels, height, width).
    pub fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Vec<Tensor>> {
        let mut x = images.clone();
        let mut logits = Vec::with_capacity(self.exits());
        for i in 0..self.exits() {
            x = self.segment(i, &x, pass)?;
            logits.push(self.exit(i, &x, pass)?);
        }
        Ok(logits)
    }

    /// What it takes to leave at each exit.
    pub fn costs(&self) -> Vec<ExitCost> {
        let sum = |nodes: &[Node]| nodes.iter().map(Node::macs).sum::<usize>();
        let (mut trunk_macs, mut passed) = (0, 0);
        (0..self.exits())
            .map(|i| {
                trunk_macs += sum(&self.segments[i]);
                let branch_macs = self.branches.get(i).map_or(0, |branch| sum(branch));
                passed += branch_macs;
                ExitCost {
                    trunk_macs,
                    branch_macs,
                    macs: trunk_macs + passed,
                }
            })
            .collect()
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        let lists = self.segments.iter().chain(&self.branches);
        lists.flatten().map(Node::parameter_count).sum()
    }

    /// A table of all layers with output shapes, parameters and multiply-accumulates, branches
    /// indented.
    pub fn summary(&self) -> String {
        use fmt::Write;
        let mut text = format!(
            "{:<34}{:>10}{:>12}{:>14}\n",
            format!("{} on {}", self.name, self.input),
            "output",
            "parameters",
            "MACs"
        );
        let costs = self.costs();
        for (i, segment) in self.segments.iter().enumerate() {
            let branch = self.branches.get(i).map_or(&[][..], Vec::as_slice);
            let lines: Vec<_> = segment
                .iter()
                .map(|node| ("", node))
                .chain(branch.iter().map(|node| ("  ", node)))
                .collect();
            let number = |n: usize| if n == 0 { String::new() } else { grouped(n) };
            // Residual blocks that are all alike take one line.
            let alike = |a: &(&str, &Node), b: &(&str, &Node)| {
                a.0 == b.0
                    && !a.1.inner.is_empty()
                    && a.1.layer == b.1.layer
                    && a.1.output == b.1.output
            };
            for group in lines.chunk_by(alike) {
                let (indent, node) = group[0];
                let times = match group.len() {
                    1 => String::new(),
                    n => format!(" ×{n}"),
                };
                let label = format!(
                    "{indent}{:<11} {}{times}",
                    node.name.rsplit('.').next().unwrap_or_default(),
                    node.layer
                );
                let parameters = number(node.parameter_count() * group.len());
                let macs = number(node.macs() * group.len());
                let _ = writeln!(
                    text,
                    "{label:<34}{:>10}{parameters:>12}{macs:>14}",
                    node.output.to_string()
                );
            }
            let total = format!(
                "exit {}: {} MACs to leave here",
                i + 1,
                grouped(costs[i].macs)
            );
            let _ = writeln!(text, "{}{total}", if branch.is_empty() { "" } else { "  " });
        }
        let _ = write!(text, "{} parameters", grouped(self.parameter_count()));
        text
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Node {
    /// Multiply-accumulates of one sample: those of convolutions and linear layers, as is usual.
    fn macs(&self) -> usize {
        match (&self.layer, self.output) {
            (Layer::Conv { inputs, kernel, .. }, output) => inputs * kernel * kernel * output.len(),
            (Layer::Linear { inputs, outputs }, _) => inputs * outputs,
            _ => self.inner.iter().map(Self::macs).sum(),
        }
    }

    fn parameter_count(&self) -> usize {
        let inner: usize = self.inner.iter().map(Self::parameter_count).sum();
        self.parameters.as_ref().map_or(inner, |(weight, bias)| {
            weight.elem_count() + bias.elem_count()
        })
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let parameters = || self.parameters_for(pass);
        Ok(match self.layer {
            Layer::Conv {
                padding, stride, ..
            } => {
                let (weight, bias) = parameters();
                ops::conv2d(x, &weight, &bias, padding, stride)?
            }
            Layer::Linear { .. } => {
                let (weight, bias) = parameters();
                ops::linear(&x.flatten_from(1)?, &weight, &bias)?
            }
            Layer::MaxPool { kernel, stride } => ops::max_pool2d(x, kernel, stride)?,
            Layer::AveragePool { kernel, stride } => ops::avg_pool2d(x, kernel, stride)?,
            Layer::Lrn(constants) => ops::lrn(x, constants)?,
            Layer::BatchNorm { .. } => self.normalise(x, pass)?,
            Layer::Residual(_) => ops::add_shortcut(&run(&self.inner, x, pass)?, x)?,
            Layer::Relu => ops::relu(x)?,
            Layer::Dropout(p) => match pass {
                Pass::Train(rng) => ops::dropout(x, p, rng)?,
                Pass::Evaluate => x.clone(),
            },
            Layer::Branch(_) => unreachable!("branches are not nodes"),
        })
    }
}

/// Share of the running statistics that a training step keeps.
const DECAY: f64 = 0.9;

impl Node {
    /// Weight and bias; outside training without what makes candle keep every activation for a
    /// backward pass.
    fn parameters_for(&self, pass: &Pass<'_>) -> (Tensor, Tensor) {
        let (weight, bias) = self.parameters.as_ref().expect("built with parameters");
        match pass {
            Pass::Train(_) => (weight.as_tensor().clone(), bias.as_tensor().clone()),
            Pass::Evaluate => (weight.as_tensor().detach(), bias.as_tensor().detach()),
        }
    }

    fn normalise(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = self.parameters_for(pass);
        let (mean, variance) = self.statistics.as_ref().expect("built with statistics");
        let Pass::Train(_) = pass else {
            let (mean, variance) = (mean.as_tensor().detach(), variance.as_tensor().detach());
            return Ok(ops::batch_norm_by(x, &weight, &bias, &mean, &variance)?);
        };
        let (out, moments) = ops::batch_norm(x, &weight, &bias)?;
        self.follow(&moments)?;
        Ok(out)
    }

    /// Moves the running statistics of a batch normalisation towards the moments of a batch.
    pub(crate) fn follow(&self, moments: &ops::Moments) -> Result<()> {
        let (mean, variance) = self.statistics.as_ref().expect("built with statistics");
        // The variance of which the batch is a sample, as in Chainer and PyTorch.
        let unbiased = moments.count as f64 / (moments.count.max(2) - 1) as f64;
        ops::follow(mean, &moments.mean, 1.0, DECAY)?;
        ops::follow(variance, &moments.variance, unbiased, DECAY)?;
        Ok(())
    }
}

fn run(nodes: &[Node], x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
    let mut x = x.clone();
    for node in nodes {
        x = node.forward(&x, pass)?;
    }
    Ok(x)
}
