//! Dropout.

use super::*;

/// In training every value is lost with this probability, and the others grow so that their mean stays; otherwise
/// nothing happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropout(pub f32);

/// Dropout with probability `p` of losing an element.
pub fn dropout(p: f32) -> Layer {
    Layer::Dropout(Dropout(p))
}

impl Operator for Dropout {
    fn kind(&self) -> &'static str {
        "dropout"
    }

    fn arguments(&self) -> String {
        format!("({})", self.0)
    }

    fn output(&self, input: Shape) -> Fit {
        match (0.0..1.0).contains(&self.0) {
            true => Ok(input),
            false => Err("a probability of at least 0 and below 1".to_string()),
        }
    }

    fn forward(&self, _: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        Ok(match pass {
            Pass::Train(rng) => kernels::dropout(x, self.0, rng)?,
            Pass::Evaluate => x.clone(),
        })
    }

    fn train(&self, _: &Node, x: Activation, rng: &mut Rng) -> Result<(Activation, Step)> {
        let x = x.plain()?;
        let mask = kernels::dropout_mask(&x, self.0, rng)?;
        Ok((Activation::Plain((x * &mask)?), step(move |grad| grad * mask)))
    }

    fn place(&self, _: &Node, from: View, _: &mut StepBuilder) -> Result<View> {
        Ok(from)
    }
}
