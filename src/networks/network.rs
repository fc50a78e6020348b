//! A network with its parameters: what it is made of, and how batches pass through it.

use crate::checked_file::Contents;
use crate::data::{Split, Train};
use crate::kernels::Precision;
use crate::layers::{Layer, Node, Pass, Shape, Variables, run};
use crate::{Result, bail, error};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeMap;

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
    /// Channels, height, width.
    pub(crate) image: [usize; 3],
    pub(super) classes: usize,
    pub(crate) segments: Vec<Vec<Node>>,
    /// One per segment but the last.
    pub(crate) branches: Vec<Vec<Node>>,
    pub(super) device: Device,
    pub(crate) precision: Precision,
}

/// All layers of these lists, those inside residual blocks behind their block.
fn with_within(lists: &[Vec<Node>]) -> impl Iterator<Item = &Node> {
    lists.iter().flatten().flat_map(|node| std::iter::once(node).chain(node.within()))
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
        self.image.into()
    }

    /// Classes that every exit tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The number of exits, the last one included.
    pub fn exits(&self) -> usize {
        self.segments.len()
    }

    /// The trunk, up to each exit.
    pub fn segments(&self) -> &[Vec<Node>] {
        &self.segments
    }

    /// What stands between each of the segments but the last and its exit.
    pub fn branches(&self) -> &[Vec<Node>] {
        &self.branches
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
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.trunk().chain(with_within(&self.branches))
    }

    /// Those of the trunk.
    pub(super) fn trunk(&self) -> impl Iterator<Item = &Node> {
        with_within(&self.segments)
    }

    /// What `of` gives of every layer, by the layer's name and these.
    fn named(
        &self,
        of: impl Fn(&Variables) -> &Option<(Var, Var)>,
        [first, second]: [&str; 2],
    ) -> BTreeMap<String, Var> {
        let both = |node: &Node| {
            let (a, b) = of(&node.variables).clone()?;
            Some([(format!("{}.{first}", node.name), a), (format!("{}.{second}", node.name), b)])
        };
        self.nodes().filter_map(both).flatten().collect()
    }

    /// All trained parameters by name (`conv1.weight`, `branch1.linear1.bias`, …), sorted.
    pub fn parameters(&self) -> BTreeMap<String, Var> {
        self.named(|variables| &variables.parameters, ["weight", "bias"])
    }

    /// [`Self::parameters`] and the running means and variances of batch normalisations
    /// (`batch_norm1.mean`, …): all that inference depends on.
    pub fn state(&self) -> BTreeMap<String, Var> {
        let mut all = self.parameters();
        all.extend(self.named(|variables| &variables.statistics, ["mean", "variance"]));
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
        self.copy("", other)
    }

    /// [`Self::start_from`] for the part of this network whose names begin with `prefix` and then are as in `other`.
    pub(super) fn copy(&self, prefix: &str, other: &Network) -> Result<()> {
        let ours = self.state();
        let to = |(name, from)| Some((ours.get(&format!("{prefix}{name}"))?, name, from));
        let pairs: Vec<(&Var, String, Var)> = other.state().into_iter().filter_map(to).collect();
        if pairs.is_empty() {
            bail!(Shape, "{} has no parameter in common with {}", self.name, other.name)
        }
        if let Some((to, name, from)) = pairs.iter().find(|(to, _, from)| to.shape() != from.shape()) {
            let (ours, theirs) = (to.shape(), from.shape());
            bail!(Shape, "{name} is {ours:?} in {} and {theirs:?} in {}", self.name, other.name)
        }
        for (to, _, from) in &pairs {
            to.set(&from.as_tensor().copy()?)?;
        }
        Ok(())
    }

    /// Takes its state from a file. Fails, and changes nothing, where a part is missing or of another shape.
    pub fn load<T>(&self, contents: &Contents<T>) -> Result<()> {
        let state = self.state();
        let tensor = |(name, var): (&String, &Var)| contents.tensor(name, var.dims(), &self.name);
        let tensors = state.iter().map(tensor).collect::<Result<Vec<_>>>()?;
        for (var, tensor) in state.values().zip(tensors) {
            var.set(&tensor.to_device(&self.device)?)?;
        }
        Ok(())
    }

    /// Fits the convolutions that whiten ([`super::Start::Whitening`]) to the images that training sees. Fails
    /// where such a convolution does not come first or has another number of outputs.
    pub(crate) fn fit(&self, train: &Split<Train>) -> Result<()> {
        for (i, node) in self.nodes().enumerate() {
            if let Layer::Conv(conv) = &node.layer {
                conv.fit(node, i == 0, train)?;
            }
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

    /// Fails unless images are (batch, channels, height, width) of the size that it was built for, in f32.
    pub(crate) fn check_images(&self, images: &Tensor) -> Result<()> {
        let [channels, height, width] = self.image;
        let fit = matches!(images.dims()[..], [_, c, h, w] if [c, h, w] == self.image);
        if !fit || images.dtype() != DType::F32 {
            bail!(
                Shape,
                "{} takes images (batch, {channels}, {height}, {width}) in f32, prepared as those it was trained on, got {:?} in {:?}",
                self.name,
                images.dims(),
                images.dtype()
            )
        }
        Ok(())
    }

    /// The logits (batch, classes) of every exit for images (batch, channels, height, width) in f32, prepared as those it was
    /// trained on: as [`Split::batch`] gives them, not as bytes. Fails on images of another size.
    pub fn forward(&self, images: &Tensor, pass: &mut Pass<'_>) -> Result<Vec<Tensor>> {
        self.check_images(images)?;
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
        let mut shape = self.input();
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
