//! Multiplication by a number.

use super::*;

/// Multiplication of every value by this factor, which is not trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale(pub f32);

/// Multiplication by `factor`.
pub fn scale(factor: f32) -> Layer {
    Layer::Scale(Scale(factor))
}

impl Operator for Scale {
    fn kind(&self) -> &'static str {
        "scale"
    }

    fn arguments(&self) -> String {
        format!("({})", self.0)
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok((x * f64::from(self.0))?)
    }

    fn train(&self, _: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let factor = f64::from(self.0);
        Ok((Activation::Plain((x.plain()? * factor)?), step(move |grad| grad * factor)))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.scale(from, self.0))
    }
}
