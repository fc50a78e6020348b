//! Networks from elsewhere: ONNX files whose outputs are logits of exits. They go out again with a policy that decides.

use super::graph::{Attribute, Graph, Weights};
use super::{Form, OnnxOptions, Staged, Value, write};
use branchynet::exits::ExitPolicy;
use branchynet::networks::Shape;
use branchynet::{Result, bail, error, files};
use onnx_rs::ast::{self, AttributeType, DataType, Dimension};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// The files beside an ONNX file that hold weights of it, by their names.
type Beside = BTreeMap<String, Vec<u8>>;

/// An ONNX file in memory, with the weights that it keeps in files beside it, as those of PyTorch's exporter do unless it is told
/// otherwise.
#[derive(Debug)]
pub struct OnnxFile {
    name: String,
    bytes: Vec<u8>,
    beside: Beside,
}

impl OnnxFile {
    /// A file that has its weights in it; `name` is for messages.
    pub fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_string(), bytes, beside: Beside::new() }
    }

    /// Reads a file, and those beside it that hold its weights. Fails, naming what it is, where one cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = Self::new(&path.display().to_string(), files::read(path)?);
        let mut locations = BTreeSet::new();
        for weights in file.parse()?.1.tensors() {
            if weights.data_location() == ast::DataLocation::External {
                locations.insert(entry(weights, "location").unwrap_or_default().to_string());
            }
        }
        for location in locations {
            // What a file names elsewhere is not its own.
            let plain = Path::new(&location).components().all(|part| matches!(part, Component::Normal(_)));
            if location.is_empty() || !plain {
                bail!(File, "{}: its weights are in {location:?}, which is no file beside it", file.name)
            }
            let bytes = files::read(&path.with_file_name(&location))
                .map_err(|error| error!(File, "{}: its weights are in another file: {error}", file.name))?;
            file.beside.insert(location, bytes);
        }
        Ok(file)
    }

    /// Changes when the file or its weights do: a checksum, against mistakes.
    pub fn digest(&self) -> String {
        let mut hasher = crc32fast::Hasher::new();
        for bytes in std::iter::once(&self.bytes).chain(self.beside.values()) {
            hasher.update(&bytes.len().to_le_bytes());
            hasher.update(bytes);
        }
        format!("{:08x}", hasher.finalize())
    }

    /// Its set of operations (0: none) and its graph.
    fn parse(&self) -> Result<(i64, Parsed<'_>)> {
        let wrong = |what: String| error!(File, "{}: {what}", self.name);
        let model = onnx_rs::parse(&self.bytes).map_err(|cause| wrong(format!("no ONNX file ({cause})")))?;
        let graph = model.graph.ok_or_else(|| wrong("it has no graph".to_string()))?;
        let opset = model.opset_import.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
        Ok((opset.map_or(0, |set| set.version), Parsed(graph)))
    }
}

#[derive(Debug)]
struct Parsed<'a>(ast::Graph<'a>);

impl<'a> Parsed<'a> {
    /// Weights, and the constants of operations.
    fn tensors(&self) -> impl Iterator<Item = &ast::TensorProto<'a>> {
        let constants =
            self.0.node.iter().flat_map(|node| node.attribute.iter().filter_map(|a| a.t.as_ref()));
        self.0.initializer.iter().chain(constants)
    }
}

/// A network from elsewhere, as an ONNX file has it.
#[derive(Debug)]
pub struct OnnxNetwork<'a> {
    name: &'a str,
    graph: ast::Graph<'a>,
    beside: &'a Beside,
    opset: i64,
    /// The outputs that are exits, the first first.
    exits: Vec<String>,
    classes: usize,
    /// The input's name and type.
    input: (&'a str, DataType),
    /// So many images at a time; `None`: any.
    batch: Option<usize>,
    /// Channels, height, width.
    image: [usize; 3],
    costs: Vec<f64>,
    /// For each exit the operations that it needs and those before it do not, by their place in the file.
    stages: Vec<Vec<usize>>,
    /// For each exit but the last what it makes, or what it got, that later ones need.
    passed: Vec<Vec<String>>,
}

