//! Batch normalisation (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>).

use super::*;

/// Batch normalisation of every channel of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Channels of the image.
    pub channels: usize,
    /// Whether the scale stays 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Whether the scale starts at 0 instead of 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zero: bool,
}

/// Batch normalisation: channels. In training it uses the moments of the batch and updates running
/// statistics with them (decay 0.9 per step, as in Chainer); otherwise it uses the running statistics.
pub fn batch_norm(channels: usize) -> Layer {
    Layer::BatchNorm(BatchNorm { channels, plain: false, zero: false })
}

/// [`batch_norm()`] whose scale stays 1.
pub fn plain_norm(channels: usize) -> Layer {
    Layer::BatchNorm(BatchNorm { channels, plain: true, zero: false })
}

/// The decay of running statistics per training step.
const DECAY: f64 = 0.9;

/// Updates the running statistics with the moments of a batch.
fn update(node: &Node, moments: &Moments) -> Result<()> {
    let (mean, variance) = node.statistics();
    // The variance of which the batch is a sample, as in Chainer and PyTorch.
    let unbiased = moments.count as f64 / (moments.count.max(2) - 1) as f64;
    kernels::update_running(mean, &moments.mean, 1.0, DECAY)?;
    kernels::update_running(variance, &moments.variance, unbiased, DECAY)?;
    Ok(())
}

impl Operator for BatchNorm {
    fn kind(&self) -> &'static str {
        "batch_norm"
    }

    fn arguments(&self) -> String {
        format!("({})", self.channels)
    }

    fn output(&self, input: Shape) -> Fit {
        input.image_of(self.channels).map(|_| input)
    }

    fn variables(&self, initial: &Initial<'_>) -> Result<Variables> {
        let scale = if self.zero { 0.0 } else { 1.0 };
        let filled = |value| initial.filled(self.channels, value);
        let (parameters, statistics) = ((filled(scale)?, filled(0.0)?), (filled(0.0)?, filled(1.0)?));
        Ok(Variables { parameters: Some(parameters), statistics: Some(statistics) })
    }

    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = node.parameters_for(pass);
        if let Pass::Evaluate = pass {
            let (mean, variance) = detached(node.statistics());
            return Ok(kernels::batch_norm_by(x, &weight, &bias, &mean, &variance)?);
        }
        let (out, moments) = kernels::batch_norm(x, &weight, &bias)?;
        update(node, &moments)?;
        Ok(out)
    }

    fn train(&self, node: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let (weight, bias) = detached(node.parameters());
        let (name, plain) = (node.name.clone(), self.plain);
        if let Activation::Pixels(pixels) = &x
            && let Some(moments) = pixels.moments()
        {
            update(node, moments)?;
            let out = pixels.normalised(&weight, &bias)?;
            let read = out.clone();
            let step: Step = Box::new(move |grad, _, gradients| {
                let (x, weight, bias) = read.normalised_backward(grad.pixels(&read)?)?;
                keep(gradients, &name, (!plain).then_some(weight), bias);
                Ok(Some(Gradient::Pixels(x)))
            });
            return Ok((Activation::Pixels(out), step));
        }
        let x = x.plain()?;
        let (out, moments) = kernels::batch_norm(&x, &weight, &bias)?;
        update(node, &moments)?;
        let step = plain_step(move |grad, _, gradients| {
            let (x, weight, bias) = moments.backward(&x, &weight, grad)?;
            keep(gradients, &name, (!plain).then_some(weight), bias);
            Ok(Some(x))
        });
        Ok((Activation::Plain(out), step))
    }

    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        let [weight, bias] = values(node.parameters())?;
        let [mean, variance] = values(node.statistics())?;
        Ok(builder.batch_norm(from, [&weight, &bias], [&mean, &variance]))
    }
}
