//! From a list of layers to a network: names, shapes, segments and branches.

use super::network::Network;
use crate::kernels::Precision;
use crate::layers::{Initial, Layer, Node, Operator, Shape};
use crate::{Result, bail, error};
use candle_core::Device;
use std::collections::BTreeMap;

/// Lays out one part of the network (the trunk, a branch, or a residual block).
struct Builder<'a> {
    prefix: String,
    counts: BTreeMap<&'static str, usize>,
    seed: u64,
    device: &'a Device,
}

impl Builder<'_> {
    fn node(&mut self, layer: &Layer, operator: &dyn Operator, input: Shape) -> Result<Node> {
        let kind = operator.kind();
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{}{kind}{count}", self.prefix);
        let wrong = |expected: String| {
            error!(
                Shape,
                "layer {name}, {layer}: it expects {expected}, but the layer before it gives {input} ({} values)",
                input.len()
            )
        };
        let inner = self.inside(&name).nodes(operator.inner(), input)?;
        let beside = self.inside(&format!("{name}.shortcut")).nodes(operator.beside(), input)?;
        let output = operator.output(input).map_err(wrong)?;
        if output.is_empty() {
            return Err(wrong("to give at least one value".to_string()));
        }
        let initial = Initial { name: &name, seed: self.seed, device: self.device };
        let variables = operator.variables(&initial)?;
        Ok(Node { name, layer: layer.clone(), output, variables, inner, beside })
    }

    /// The nodes of a list of layers, the first of which gets `input`.
    fn nodes(mut self, layers: &[Layer], mut input: Shape) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for layer in layers {
            let Some(operator) = layer.operator() else {
                bail!(
                    Shape,
                    "{}branch: a branch inside a branch or a residual block is not supported; move it to the trunk",
                    self.prefix
                )
            };
            let node = self.node(layer, operator, input)?;
            input = node.output;
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// A builder for the part of the network called `name`.
    fn inside(&self, name: &str) -> Self {
        Self { prefix: format!("{name}."), counts: BTreeMap::new(), ..*self }
    }
}

impl Network {
    /// Builds `layers` for images of `image` (channels, height, width), with initial weights from
    /// `seed`, in f32.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// let layers = [conv(3, 8, 3, 1), branch([linear(512, 10)]), relu(), max_pool(2, 2), linear(128, 10)];
    /// let network = Network::new("small", [3, 8, 8], layers, 0, &Device::Cpu)?;
    /// assert_eq!((network.exits(), network.classes()), (2, 10));
    /// println!("{}", network.summary());
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// Fails, naming the layer and both shapes, where a layer does not fit the one before it, where
    /// exits disagree about the number of classes, and for a list that does not end in a vector
    /// of logits.
    pub fn new(
        name: &str,
        image: [usize; 3],
        layers: impl Into<Vec<Layer>>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let layers = layers.into();
        if image.contains(&0) {
            bail!(Shape, "{name}: images of {image:?} (channels, height, width) have no pixel")
        }
        let mut trunk = Builder { prefix: String::new(), counts: BTreeMap::new(), seed, device };
        let (mut segments, mut branches) = (vec![Vec::new()], Vec::<Vec<Node>>::new());
        let mut shape = Shape::from(image);
        for layer in &layers {
            if let Layer::Branch(layers) = layer {
                let name = format!("branch{}", branches.len() + 1);
                branches.push(trunk.inside(&name).nodes(layers, shape)?);
                segments.push(Vec::new());
            } else if let Some(operator) = layer.operator() {
                let node = trunk.node(layer, operator, shape)?;
                shape = node.output;
                segments.last_mut().expect("never empty").push(node);
            }
        }
        let Shape::Flat(classes) = shape else {
            bail!(
                Shape,
                "{name}: the list must end in a layer that gives one logit per class, such as linear(inputs, 10), but it ends in {shape}"
            )
        };
        for (i, nodes) in branches.iter().enumerate() {
            let end = nodes.last().map(|node| node.output);
            if end != Some(shape) {
                let end = end.map_or("nothing".to_string(), |end| end.to_string());
                bail!(
                    Shape,
                    "{name}: branch{} ends in {end}, but the last exit gives {classes} logits",
                    i + 1
                )
            }
        }
        Ok(Self {
            name: name.to_string(),
            layers,
            image,
            classes,
            segments,
            branches,
            device: device.clone(),
            precision: Precision::F32,
        })
    }
}
