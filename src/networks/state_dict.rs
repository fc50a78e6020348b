//! Weights of a network that was trained elsewhere: PyTorch's `state_dict`, so that exits can be added to it.

use super::network::Network;
use crate::kernels::EPSILON;
use crate::layers::Node;
use crate::{Result, bail, error};
use candle_core::{DType, Device, Tensor, Var};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What PyTorch adds to the variance of a batch normalisation, unless told otherwise.
const EPSILON_OF_PYTORCH: f64 = 1e-5;

/// A layer's tensors, by the names that PyTorch has for them: weight, bias, and running statistics.
const PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// The tensors of a PyTorch `state_dict`, in f32.
#[derive(Debug, Clone)]
pub struct StateDict {
    /// For messages.
    origin: String,
    /// Of each module (`features.0`) what it has of [`PARTS`], and something else that it may have.
    modules: BTreeMap<String, ([Option<Tensor>; 4], Option<String>)>,
}

impl StateDict {
    /// Takes tensors by name (`features.0.weight`). Fails where one of them has values that are not finite.
    pub fn of_tensors(tensors: impl IntoIterator<Item = (impl Into<String>, Tensor)>) -> Result<Self> {
        Self::named("the state_dict", tensors)
    }

    /// [`Self::of_tensors`], with what they came from, for messages: a file's path.
    pub fn named(
        origin: &str,
        tensors: impl IntoIterator<Item = (impl Into<String>, Tensor)>,
    ) -> Result<Self> {
        let mut modules = BTreeMap::<_, ([Option<Tensor>; 4], _)>::new();
        for (name, tensor) in tensors {
            let name = name.into();
            let (module, part) = name.rsplit_once('.').unwrap_or(("", &name));
            if part == "num_batches_tracked" {
                continue;
            }
            let (parts, other) = modules.entry(module.to_string()).or_default();
            let Some(at) = PARTS.iter().position(|name| *name == part) else {
                *other = Some(name);
                continue;
            };
            let tensor = tensor.to_dtype(DType::F32)?;
            if !tensor.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite() {
                bail!(File, "{origin}: {name} has values that are not finite in f32")
            }
            parts[at] = Some(tensor);
        }
        Ok(Self { origin: origin.to_string(), modules })
    }

    /// What decides where a module may go: its largest part's shape, and whether it has running statistics.
    fn shape(&self, module: &str) -> (&[usize], bool) {
        let ([weight, _, mean, _], _) = &self.modules[module];
        (weight.as_ref().or(mean.as_ref()).map_or(&[][..], |tensor| tensor.dims()), mean.is_some())
    }

    /// The values of a layer's variables by a module. Fails where one is missing or of another shape.
    fn of(&self, module: &str, node: &Node, network: &str) -> Result<Vec<(Var, Tensor)>> {
        let (origin, layer) = (&self.origin, format!("layer {} of {network}", node.name));
        let Some((parts, other)) = self.modules.get(module) else {
            bail!(Missing, "{origin} has no {module}, which {layer} shall have")
        };
        if let Some(other) = other {
            bail!(Shape, "{origin} has {other}, for which {layer} has no place")
        }
        let vars = [&node.variables.parameters, &node.variables.statistics];
        let vars = vars.into_iter().flatten().flat_map(|(first, second)| [first, second]);
        let normalises = node.variables.statistics.is_some();
        if !normalises && parts[2].is_some() {
            bail!(Shape, "{origin}: {module} is a batch normalisation, but {layer} is {}", node.layer)
        }
        let value = |(part, var): (usize, &Var)| {
            let name = format!("{module}.{}", PARTS[part]);
            let tensor = match &parts[part] {
                Some(tensor) if tensor.dims() == var.dims() => tensor.clone(),
                Some(tensor) => {
                    bail!(
                        Shape,
                        "{origin}: {name} is {:?}, but {layer} needs {:?}",
                        tensor.dims(),
                        var.dims()
                    )
                }
                // Without a bias, and of a normalisation without a weight too.
                None if part == 1 => Tensor::zeros(var.shape(), DType::F32, &Device::Cpu)?,
                None if part == 0 && normalises => Tensor::ones(var.shape(), DType::F32, &Device::Cpu)?,
                None => bail!(Missing, "{origin} has no {name}, which {layer} needs: {:?}", var.dims()),
            };
            // Ours adds another constant to the variance.
            let tensor = if part == 3 { (tensor + (EPSILON_OF_PYTORCH - EPSILON))? } else { tensor };
            Ok((var.clone(), tensor))
        };
        vars.enumerate().map(value).collect()
    }