impl<'a> OnnxNetwork<'a> {
    /// Takes a file of one input, images (batch, channels, height, width), and outputs that are logits (batch, classes): all
    /// outputs in their order, or those called `exits`. It `costs` so much to leave at each. Fails, naming what it is, where the
    /// file is not so.
    pub fn of(file: &'a OnnxFile, exits: &[String], costs: &[f64]) -> Result<Self> {
        let wrong = |what: String| error!(File, "{}: {what}", file.name);
        let (opset, Parsed(graph)) = file.parse()?;
        if opset < 13 {
            return Err(wrong(format!(
                "it is of opset {opset}, and 13 or later is needed; onnx.version_converter makes it newer"
            )));
        }
        if let Some(weights) = graph.sparse_initializer.first() {
            let name = weights.values.as_ref().map_or("", |values| values.name());
            return Err(wrong(format!("its weights {name} are sparse, and only dense ones are taken")));
        }
        let foreign = graph.node.iter().find(|node| !node.domain.is_empty() && node.domain != "ai.onnx");
        if let Some(node) = foreign {
            return Err(wrong(format!(
                "{} {} is of {}, and only ONNX's own operations are taken",
                node.op_type, node.name, node.domain
            )));
        }
        let weights: BTreeSet<&str> = graph.initializer.iter().map(ast::TensorProto::name).collect();
        let inputs: Vec<&ast::ValueInfo<'_>> =
            graph.input.iter().filter(|value| !weights.contains(value.name)).collect();
        let shape = match &inputs[..] {
            [input] => dims(input).filter(|dims| dims.len() == 4),
            _ => None,
        };
        let input = inputs.first().and_then(|input| Some((input.name, input.tensor_elem_type()?)));
        let (Some(shape), Some(input)) = (shape, input) else {
            let names: Vec<&str> = inputs.iter().map(|input| input.name).collect();
            return Err(wrong(format!(
                "one input (batch, channels, height, width) is expected, got {}",
                names.join(", ")
            )));
        };
        let [batch, Some(channels), Some(height), Some(width)] = shape[..] else {
            return Err(wrong(format!(
                "its input has an open height or width ({shape:?}); export it for images of one size"
            )));
        };
        let outputs: Vec<&str> = graph.output.iter().map(|value| value.name).collect();
        let exits: Vec<String> = match exits {
            [] => outputs.iter().map(ToString::to_string).collect(),
            exits => exits.to_vec(),
        };
        let mut classes = None;
        for exit in &exits {
            let Some(output) = graph.output.iter().find(|value| value.name == exit) else {
                return Err(wrong(format!("there is no output {exit}; there are {}", outputs.join(", "))));
            };
            let of = dims(output).filter(|dims| dims.len() == 2).and_then(|dims| dims[1]);
            if of.is_none()
                || classes.is_some_and(|classes| Some(classes) != of)
                || output.tensor_elem_type() != Some(DataType::Float)
            {
                return Err(wrong(format!(
                    "output {exit} is no exit: logits in f32 are expected, (batch, classes), as many classes at each exit"
                )));
            }
            classes = of;
        }
        if exits.len() < 2 || exits.len() != costs.len() {
            return Err(wrong(format!(
                "{} exits for costs of {}; two or more are needed, and a cost for each",
                exits.len(),
                costs.len()
            )));
        }
        if let Some(cost) = costs.iter().find(|cost| !cost.is_finite() || **cost < 0.0) {
            return Err(wrong(format!("the cost of an exit is {cost}; a number of at least 0 is expected")));
        }
        let (stages, passed) = stages(&graph, &exits);
        Ok(Self {
            name: &file.name,
            graph,
            beside: &file.beside,
            opset,
            exits,
            classes: classes.expect("two exits"),
            input,
            batch,
            image: [channels, height, width],
            costs: costs.to_vec(),
            stages,
            passed,
        })
    }

    /// How many classes each exit tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The file that decides by this policy, or in the form of stages several, each with its name; `about` is added to what it
    /// says about itself. Fails, naming it, for what the form cannot hold.
    pub fn with_policy(
        &self,
        policy: &ExitPolicy,
        options: &OnnxOptions,
        about: &[(&str, String)],
    ) -> Result<Vec<(String, Vec<u8>)>> {
        // Operations between may hold the size of the batch, as Reshape does.
        match (self.batch, options.form) {
            (None, _) | (Some(1), Form::If | Form::Stages) => {}
            (Some(batch), form) => bail!(
                Setting,
                "{}: it takes batches of {batch}, and {}; export it for any batch, as by PyTorch's dynamic_shapes (dynamic_axes of the older exporter)",
                self.name,
                match form {
                    Form::If | Form::Stages => "this form takes one image at a time",
                    Form::Batch | Form::Exits => "this form takes any",
                }
            ),
        }
        write(self, policy, options, about.to_vec())
    }

    /// What a value of the file is called among the writer's own.
    fn renamed(&self, name: &str, from: &(Option<&str>, &str)) -> String {
        match name {
            "" => String::new(),
            // What comes from the stage before.
            passed if Some(passed) == from.0 => from.1.to_string(),
            other => format!("model.{other}"),
        }
    }
}

impl Staged for OnnxNetwork<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn exits(&self) -> usize {
        self.exits.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn costs(&self) -> Vec<f64> {
        self.costs.clone()
    }

