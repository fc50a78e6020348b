//! A graph of operations as an ONNX file holds it (<https://onnx.ai>).

use branchynet::kernels::inference::weight_scale;
use onnx_rs::ast::{self, AttributeType, DataType, Dimension, OpType};
use std::borrow::Cow;

/// The set of operations that layers are written in.
pub(crate) const OPSET: i64 = 17;

/// Operations, each of which gives one value that has its name, and the weights that they read.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    operations: Vec<Operation>,
    weights: Vec<Weights>,
    inputs: Vec<Declared>,
    outputs: Vec<Declared>,
    /// Only with operations that small runtimes know too.
    pub(crate) plain: bool,
    /// Weights are whole numbers of so many bits with a scale for each output, as they are in a quantised network.
    pub(crate) weight_bits: Option<u32>,
    /// The set of operations that it is written in: [`OPSET`], or that of a file from elsewhere.
    pub(crate) opset: i64,
}

#[derive(Debug)]
struct Operation {
    kind: Cow<'static, str>,
    name: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    attributes: Vec<(Cow<'static, str>, Attribute)>,
}

/// What an operation is told beside its inputs.
#[derive(Debug)]
pub(crate) enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    /// One with a name.
    Graph(String, Graph),
    Floats(Vec<f32>),
    Text(Vec<u8>),
    Weights(Weights),
}

/// A constant, little-endian.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) name: String,
    pub(crate) dims: Vec<i64>,
    pub(crate) kind: DataType,
    pub(crate) bytes: Vec<u8>,
}

/// An input or output: name, type, dimensions, of which `None` is the batch.
#[derive(Debug)]
struct Declared {
    name: String,
    kind: DataType,
    dims: Vec<Option<i64>>,
}

impl From<usize> for Attribute {
    fn from(value: usize) -> Self {
        Self::Int(value as i64)
    }
}

impl<const N: usize> From<[usize; N]> for Attribute {
    fn from(values: [usize; N]) -> Self {
        Self::Ints(values.iter().map(|&value| value as i64).collect())
    }
}

impl From<f64> for Attribute {
    fn from(value: f64) -> Self {
        Self::Float(value as f32)
    }
}

impl Graph {
    pub(crate) fn new(plain: bool, weight_bits: Option<u32>, opset: i64) -> Self {
        Self { plain, weight_bits, opset, ..Self::default() }
    }

    /// Adds an operation without attributes; returns its value.
    pub(crate) fn add(&mut self, kind: &'static str, name: impl Into<String>, inputs: &[&str]) -> String {
        self.add_with(kind, name, inputs, [])
    }

