//! Gaussian error linear unit (<https://arxiv.org/abs/1606.08415>).

use super::*;

/// Gaussian error linear unit, x · Φ(x), of every value.
pub fn gelu() -> Layer {
    Layer::Gelu
}

pub(super) struct Gelu;

impl Operator for Gelu {
    fn kind(&self) -> &'static str {
        "gelu"
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::gelu(x)?)
    }

    fn train(&self, _: &Node, x: Input, _: &mut Rng) -> Result<(Tensor, Step)> {
        let out = kernels::gelu(&x)?;
        Ok((out, step(move |grad| kernels::gelu_backward(&x, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.gelu(from))
    }

    /// As x/2 · (1 + erf(x/√2)): ONNX has it as one operation from opset 20 on, which fewer runtimes know.
    fn onnx(&self, node: &Node, (x, _): (&str, Shape), graph: &mut Graph) -> Result<String> {
        let part = |part: &str| format!("{}.{part}", node.name);
        let number = |graph: &mut Graph, name, value| graph.number(part(name), value);
        let (root, one, half) =
            (number(graph, "root", 0.5f64.sqrt()), number(graph, "one", 1.0), number(graph, "half", 0.5));
        let scaled = graph.add("Mul", part("scaled"), &[x, &root]);
        let erf = graph.add("Erf", part("erf"), &[&scaled]);
        let twice = graph.add("Add", part("twice"), &[&erf, &one]);
        let product = graph.add("Mul", part("product"), &[x, &twice]);
        Ok(graph.add("Mul", &node.name, &[&product, &half]))
    }
}