    /// The modules in the order in which they are taken to run. Fails where it matters and is not certain.
    fn ordered(&self) -> Result<Vec<&str>> {
        let mut modules: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        modules.sort_by(|a, b| order(a, b).0);
        for (i, first) in modules.iter().enumerate() {
            let alike = |second: &&&str| self.shape(second) == self.shape(first);
            if let Some(second) = modules[i + 1..].iter().find(alike)
                && !order(first, second).1
            {
                bail!(
                    Setting,
                    "{}: whether {first} or {second} comes first is not certain, and both are {:?}; say which layer each is (load_state_dict_as)",
                    self.origin,
                    self.shape(first).0
                )
            }
        }
        Ok(modules)
    }
}

/// Words of names, in the order in which such modules run in one another's company.
const ROLES: [&[&str]; 4] = [
    &["stem", "conv", "bn", "norm", "features", "backbone"],
    &["layer", "layers", "stage", "stages", "block", "blocks"],
    &["downsample", "shortcut", "skip", "proj"],
    &["classifier", "fc", "linear", "head", "output"],
];

/// Which module runs first by their names, and whether that is certain: by the numbers behind the first words that differ
/// (`features.2`, `features.10`), or by what those words usually mean (`conv1`, `layer1`).
fn order(a: &str, b: &str) -> (Ordering, bool) {
    let differ = a.split('.').zip(b.split('.')).find(|(a, b)| a != b);
    let Some((a, b)) = differ else { return (a.cmp(b), a == b) };
    let parts = |part| {
        let word = str::trim_end_matches(part, |c: char| c.is_ascii_digit());
        let role = ROLES.iter().position(|words| words.contains(&word));
        (role, word, part[word.len()..].parse::<usize>().ok())
    };
    let (a, b) = (parts(a), parts(b));
    let certain = match (a, b) {
        ((_, a, m), (_, b, n)) if a == b => m.is_some() && n.is_some(),
        // A second convolution beside stages may well be the last.
        ((Some(0), _, n), (Some(1), ..)) | ((Some(1), ..), (Some(0), _, n)) => n.is_none_or(|n| n < 2),
        ((Some(a), ..), (Some(b), ..)) => a != b,
        _ => false,
    };
    (a.cmp(&b), certain)
}