    fn graph(&self, options: &OnnxOptions) -> Graph {
        Graph::new(options.plain, None, self.opset)
    }

    fn image(&self, images: Option<usize>, _: &OnnxOptions, graph: &mut Graph) -> Result<Value> {
        let [channels, height, width] = self.image;
        let name = graph.input("image", self.input.1, &[images, Some(channels), Some(height), Some(width)]);
        Ok((name, self.image.into()))
    }

    fn stage(
        &self,
        exit: usize,
        (from, _): Value,
        options: &OnnxOptions,
        graph: &mut Graph,
    ) -> Result<(Value, String)> {
        let weights: BTreeMap<&str, &ast::TensorProto<'_>> =
            self.graph.initializer.iter().map(|w| (w.name(), w)).collect();
        let before = match exit.checked_sub(1).map(|before| &self.passed[before][..]) {
            None => Some(self.input.0),
            Some([one]) => Some(one.as_str()),
            Some(_) => None,
        };
        let from = (before, &*from);
        // The weights of earlier stages are in sight, but in files of their own.
        let seen: BTreeSet<&str> = match options.form {
            Form::Stages => BTreeSet::new(),
            _ => self.stages[..exit]
                .iter()
                .flatten()
                .flat_map(|&i| self.graph.node[i].input.iter().copied())
                .collect(),
        };
        let mut placed = BTreeSet::new();
        for node in self.stages[exit].iter().map(|&i| &self.graph.node[i]) {
            for &name in &node.input {
                if let Some(weights) =
                    weights.get(name).filter(|_| !seen.contains(name) && placed.insert(name))
                {
                    let weights = owned(weights, self.beside)
                        .map_err(|what| error!(File, "{}, {name}: {what}", self.name))?;
                    graph.add_weights(Weights { name: self.renamed(name, &from), ..weights });
                }
            }
            let names = [&node.input, &node.output]
                .map(|names| names.iter().map(|name| self.renamed(name, &from)).collect());
            let mut attributes = Vec::new();
            for attribute in &node.attribute {
                let value = attribute_of(attribute, self.beside)
                    .map_err(|what| error!(File, "{}, {} {}: {what}", self.name, node.op_type, node.name))?;
                attributes.push((attribute.name.to_string(), value));
            }
            graph.add_given(node.op_type.as_str(), self.renamed(node.name, &(None, "")), names, attributes);
        }
        let logits = self.renamed(&self.exits[exit], &from);
        let trunk = match self.passed.get(exit).map(Vec::as_slice) {
            Some([one]) => (self.renamed(one, &from), self.shape(one).unwrap_or(Shape::Flat(0))),
            _ => (String::new(), Shape::Flat(0)),
        };
        Ok((trunk, logits))
    }

    fn passes_one_value(&self) -> Result<()> {
        for (exit, passed) in self.passed.iter().enumerate() {
            let [one] = &passed[..] else {
                bail!(
                    Setting,
                    "{}: what stands behind exit {} needs {} values from before it ({}); the form `if` alone takes that",
                    self.name,
                    exit + 1,
                    passed.len(),
                    passed.join(", ")
                )
            };
            if self.shape(one).is_none() {
                bail!(
                    Setting,
                    "{}: the shape of {one}, which goes on behind exit {}, is not (batch, channels, height, width) or (batch, values), or not in the file; onnx.shape_inference adds it, or take the form `if`",
                    self.name,
                    exit + 1
                )
            }
        }
        Ok(())
    }
}

impl OnnxNetwork<'_> {
    /// One sample of a value between stages.
    fn shape(&self, name: &str) -> Option<Shape> {
        if name == self.input.0 {
            return Some(self.image.into());
        }
        let value =
            self.graph.value_info.iter().chain(&self.graph.output).find(|value| value.name == name)?;
        match dims(value)?[..] {
            [_, Some(channels), Some(height), Some(width)] => Some(Shape::Image(channels, height, width)),
            [_, Some(len)] => Some(Shape::Flat(len)),
            _ => None,
        }
    }
}

/// The dimensions of a value, open ones as `None`; `None` where the file does not say.
fn dims(value: &ast::ValueInfo<'_>) -> Option<Vec<Option<usize>>> {
    let size = |dim: &ast::TensorShapeDimension<'_>| match dim.value {
        Dimension::Value(size) => usize::try_from(size).ok(),
        _ => None,
    };
    Some(value.tensor_shape()?.dim.iter().map(size).collect())
}