    /// Adds an operation; returns its value.
    pub(crate) fn add_with<const N: usize>(
        &mut self,
        kind: &'static str,
        name: impl Into<String>,
        inputs: &[&str],
        attributes: [(&'static str, Attribute); N],
    ) -> String {
        let name = name.into();
        self.add_many(kind, name.clone(), inputs, attributes, vec![name.clone()]);
        name
    }

    /// Adds an operation that gives these values.
    pub(crate) fn add_many<const N: usize>(
        &mut self,
        kind: &'static str,
        name: String,
        inputs: &[&str],
        attributes: [(&'static str, Attribute); N],
        outputs: Vec<String>,
    ) {
        let inputs = inputs.iter().map(|input| (*input).to_string()).collect();
        let attributes = attributes.map(|(name, value)| (Cow::from(name), value)).into();
        self.operations.push(Operation { kind: kind.into(), name, inputs, outputs, attributes });
    }

    /// Adds an operation of a file from elsewhere.
    pub(crate) fn add_given(
        &mut self,
        kind: &str,
        name: String,
        [inputs, outputs]: [Vec<String>; 2],
        attributes: impl IntoIterator<Item = (String, Attribute)>,
    ) {
        let attributes = attributes.into_iter().map(|(name, value)| (Cow::from(name), value)).collect();
        self.operations.push(Operation { kind: kind.to_string().into(), name, inputs, outputs, attributes });
    }

    /// Adds weights of a file from elsewhere.
    pub(crate) fn add_weights(&mut self, weights: Weights) {
        self.weights.push(weights);
    }

    /// Adds weights of these dimensions; returns their name.
    pub(crate) fn weights(&mut self, name: impl Into<String>, dims: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name.into(), dims, DataType::Float, bytes)
    }

    /// Adds one number; returns its name.
    pub(crate) fn number(&mut self, name: impl Into<String>, value: f64) -> String {
        self.weights(name, &[], &[value as f32])
    }

    /// Adds whole numbers, of which ONNX makes shapes, axes and indices; returns their name.
    pub(crate) fn integers(&mut self, name: impl Into<String>, dims: &[usize], values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name.into(), dims, DataType::Int64, bytes)
    }

    /// Adds a number of one byte; returns its name.
    pub(crate) fn bytes(&mut self, name: impl Into<String>, value: u8) -> String {
        self.constant(name.into(), &[], DataType::Uint8, vec![value])
    }

    /// Adds weights of these dimensions, outputs first, each of which is a whole multiple of its output's scale; returns
    /// their value.
    pub(crate) fn rounded_weights(
        &mut self,
        name: String,
        dims: &[usize],
        values: &[f32],
        bits: u32,
    ) -> String {
        let (mut scales, mut numbers) = (Vec::new(), Vec::new());
        for values in values.chunks(values.len() / dims[0]) {
            let scale = weight_scale(values, bits);
            numbers.extend(values.iter().map(|value| (value / scale).round() as i8 as u8));
            scales.push(scale);
        }
        let part = |part: &str| format!("{name}.{part}");
        let scales = self.weights(part("scale"), &dims[..1], &scales);
        let numbers = self.constant(part("int8"), dims, DataType::Int8, numbers);
        let zeros = self.constant(part("zero"), &dims[..1], DataType::Int8, vec![0; dims[0]]);
        self.add_with("DequantizeLinear", name, &[&numbers, &scales, &zeros], [("axis", 0.into())])
    }

    fn constant(&mut self, name: String, dims: &[usize], kind: DataType, bytes: Vec<u8>) -> String {
        let dims = dims.iter().map(|&dim| dim as i64).collect();
        self.weights.push(Weights { name: name.clone(), dims, kind, bytes });
        name
    }

    /// Declares an input; returns its name.
    pub(crate) fn input(&mut self, name: &str, kind: DataType, dims: &[Option<usize>]) -> String {
        self.inputs.push(Declared::new(name, kind, dims));
        name.to_string()
    }

    /// Declares an output of the value of this name.
    pub(crate) fn output(&mut self, name: &str, kind: DataType, dims: &[Option<usize>]) {
        self.outputs.push(Declared::new(name, kind, dims));
    }

    /// The file of this graph, which says these things about itself.
    pub(crate) fn encode(&self, name: &str, about: &[(&str, String)]) -> Vec<u8> {
        // From opset 19 on files are of version 9, from 21 on of 10, from 23 on of 11.
        let ir_version = [19, 21, 23].iter().filter(|&&opset| self.opset >= opset).count() as i64 + 8;
        let packed = onnx_rs::encode(&ast::Model {
            ir_version,
            opset_import: vec![ast::OperatorSetId { domain: "", version: self.opset }],
            producer_name: "branchynet",
            producer_version: env!("CARGO_PKG_VERSION"),
            graph: Some(self.proto(name)),
            metadata_props: about.iter().map(|(key, value)| ast::StringStringEntry { key, value }).collect(),
            ..Default::default()
        });
        unpacked(&packed, Message::Model)
    }

    fn proto<'a>(&'a self, name: &'a str) -> ast::Graph<'a> {
        ast::Graph {
            name,
            node: self.operations.iter().map(Operation::proto).collect(),
            initializer: self.weights.iter().map(Weights::proto).collect(),
            input: self.inputs.iter().map(Declared::proto).collect(),
            output: self.outputs.iter().map(Declared::proto).collect(),
            ..Default::default()
        }
    }
}

impl Operation {
    fn proto(&self) -> ast::Node<'_> {
        ast::Node {
            name: &self.name,
            op_type: OpType::from(&*self.kind),
            input: self.inputs.iter().map(String::as_str).collect(),
            output: self.outputs.iter().map(String::as_str).collect(),
            attribute: self.attributes.iter().map(|(name, value)| value.proto(name)).collect(),
            ..Default::default()
        }
    }
}

impl Attribute {
    fn proto<'a>(&'a self, name: &'a str) -> ast::Attribute<'a> {
        let of = |kind| ast::Attribute { name, r#type: kind, ..Default::default() };
        match self {
            Self::Int(value) => ast::Attribute { i: *value, ..of(AttributeType::Int) },
            Self::Ints(values) => ast::Attribute { ints: values.clone(), ..of(AttributeType::Ints) },
            Self::Float(value) => ast::Attribute { f: *value, ..of(AttributeType::Float) },
            Self::Floats(values) => ast::Attribute { floats: values.clone(), ..of(AttributeType::Floats) },
            Self::Text(text) => ast::Attribute { s: text, ..of(AttributeType::String) },
            Self::Weights(weights) => {
                ast::Attribute { t: Some(weights.proto()), ..of(AttributeType::Tensor) }
            }
            Self::Graph(named, graph) => {
                ast::Attribute { g: Some(Box::new(graph.proto(named))), ..of(AttributeType::Graph) }
            }
        }
    }
}

impl Weights {
    fn proto(&self) -> ast::TensorProto<'_> {
        ast::TensorProto::from_raw(&self.name, self.dims.clone(), self.kind, &self.bytes)
    }
}

impl Declared {
    fn new(name: &str, kind: DataType, dims: &[Option<usize>]) -> Self {
        let dims = dims.iter().map(|dim| dim.map(|dim| dim as i64)).collect();
        Self { name: name.to_string(), kind, dims }
    }

