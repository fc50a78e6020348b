//! Rectifier.

use super::*;

/// Rectifier, max(x, 0), of every value.
pub fn relu() -> Layer {
    Layer::Relu
}

pub(super) struct Relu;

impl Operator for Relu {
    fn kind(&self) -> &'static str {
        "relu"
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::relu(x)?)
    }

    fn train(&self, _: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        if let Activation::Pixels(x) = x {
            let out = Activation::Pixels(x.rectified());
            let step = pixel_step(x, Pixels::rectified_backward);
            return Ok((out, step));
        }
        let out = kernels::relu(&x.plain()?)?;
        // The output says as much as the input, which then need not be kept.
        let kept = out.clone();
        Ok((Activation::Plain(out), step(move |grad| kernels::relu_backward(&kept, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.relu(from))
    }
}