/// The operations of each exit, and what passes from each to those behind it.
fn stages(graph: &ast::Graph<'_>, exits: &[String]) -> (Vec<Vec<usize>>, Vec<Vec<String>>) {
    let makers: BTreeMap<&str, usize> = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.output.iter().map(move |name| (*name, i)))
        .collect();
    let weights: BTreeSet<&str> = graph.initializer.iter().map(ast::TensorProto::name).collect();
    let mut stage_of = BTreeMap::new();
    for (exit, output) in exits.iter().enumerate() {
        let mut open = vec![output.as_str()];
        while let Some(name) = open.pop() {
            if let Some(&node) = makers.get(name).filter(|node| !stage_of.contains_key(*node)) {
                stage_of.insert(node, exit);
                open.extend(graph.node[node].input.iter().copied());
            }
        }
    }
    let stages = (0..exits.len())
        .map(|exit| (0..graph.node.len()).filter(|node| stage_of.get(node) == Some(&exit)).collect())
        .collect();
    // A value is made in a stage, the input before the first.
    let passed = |exit: usize| {
        let mut names = BTreeSet::new();
        for (&node, _) in stage_of.iter().filter(|&(_, &stage)| stage > exit) {
            for &name in
                graph.node[node].input.iter().filter(|name| !name.is_empty() && !weights.contains(*name))
            {
                if makers.get(name).is_none_or(|maker| stage_of[maker] <= exit) {
                    names.insert(name.to_string());
                }
            }
        }
        names.into_iter().collect()
    };
    (stages, (0..exits.len() - 1).map(passed).collect())
}

/// What the entry of this name says about weights in another file.
fn entry<'a>(weights: &ast::TensorProto<'a>, name: &str) -> Option<&'a str> {
    weights.external_data().iter().find(|entry| entry.key == name).map(|entry| entry.value)
}

/// The part of a file beside that holds these weights.
fn beside_of<'a>(
    weights: &ast::TensorProto<'_>,
    beside: &'a Beside,
) -> std::result::Result<&'a [u8], String> {
    let location = entry(weights, "location").unwrap_or_default();
    let whole = beside.get(location).ok_or("its values are in another file; write the model as one file")?;
    let number = |name: &str| match entry(weights, name) {
        None => Ok(None),
        Some(text) => {
            text.parse::<usize>().map(Some).map_err(|_| format!("{name} in {location} is no number: {text}"))
        }
    };
    let start = number("offset")?.unwrap_or(0);
    let end = number("length")?.map_or(Some(whole.len()), |length| start.checked_add(length));
    let part = end.and_then(|end| whole.get(start..end));
    part.ok_or_else(|| format!("its values end behind the {} bytes of {location}", whole.len()))
}

/// Weights with their bytes.
fn owned(weights: &ast::TensorProto<'_>, beside: &Beside) -> std::result::Result<Weights, String> {
    // Numbers of one or two bytes are kept in wider ones where they are not kept as bytes.
    let narrow = |size: usize| {
        let values = weights.as_i32()?;
        Some(values.iter().flat_map(|v| v.to_le_bytes().into_iter().take(size)).collect())
    };
    let bytes = if weights.data_location() == ast::DataLocation::External {
        beside_of(weights, beside)?.to_vec()
    } else if let Some(raw) = weights.as_raw() {
        raw.to_vec()
    } else if weights.dims().contains(&0) {
        Vec::new()
    } else {
        use DataType::{Bfloat16, Bool, Double, Float, Float16, Int8, Int16, Int32, Int64, Uint8, Uint16};
        match weights.data_type() {
            Float => weights.as_f32().map(|values| values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Double => weights.as_f64().map(|values| values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Int64 => weights.as_i64().map(|values| values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Int32 => narrow(4),
            Int16 | Uint16 | Float16 | Bfloat16 => narrow(2),
            Int8 | Uint8 | Bool => narrow(1),
            _ => None,
        }
        .ok_or_else(|| {
            format!("values of type {:?} that are not stored as bytes are not taken", weights.data_type())
        })?
    };
    Ok(Weights { name: String::new(), dims: weights.dims().to_vec(), kind: weights.data_type(), bytes })
}

fn attribute_of(attribute: &ast::Attribute<'_>, beside: &Beside) -> std::result::Result<Attribute, String> {
    Ok(match attribute.r#type {
        AttributeType::Int => Attribute::Int(attribute.i),
        AttributeType::Ints => Attribute::Ints(attribute.ints.clone()),
        AttributeType::Float => Attribute::Float(attribute.f),
        AttributeType::Floats => Attribute::Floats(attribute.floats.clone()),
        AttributeType::String => Attribute::Text(attribute.s.to_vec()),
        AttributeType::Tensor => {
            Attribute::Weights(owned(attribute.t.as_ref().ok_or("an empty tensor")?, beside)?)
        }
        other => {
            return Err(format!(
                "its attribute {} is of type {other:?}; a graph inside the graph is not taken",
                attribute.name
            ));
        }
    })
}