    fn proto(&self) -> ast::ValueInfo<'_> {
        let dimension = |dim: &Option<i64>| ast::TensorShapeDimension {
            value: dim.map_or(Dimension::Param("batch"), Dimension::Value),
            ..Default::default()
        };
        let shape = Some(ast::TensorShape { dim: self.dims.iter().map(dimension).collect() });
        let tensor = ast::TensorTypeProto { elem_type: self.kind, shape };
        let r#type =
            Some(ast::TypeProto { value: Some(ast::TypeValue::Tensor(tensor)), ..Default::default() });
        ast::ValueInfo { name: &self.name, r#type, ..Default::default() }
    }
}

/// The messages of a file that hold lists of numbers, or messages that do.
#[derive(Debug, Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

/// A message with the numbers of attributes and dimensions one by one, and those of 0 written out, as ONNX declares them. onnx-rs packs
/// them and leaves 0 out, which not every reader takes: rten 0.27 and TVM 0.27 refuse such a file.
fn unpacked(message: &[u8], kind: Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    let (mut of_type, mut has_value) = (0, false);
    while !rest.is_empty() {
        let field = rest;
        let tag = take_varint(&mut rest);
        has_value |= matches!(tag >> 3, 2 | 3);
        // What is neither a varint nor a fixed number has its length in front.
        let len = match tag & 7 {
            0 => {
                let number = take_varint(&mut rest);
                if tag >> 3 == 20 {
                    of_type = number;
                }
                0
            }
            1 => 8,
            5 => 4,
            _ => take_varint(&mut rest),
        };
        let (content, behind) = rest.split_at(len as usize);
        rest = behind;
        let within = match (kind, tag >> 3) {
            (Message::Model, 7) | (Message::Attribute, 6) => Message::Graph,
            (Message::Graph, 1) => Message::Node,
            (Message::Node, 5) => Message::Attribute,
            (Message::Graph, 5) | (Message::Attribute, 5) => Message::Tensor,
            (Message::Attribute, 7) if tag & 7 == 2 => {
                out.extend(content.chunks(4).flat_map(|float| [&[7 << 3 | 5], float].concat()));
                continue;
            }
            (Message::Attribute, 8) | (Message::Tensor, 1) if tag & 7 == 2 => {
                let mut numbers = content;
                while !numbers.is_empty() {
                    put_varint(tag & !7, &mut out);
                    put_varint(take_varint(&mut numbers), &mut out);
                }
                continue;
            }
            _ => {
                out.extend_from_slice(&field[..field.len() - rest.len()]);
                continue;
            }
        };
        let content = unpacked(content, within);
        put_varint(tag, &mut out);
        put_varint(content.len() as u64, &mut out);
        out.extend(content);
    }
    match (kind, of_type) {
        (Message::Attribute, 1) if !has_value => out.extend([2 << 3 | 5, 0, 0, 0, 0]),
        (Message::Attribute, 2) if !has_value => out.extend([3 << 3, 0]),
        _ => {}
    }
    out
}

/// A number of protobuf, seven bits a byte; the bytes behind it stay.
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0).expect("onnx-rs ends its numbers");
    let (number, rest) = bytes.split_at(last + 1);
    *bytes = rest;
    number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
