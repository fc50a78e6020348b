//! What layers are as operations of ONNX, of opset 17.

use super::Value;
use super::graph::Graph;
use branchynet::kernels::{EPSILON, Lrn, Pooling, Shortcut};
use branchynet::networks::{Layer, Linear, Node, Pool, Residual, Shape};
use branchynet::{Result, bail};
use candle_core::Var;

/// Adds layers to a graph, the first of which reads `x`; returns the value of the last. Fails, naming it, for a layer that
/// ONNX cannot hold.
pub(super) fn write(nodes: &[Node], x: Value, graph: &mut Graph) -> Result<Value> {
    nodes.iter().try_fold(x, |x, node| Ok((operations(node, &x.0, x.1, graph)?, node.output)))
}

/// Adds the operations of a layer that reads `x`, of this shape; returns their value.
fn operations(node: &Node, x: &str, shape: Shape, graph: &mut Graph) -> Result<String> {
    let part = |part: &str| format!("{}.{part}", node.name);
    Ok(match &node.layer {
        Layer::Conv(conv) => {
            let (weight, bias) = weights(node, graph)?;
            let (strides, pads) = ([conv.stride; 2].into(), [conv.padding; 4].into());
            let attributes =
                [("kernel_shape", [conv.kernel; 2].into()), ("strides", strides), ("pads", pads)];
            graph.add_with("Conv", &node.name, &[x, &weight, &bias], attributes)
        }
        Layer::Linear(layer) => linear(layer, node, x, shape, graph)?,
        Layer::Pool(layer) => pool(layer, node, x, shape, graph),
        Layer::Lrn(layer) => lrn(*layer, node, x, shape, graph),
        Layer::BatchNorm(norm) => {
            let (weight, bias) = weights(node, graph)?;
            let (mean, variance) = node.variables.statistics.as_ref().expect("built with statistics");
            let mean = graph.weights(part("mean"), &[norm.channels], &values(mean)?);
            let variance = graph.weights(part("variance"), &[norm.channels], &values(variance)?);
            let inputs = [x, &weight, &bias, &mean, &variance];
            graph.add_with("BatchNormalization", &node.name, &inputs, [("epsilon", EPSILON.into())])
        }
        Layer::Relu => graph.add("Relu", &node.name, &[x]),
        Layer::Gelu => {
            let number = |graph: &mut Graph, name, value| graph.number(part(name), value);
            let (root, one, half) =
                (number(graph, "root", 0.5f64.sqrt()), number(graph, "one", 1.0), number(graph, "half", 0.5));
            let scaled = graph.add("Mul", part("scaled"), &[x, &root]);
            let erf = graph.add("Erf", part("erf"), &[&scaled]);
            let twice = graph.add("Add", part("twice"), &[&erf, &one]);
            let product = graph.add("Mul", part("product"), &[x, &twice]);
            graph.add("Mul", &node.name, &[&product, &half])
        }
        Layer::Scale(scale) => {
            let factor = graph.number(part("factor"), scale.0.into());
            graph.add("Mul", &node.name, &[x, &factor])
        }
        Layer::Quantize(rounding) => {
            let scale = graph.number(part("scale"), rounding.scale.into());
            let zero = graph.bytes(part("zero"), rounding.zero);
            let number = graph.add("QuantizeLinear", part("number"), &[x, &scale, &zero]);
            graph.add("DequantizeLinear", &node.name, &[&number, &scale, &zero])
        }
        Layer::Dropout(_) => x.to_string(),
        Layer::Residual(block) => residual(block, node, x, shape, graph)?,
        other => bail!(Setting, "{}: {other} cannot be written as ONNX", node.name),
    })
}

/// The values of a variable, flat.
fn values(var: &Var) -> Result<Vec<f32>> {
    Ok(var.flatten_all()?.to_vec1()?)
}

/// Adds a layer's weight and bias; returns their names.
fn weights(node: &Node, graph: &mut Graph) -> Result<(String, String)> {
    let (weight, bias) = node.variables.parameters.as_ref().expect("built with parameters");
    let part = |part: &str| format!("{}.{part}", node.name);
    let (dims, numbers) = (weight.dims(), values(weight)?);
    let weight = match graph.weight_bits {
        Some(bits) if dims.len() > 1 => graph.rounded_weights(part("weight"), dims, &numbers, bits),
        _ => graph.weights(part("weight"), dims, &numbers),
    };
    Ok((weight, graph.weights(part("bias"), bias.dims(), &values(bias)?)))
}

