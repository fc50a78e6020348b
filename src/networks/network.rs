//! A network with its parameters: what it is made of, and how batches pass through it.

use super::layer::{Layer, Start};
use super::node::{Node, Shape};
use crate::data::{Split, Train};
use crate::error::{bail, error};
use crate::kernels::{self, Precision};
use crate::{Result, Rng};
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

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

/// What a part of a network works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkingSet {
    /// `trunk, segment 1`, `branch 1`.
    pub name: String,
    /// Bytes of its parameters.
    pub weights: usize,
    /// Bytes of the largest input and output of a layer together.
    pub activations: usize,
}

/// A network with its parameters, on one device.
#[derive(Debug, Clone)]
pub struct Network {
    pub(super) name: String,
    pub(super) layers: Vec<Layer>,
    pub(super) input: Shape,
    pub(super) classes: usize,
    pub(crate) segments: Vec<Vec<Node>>,
    /// One per segment but the last: what stands between segment i and exit i + 1.
    pub(crate) branches: Vec<Vec<Node>>,
    pub(super) device: Device,
    pub(crate) precision: Precision,
}

impl Network {
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

    /// This network, computing products in this precision on a GPU; parameters are shared. Fails on the
    /// CPU, which knows f32 only.
    pub fn with_precision(&self, precision: Precision) -> Result<Self> {
        precision.check(&self.device).map_err(|cause| error!(Device, "{}", crate::Error::from(cause)))?;
        Ok(Self { precision, ..self.clone() })
    }

    /// All layers, those inside residual blocks behind their block.
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let lists = self.segments.iter().chain(&self.branches);
        lists.flatten().flat_map(|node| std::iter::once(node).chain(&node.inner))
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
    /// trained baseline to the same trunk with branches:
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let (layers, image) = (b_lenet(), [1, 28, 28]);
    /// let baseline = Network::new("LeNet", image, without_branches(&layers), 0, &Device::Cpu)?;
    /// let network = Network::new("B-LeNet", image, layers, 1, &Device::Cpu)?;
    /// network.start_from(&baseline)?;
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails, before anything is copied,
    /// where shapes differ or no name agrees.
    pub fn start_from(&self, other: &Network) -> Result<()> {
        let theirs = other.state();
        let pairs: Vec<_> = self
            .state()
            .into_iter()
            .filter_map(|(name, var)| theirs.get(&name).map(|from| (name, var, from)))
            .collect();
        if pairs.is_empty() {
            bail!(Shape, "{} has no parameter in common with {}", self.name, other.name)
        }
        for (name, to, from) in &pairs {
            if to.shape() != from.shape() {
                bail!(
                    Shape,
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

    /// Fits the convolutions that whiten ([`super::Start::Whitening`]) to the images that training sees. Fails
    /// where such a convolution does not come first or has another number of outputs.
    pub(crate) fn fit(&self, train: &Split<Train>) -> Result<()> {
        for (i, node) in self.nodes().enumerate() {
            let Layer::Conv { inputs, outputs, kernel, start: Start::Whitening, .. } = node.layer else {
                continue;
            };
            let patch = inputs * kernel * kernel;
            if i > 0 || outputs != 2 * patch {
                bail!(
                    Setting,
                    "{}: a whitening convolution must be the first layer and have {} outputs",
                    node.name,
                    2 * patch
                )
            }
            let (weight, _) = node.parameters.as_ref().expect("built with parameters");
            let values = train.patch_whitening(kernel)?;
            weight.set(&Tensor::from_vec(values, weight.shape(), weight.device())?)?;
        }
        Ok(())
    }

    /// Runs trunk segment `i`, from 0: (batch, …) in, (batch, …) out.
    pub fn segment(&self, i: usize, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let _scope = self.precision.scope();
        run(&self.segments[i], x, pass)
    }

    /// The logits (batch, classes) of exit `i`, from 0, given the output of segment `i`.
    pub fn exit(&self, i: usize, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let _scope = self.precision.scope();
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
                ExitCost { trunk_macs, branch_macs, macs: trunk_macs + passed }
            })
            .collect()
    }

    /// The multiply-accumulates that it takes to leave at each exit: costs for
    /// [`crate::exits::ExitRecord`].
    pub fn macs(&self) -> Vec<f64> {
        self.costs().iter().map(|cost| cost.macs as f64).collect()
    }

    /// What each part of the network works on, in bytes of f32, in the order in which they run: the segments
    /// of the trunk, and between them the branches.
    pub fn working_sets(&self) -> Vec<WorkingSet> {
        let mut shape = self.input;
        let mut sets = Vec::new();
        for (i, segment) in self.segments.iter().enumerate() {
            let mut add = |name: String, nodes: &[Node], mut input: Shape| {
                let weights = nodes.iter().map(Node::parameter_count).sum::<usize>() * 4;
                let mut activations = 0;
                for node in nodes {
                    activations = activations.max((input.len() + node.output.len()) * 4);
                    input = node.output;
                }
                sets.push(WorkingSet { name, weights, activations });
                input
            };
            shape = add(format!("trunk, segment {}", i + 1), segment, shape);
            if let Some(branch) = self.branches.get(i) {
                add(format!("branch {}", i + 1), branch, shape);
            }
        }
        sets
    }

    /// The number of trained values.
    pub fn parameter_count(&self) -> usize {
        let lists = self.segments.iter().chain(&self.branches);
        lists.flatten().map(Node::parameter_count).sum()
    }
}

impl Node {
    fn forward(&self, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let parameters = || self.parameters_for(pass);
        Ok(match self.layer {
            Layer::Conv { padding, stride, .. } => {
                let (weight, bias) = parameters();
                kernels::conv2d(x, &weight, &bias, padding, stride)?
            }
            Layer::Linear { .. } => {
                let (weight, bias) = parameters();
                kernels::linear(&x.flatten_from(1)?, &weight, &bias)?
            }
            Layer::Pool { kind, kernel, stride } => kernels::pool2d(x, kind, kernel, stride)?,
            Layer::Lrn(constants) => kernels::lrn(x, constants)?,
            Layer::BatchNorm { .. } => self.normalise(x, pass)?,
            Layer::Residual(_) => kernels::add_shortcut(&run(&self.inner, x, pass)?, x)?,
            Layer::Relu => kernels::relu(x)?,
            Layer::Gelu => kernels::gelu(x)?,
            Layer::Scale(factor) => (x * f64::from(factor))?,
            Layer::Dropout(p) => match pass {
                Pass::Train(rng) => kernels::dropout(x, p, rng)?,
                Pass::Evaluate => x.clone(),
            },
            Layer::Branch(_) => unreachable!("branches are not nodes"),
        })
    }
}

/// The decay of running statistics per training step.
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
            return Ok(kernels::batch_norm_by(x, &weight, &bias, &mean, &variance)?);
        };
        let (out, moments) = kernels::batch_norm(x, &weight, &bias)?;
        self.update_statistics(&moments)?;
        Ok(out)
    }

    /// Updates the running statistics of a batch normalisation with the moments of a batch.
    pub(crate) fn update_statistics(&self, moments: &kernels::Moments) -> Result<()> {
        let (mean, variance) = self.statistics.as_ref().expect("built with statistics");
        // The variance of which the batch is a sample, as in Chainer and PyTorch.
        let unbiased = moments.count as f64 / (moments.count.max(2) - 1) as f64;
        kernels::update_running(mean, &moments.mean, 1.0, DECAY)?;
        kernels::update_running(variance, &moments.variance, unbiased, DECAY)?;
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
