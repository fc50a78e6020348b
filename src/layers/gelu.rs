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

    fn train(&self, _: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let x = x.plain()?;
        let out = Activation::Plain(kernels::gelu(&x)?);
        Ok((out, step(move |grad| kernels::gelu_backward(&x, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.gelu(from))
    }
}