impl Network {
    /// Takes the weights of the trunk from a network that PyTorch trained. Branches keep what they have: then train them
    /// alone ([`crate::training::Config::frozen`]), or all exits jointly.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// // nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)), with an exit.
    /// let layers = [conv(1, 2, 3, 1), branch([linear(32, 3)]), relu(), max_pool_inside(2, 2), linear(8, 3)];
    /// let network = Network::new("small", [1, 4, 4], layers, 0, &Device::Cpu)?;
    /// let (conv, linear) = (Tensor::new(&[0.5f32; 18], &Device::Cpu)?, Tensor::new(&[0.25f32; 24], &Device::Cpu)?);
    /// let tensors = [("0.weight", conv.reshape((2, 1, 3, 3))?), ("4.weight", linear.reshape((3, 8))?)];
    /// // From a file: StateDict::of_tensors(branchynet::candle_core::safetensors::load("small.safetensors", &Device::Cpu)?)?
    /// let weights = StateDict::of_tensors(tensors)?;
    /// network.load_state_dict(&weights)?;
    /// // The same, said layer by layer:
    /// network.load_state_dict_as(&weights, &[("conv1", "0"), ("linear1", "4")])?;
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    ///
    /// A layer of the trunk takes the next module with a weight of its shape: (outputs, inputs, kernel, kernel) of a
    /// convolution, (outputs, inputs) of a linear layer, whose inputs are an image's channels, rows and columns in this
    /// order, (channels) of a batch normalisation. The file does not keep the order of modules. It follows from the numbers in
    /// their names, and else from common names (`conv1`, `layer1`, `downsample`, `fc`); where it does not, say it
    /// ([`Self::load_state_dict_as`]). A bias that is missing is zero. `num_batches_tracked` is ignored, and batch
    /// normalisations must have PyTorch's epsilon of 1e-5. Strides, paddings and poolings are the list's, as is how a block's
    /// input comes in again ([`super::Skip`]), and images must be prepared as they were there.
    ///
    /// Fails, and changes nothing, where a layer or a module is left over, a shape does not fit, or an order is not certain.
    pub fn load_state_dict(&self, weights: &StateDict) -> Result<()> {
        let (mut left, mut pairs) = (weights.ordered()?, Vec::new());
        for node in self.trunk().filter(|node| node.variables.parameters.is_some()) {
            let weight = node.variables.parameters.as_ref().map_or(&[][..], |(weight, _)| weight.dims());
            let wanted = (weight, node.variables.statistics.is_some());
            let Some(at) = left.iter().position(|module| weights.shape(module) == wanted) else {
                let alike = |module: &&&str| {
                    let (shape, normalises) = weights.shape(module);
                    (shape.len(), normalises) == (wanted.0.len(), wanted.1)
                };
                let found = left.iter().find(alike).map_or("no such layer is left".to_string(), |module| {
                    format!("the next such layer is {module} with {:?}", weights.shape(module).0)
                });
                let layer = format!("layer {}, {}, of {}", node.name, node.layer, self.name);
                bail!(Shape, "{}: {layer} needs a weight of {weight:?}; {found}", weights.origin)
            };
            pairs.push((node, left.remove(at)));
        }
        if let Some(module) = left.first() {
            let what = match &weights.modules[*module] {
                (_, Some(other)) => other.clone(),
                _ => format!("{module} with {:?}", weights.shape(module).0),
            };
            bail!(Shape, "{}: no layer in the trunk of {} is left for {what}", weights.origin, self.name)
        }
        self.fill(weights, &pairs)
    }

    /// [`Self::load_state_dict`] for these layers alone, those of branches among them: pairs of the layer's name as
    /// [`Self::parameters`] has it (`conv1`, `residual2.shortcut.conv1`, `branch1.linear1`) and of the module's
    /// (`features.0`). All other layers keep what they have.
    ///
    /// Fails, and changes nothing, where a layer, a module or a part of it is not there, or a shape does not fit.
    pub fn load_state_dict_as(&self, weights: &StateDict, names: &[(&str, &str)]) -> Result<()> {
        let node = |&(name, module)| {
            let with = |node: &&Node| node.variables.parameters.is_some();
            match self.nodes().filter(with).find(|node| node.name == name) {
                Some(node) => Ok((node, module)),
                None => {
                    let names: Vec<&str> = self.nodes().filter(with).map(|node| node.name.as_str()).collect();
                    Err(error!(
                        Setting,
                        "{} has no layer {name:?} with weights; it has {}",
                        self.name,
                        names.join(", ")
                    ))
                }
            }
        };
        self.fill(weights, &names.iter().map(node).collect::<Result<Vec<_>>>()?)
    }

    fn fill(&self, weights: &StateDict, pairs: &[(&Node, &str)]) -> Result<()> {
        let mut values = Vec::new();
        for (node, module) in pairs {
            values.extend(weights.of(module, node, &self.name)?);
        }
        for (var, value) in values {
            var.set(&value.to_device(&self.device)?)?;
        }
        Ok(())
    }
}