fn linear(linear: &Linear, node: &Node, x: &str, shape: Shape, graph: &mut Graph) -> Result<String> {
    let (weight, bias) = weights(node, graph)?;
    let flat = match shape {
        Shape::Flat(_) => x.to_string(),
        // onnxruntime computes in int8 behind a Reshape, not behind a Flatten.
        Shape::Image(..) if graph.weight_bits.is_some() => {
            let shape = graph.integers(format!("{}.shape", node.name), &[2], &[-1, linear.inputs as i64]);
            graph.add("Reshape", format!("{}.flat", node.name), &[x, &shape])
        }
        Shape::Image(..) => {
            graph.add_with("Flatten", format!("{}.flat", node.name), &[x], [("axis", 1.into())])
        }
    };
    Ok(graph.add_with("Gemm", &node.name, &[&flat, &weight, &bias], [("transB", 1.into())]))
}

fn pool(pool: &Pool, node: &Node, x: &str, shape: Shape, graph: &mut Graph) -> String {
    let [from, to] = [shape, node.output].map(|shape| shape.image().expect("built for images"));
    let hangs = |axis: usize| ((to[axis] - 1) * pool.stride + pool.kernel).saturating_sub(from[axis]);
    let (kind, mut x) =
        (if pool.kind == Pooling::Average { "AveragePool" } else { "MaxPool" }, x.to_string());
    let windows = [("kernel_shape", [pool.kernel; 2].into()), ("strides", [pool.stride; 2].into())];
    if !graph.plain {
        let [kernel, strides] = windows;
        let pads = ("pads", [0, 0, hangs(1), hangs(2)].into());
        return graph.add_with(kind, &node.name, &[&x], [kernel, strides, pads]);
    }
    for (axis, side) in [(1, "row"), (2, "column")] {
        if hangs(axis) > 0 {
            let part = |part: &str| format!("{}.{side}{part}", node.name);
            let mut index = |name: &str, value: usize| graph.integers(part(name), &[1], &[value as i64]);
            let (start, end, along) =
                (index("_start", from[axis] - 1), index("_end", from[axis]), index("_axis", axis + 1));
            let last = graph.add("Slice", part(""), &[&x, &start, &end, &along]);
            let all: Vec<&str> =
                std::iter::once(&*x).chain(std::iter::repeat_n(&*last, hangs(axis))).collect();
            x = graph.add_with("Concat", part("s"), &all, [("axis", (axis + 1).into())]);
        }
    }
    graph.add_with(kind, &node.name, &[&x], windows)
}

fn lrn(lrn: Lrn, node: &Node, x: &str, shape: Shape, graph: &mut Graph) -> String {
    if !graph.plain {
        let attributes = [
            ("size", lrn.n.into()),
            ("alpha", (lrn.alpha * lrn.n as f64).into()),
            ("beta", lrn.beta.into()),
            ("bias", lrn.k.into()),
        ];
        return graph.add_with("LRN", &node.name, &[x], attributes);
    }
    let part = |part: &str| format!("{}.{part}", node.name);
    let [channels, ..] = shape.image().expect("built for images");
    let band =
        |i: usize| if (i / channels).abs_diff(i % channels) <= lrn.n / 2 { lrn.alpha as f32 } else { 0.0 };
    let band: Vec<f32> = (0..channels * channels).map(band).collect();
    let band = graph.weights(part("band"), &[channels, channels, 1, 1], &band);
    let bias = graph.weights(part("bias"), &[channels], &vec![lrn.k as f32; channels]);
    let beta = graph.number(part("beta"), lrn.beta);
    let squares = graph.add("Mul", part("squares"), &[x, x]);
    let sum =
        graph.add_with("Conv", part("sum"), &[&squares, &band, &bias], [("kernel_shape", [1; 2].into())]);
    let power = graph.add("Pow", part("power"), &[&sum, &beta]);
    graph.add("Div", &node.name, &[x, &power])
}

fn residual(block: &Residual, node: &Node, x: &str, shape: Shape, graph: &mut Graph) -> Result<String> {
    let (body, end) = write(&node.inner, (x.to_string(), shape), graph)?;
    let (mut beside, from) = write(&node.beside, (x.to_string(), shape), graph)?;
    let [from, to] = [from, end].map(|shape| shape.image().expect("built for images"));
    if from != to {
        let [stride, front] = Shortcut::new(from, to, block.zeros())?.strides();
        let copied = |i: usize| if i / from[0] == front + i % from[0] { 1.0 } else { 0.0 };
        let copies: Vec<f32> = (0..to[0] * from[0]).map(copied).collect();
        let copies = graph.weights(format!("{}.copies", node.name), &[to[0], from[0], 1, 1], &copies);
        let attributes = [("kernel_shape", [1; 2].into()), ("strides", [stride; 2].into())];
        beside = graph.add_with("Conv", format!("{}.shortcut", node.name), &[&beside, &copies], attributes);
    }
    let sum = graph.add("Add", format!("{}.sum", node.name), &[&body, &beside]);
    Ok(graph.add("Relu", &node.name, &[&sum]))
}
