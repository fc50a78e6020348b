//! Residual block (He et al. 2016, <https://arxiv.org/abs/1512.03385>).

use super::*;

/// A residual block: the rectified sum of what these layers give and the block's input
/// ([`crate::kernels::add_shortcut`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Residual(pub Vec<Layer>);

/// A residual block: `max(layers(x) + x, 0)`. Where the layers give a smaller image or more channels,
/// x is subsampled and padded with channels of zeros.
pub fn residual(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Residual(Residual(layers.into()))
}

impl Operator for Residual {
    fn kind(&self) -> &'static str {
        "residual"
    }

    fn arguments(&self) -> String {
        " block".to_string()
    }

    fn inner(&self) -> &[Layer] {
        &self.0
    }

    fn output(&self, input: Shape, inner: &[Node]) -> Fit {
        if inner.iter().any(|node| !node.inner.is_empty()) {
            return Err("no residual block inside it".to_string());
        }
        let end = inner.last().map_or(input, |node| node.output);
        let image = end.image().map_err(|_| format!("its layers to give an image, not {end}"))?;
        Shortcut::new(input.image()?, image)
            .map_err(|cause| unfit("its layers to give an image that its input can be added to", cause))?;
        Ok(end)
    }

    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::add_shortcut(&run(&node.inner, x, pass)?, x)?)
    }

    fn train(&self, node: &Node, x: Tensor, rng: &mut Rng) -> Result<(Tensor, Step)> {
        let (body, steps) = train(&node.inner, &x, rng)?;
        let shortcut = Shortcut::between(&x, &body)?;
        let out = kernels::add_shortcut(&body, &x)?;
        let kept = out.clone();
        let step: Step = Box::new(move |grad, _, gradients| {
            let (of_body, of_input) = shortcut.backward(&kept, grad)?;
            Ok(match backward(steps, &of_body, true, gradients)? {
                Some(through) => Some(kernels::add(&of_input, &through)?),
                None => Some(of_input),
            })
        });
        Ok((out, step))
    }

    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        // The input is read again at the end.
        builder.keep();
        let end = place(&node.inner, from, builder)?;
        Ok(builder.shortcut(end, from)?)
    }
}
