//! From a list of layers to a network: shapes, names, and initial weights.

use super::layer::{Layer, Start};
use super::network::Network;
use super::node::{Node, Shape};
use crate::error::{bail, error};
use crate::kernels::{ConvGeometry, Pool, Precision, Shortcut};
use crate::{Error, Result, Rng};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use std::collections::BTreeMap;

/// Lays out one part of the network (the trunk, a branch, or a residual block).
struct Builder<'a> {
    prefix: String,
    counts: BTreeMap<&'static str, usize>,
    seed: u64,
    device: &'a Device,
}

impl Builder<'_> {
    fn node(&mut self, layer: &Layer, input: Shape) -> Result<Node> {
        let count = self.counts.entry(layer.kind()).or_default();
        *count += 1;
        let name = format!("{}{}{count}", self.prefix, layer.kind());
        let wrong = |expected: String| {
            error!(
                Shape,
                "layer {name}, {layer}: it expects {expected}, but the layer before it gives {input} ({} values)",
                input.len()
            )
        };
        let inner = match layer {
            Layer::Residual(layers) => self.inside(&name).nodes(layers, input)?,
            _ => Vec::new(),
        };
        let output = output(layer, input, &inner).map_err(wrong)?;
        if output.is_empty() {
            return Err(wrong("to give at least one value".to_string()));
        }
        let (parameters, statistics) = self.variables(layer, &name)?;
        Ok(Node { name, layer: layer.clone(), output, parameters, statistics, inner })
    }

    /// The nodes of a list of layers, the first of which gets `input`.
    fn nodes(mut self, layers: &[Layer], mut input: Shape) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for layer in layers {
            if layer.is_branch() {
                bail!(
                    Shape,
                    "{}branch: a branch inside a branch or a residual block is not supported; move it to the trunk",
                    self.prefix
                )
            }
            let node = self.node(layer, input)?;
            input = node.output;
            nodes.push(node);
        }
        Ok(nodes)
    }

    /// A builder for the part of the network called `name`.
    fn inside(&self, name: &str) -> Self {
        Self { prefix: format!("{name}."), counts: BTreeMap::new(), ..*self }
    }

    /// Weight and bias, and running statistics, of a layer that has them.
    #[expect(clippy::type_complexity, reason = "two optional pairs")]
    fn variables(&self, layer: &Layer, name: &str) -> Result<(Option<(Var, Var)>, Option<(Var, Var)>)> {
        let filled = |len: usize, value: f32| -> Result<Var> {
            Ok(Var::from_tensor(&Tensor::full(value, len, self.device)?)?)
        };
        Ok(match *layer {
            Layer::Conv { inputs, outputs, kernel, start, .. } => {
                let drawn = self.draw(name, &[outputs, inputs, kernel, kernel])?;
                if start == Start::Identity {
                    pass_on(&drawn.0)?;
                }
                (Some(drawn), None)
            }
            Layer::Linear { inputs, outputs } => (Some(self.draw(name, &[outputs, inputs])?), None),
            Layer::BatchNorm { channels, .. } => (
                Some((filled(channels, 1.0)?, filled(channels, 0.0)?)),
                Some((filled(channels, 0.0)?, filled(channels, 1.0)?)),
            ),
            Layer::Pool { .. }
            | Layer::Lrn(_)
            | Layer::Relu
            | Layer::Gelu
            | Layer::Scale(_)
            | Layer::Dropout(_)
            | Layer::Residual(_)
            | Layer::Branch(_) => (None, None),
        })
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

/// Lets the first outputs of a convolution with `weight` (outputs, inputs, kernel, kernel) be its inputs.
fn pass_on(weight: &Var) -> Result<()> {
    let (outputs, inputs, kernel, _) = weight.dims4()?;
    let mut values = weight.flatten_all()?.to_vec1::<f32>()?;
    let area = kernel * kernel;
    for channel in 0..inputs.min(outputs) {
        let filter = &mut values[channel * inputs * area..][..inputs * area];
        filter.fill(0.0);
        filter[channel * area + area / 2] = 1.0;
    }
    Ok(weight.set(&Tensor::from_vec(values, weight.shape(), weight.device())?)?)
}

/// What a layer makes of a sample of this shape, or what it expects instead. `inner` are the nodes of a
/// residual block.
fn output(layer: &Layer, input: Shape, inner: &[Node]) -> std::result::Result<Shape, String> {
    let image = || match input {
        Shape::Image(channels, height, width) => Ok([channels, height, width]),
        Shape::Flat(_) => Err("an image".to_string()),
    };
    let of_channels = |wanted: usize| match image()? {
        [channels, height, width] if channels == wanted => Ok((height, width)),
        _ => Err(format!("an image of {wanted} channels")),
    };
    let unfit = |what: &str, cause| format!("{what} ({})", Error::from(cause));
    Ok(match *layer {
        Layer::Conv { inputs, outputs, kernel, padding, stride, .. } => {
            let (height, width) = of_channels(inputs)?;
            let g = ConvGeometry::of(inputs, height, width, outputs, kernel, padding, stride)
                .map_err(|cause| unfit("an image that its kernel fits", cause))?;
            Shape::Image(outputs, g.out_height, g.out_width)
        }
        Layer::Pool { kind, kernel, stride } => {
            let [channels, height, width] = image()?;
            let pool = Pool::new(kind, height, width, kernel, stride)
                .map_err(|cause| unfit("an image that its window fits", cause))?;
            Shape::Image(channels, pool.out_height, pool.out_width)
        }
        Layer::BatchNorm { channels, .. } => {
            of_channels(channels)?;
            input
        }
        Layer::Residual(_) => {
            let end = inner.last().map_or(input, |node| node.output);
            if inner.iter().any(|node| !node.inner.is_empty()) {
                return Err("no residual block inside it".to_string());
            }
            let Shape::Image(channels, height, width) = end else {
                return Err(format!("its layers to give an image, not {end}"));
            };
            Shortcut::new(image()?, [channels, height, width]).map_err(|cause| {
                unfit("its layers to give an image that its input can be added to", cause)
            })?;
            end
        }
        Layer::Lrn(_) => image().map(|_| input)?,
        Layer::Relu | Layer::Gelu | Layer::Scale(_) | Layer::Dropout(_) => input,
        Layer::Linear { inputs, outputs } if inputs == input.len() => Shape::Flat(outputs),
        Layer::Linear { inputs, .. } => return Err(format!("{inputs} values")),
        Layer::Branch(_) => return Err("to stand in the trunk".to_string()),
    })
}

impl Network {
    /// Builds `layers` for images of `input` (channels, height, width), with initial weights from
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
        input: [usize; 3],
        layers: impl Into<Vec<Layer>>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let layers = layers.into();
        let [channels, height, width] = input;
        let input = Shape::Image(channels, height, width);
        let mut trunk = Builder { prefix: String::new(), counts: BTreeMap::new(), seed, device };
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
            input,
            classes,
            segments,
            branches,
            device: device.clone(),
            precision: Precision::F32,
        })
    }
}
