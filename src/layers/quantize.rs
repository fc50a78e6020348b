//! Rounding of activations to 256 values, as an int8 runtime keeps them.

use super::*;
use crate::kernels::inference::Grid;

/// Rounding of every value to the nearest of 256 that are equally far apart, among them 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantize {
    /// From one value to the next.
    pub scale: f32,
    /// The number of the value 0, from the lowest on.
    pub zero: u8,
}

/// Rounding to 256 values that reach from the lowest to the highest of these and 0.
pub fn quantize(low: f32, high: f32) -> Layer {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
    Layer::Quantize(Quantize { scale, zero: (-low / scale).round_ties_even() as u8 })
}

/// So far from 0 floats are whole numbers: a sum with it is rounded, ties to even.
const WHOLE: f64 = 12_582_912.0;

impl Operator for Quantize {
    fn kind(&self) -> &'static str {
        "quantize"
    }

    fn arguments(&self) -> String {
        format!("({}, {})", self.scale, self.zero)
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        let zero = f64::from(self.zero);
        let number =
            (x.broadcast_div(&Tensor::new(self.scale, x.device())?)?.clamp(-zero, 255.0 - zero)? + WHOLE)?;
        Ok(((number - WHOLE)? * f64::from(self.scale))?)
    }

    /// The gradient passes as if nothing were rounded (Bengio et al. 2013, <https://arxiv.org/abs/1308.3432>).
    fn train(&self, node: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let out = self.forward(node, &x.plain()?, &mut Pass::Evaluate)?;
        Ok((Activation::Plain(out), step(|grad| Ok(grad.clone()))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.quantize(from, Grid { scale: self.scale, zero: self.zero }))
    }
}
