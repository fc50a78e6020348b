//! Local response normalisation.

use super::*;

/// Local response normalisation of an image, across channels, with the constants of the authors' AlexNet (Krizhevsky
/// et al. 2012, section 3.3).
pub fn lrn() -> Layer {
    Layer::Lrn(Lrn::default())
}

impl Operator for Lrn {
    fn kind(&self) -> &'static str {
        "lrn"
    }

    fn output(&self, input: Shape) -> Fit {
        input.image().map(|_| input)
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::lrn(x, *self)?)
    }

    fn train(&self, _: &Node, x: Input, _: &mut Rng) -> Result<(Tensor, Step)> {
        let (out, constants) = (kernels::lrn(&x, *self)?, *self);
        Ok((out, step(move |grad| constants.backward(&x, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.lrn(from, *self))
    }

    /// ONNX divides alpha by the number of channels. Plain: the sum is a convolution of 1×1 with a band of alpha and a bias
    /// of k; the result differs by rounding.
    fn onnx(&self, node: &Node, (x, shape): (&str, Shape), graph: &mut Graph) -> Result<String> {
        if !graph.plain {
            let (size, alpha) = (self.n, self.alpha * self.n as f64);
            let attributes = [
                ("size", size.into()),
                ("alpha", alpha.into()),
                ("beta", self.beta.into()),
                ("bias", self.k.into()),
            ];
            return Ok(graph.add_with("LRN", &node.name, &[x], attributes));
        }
        let part = |part: &str| format!("{}.{part}", node.name);
        let [channels, ..] = shape.image().expect("built for images");
        let band = |i: usize| {
            if (i / channels).abs_diff(i % channels) <= self.n / 2 { self.alpha as f32 } else { 0.0 }
        };
        let band: Vec<f32> = (0..channels * channels).map(band).collect();
        let band = graph.weights(part("band"), &[channels, channels, 1, 1], &band);
        let bias = graph.weights(part("bias"), &[channels], &vec![self.k as f32; channels]);
        let beta = graph.number(part("beta"), self.beta);
        let squares = graph.add("Mul", part("squares"), &[x, x]);
        let sum =
            graph.add_with("Conv", part("sum"), &[&squares, &band, &bias], [("kernel_shape", [1; 2].into())]);
        let power = graph.add("Pow", part("power"), &[&sum, &beta]);
        Ok(graph.add("Div", &node.name, &[x, &power]))
    }
}
