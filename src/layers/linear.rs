//! Fully connected layer.

use super::*;

/// A fully connected layer with bias: a vector, or an image that is flattened, to a vector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Values of the input: channels × height × width of an image.
    pub inputs: usize,
    /// Values of the output.
    pub outputs: usize,
}

/// A fully connected layer: input size (channels × height × width of an image), output size.
pub fn linear(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { inputs, outputs })
}

impl Operator for Linear {
    fn kind(&self) -> &'static str {
        "linear"
    }

    fn arguments(&self) -> String {
        format!("({}, {})", self.inputs, self.outputs)
    }

    fn output(&self, input: Shape) -> Fit {
        match input.len() == self.inputs {
            true => Ok(Shape::Flat(self.outputs)),
            false => Err(format!("{} values", self.inputs)),
        }
    }

    fn variables(&self, initial: &Initial<'_>) -> Result<Variables> {
        let parameters = Some(initial.draw(&[self.outputs, self.inputs])?);
        Ok(Variables { parameters, statistics: None })
    }

    fn macs(&self, _: Shape) -> usize {
        self.inputs * self.outputs
    }

    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = node.parameters_for(pass);
        Ok(kernels::linear(&x.flatten_from(1)?, &weight, &bias)?)
    }

    fn train(&self, node: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let x = x.plain()?;
        let out = Activation::Plain(self.forward(node, &x, &mut Pass::Evaluate)?);
        let (weight, _) = node.parameters_for(&Pass::Evaluate);
        let name = node.name.clone();
        let step = plain_step(move |grad, _, gradients| {
            let (flat, weight, bias) = kernels::linear_backward(&x.flatten_from(1)?, &weight, grad)?;
            keep(gradients, &name, Some(weight), bias);
            Ok(Some(flat.reshape(x.shape())?))
        });
        Ok((out, step))
    }

    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        let [weight, bias] = values(node.parameters())?;
        Ok(builder.linear(from, weight, bias))
    }
}
