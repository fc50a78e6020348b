//! Convolution.

use super::*;

/// A convolution with bias and a square kernel: (inputs, height, width) to
/// (outputs, ⌊(height + 2 padding − kernel) / stride⌋ + 1, likewise the width).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Height and width of the kernel, in pixels.
    pub kernel: usize,
    /// Pixels of zeros around the image.
    pub padding: usize,
    /// Pixels from one window to the next.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stride: usize,
    /// The weights before training.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start: Start,
}

/// What a convolution's weights are before training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Normal with variance 1 / fan-in, as Chainer draws them.
    #[default]
    Normal,
    /// The same, but as many of the first outputs as there are inputs pass these on (Dirac).
    Identity,
    /// Fitted to the training images, and never trained: products with patches of their pixels that have
    /// no correlation and variance 1, and their negatives
    /// ([`crate::data::Split::patch_whitening`]). The bias is trained.
    Whitening,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(stride: &usize) -> bool {
    *stride == 1
}

/// A convolution with stride 1: input channels, output channels, kernel size, padding.
pub fn conv(inputs: usize, outputs: usize, kernel: usize, padding: usize) -> Layer {
    Layer::Conv(Conv { inputs, outputs, kernel, padding, stride: 1, start: Start::Normal })
}

impl Operator for Conv {
    fn kind(&self) -> &'static str {
        "conv"
    }

    fn arguments(&self) -> String {
        let Self { inputs, outputs, kernel, padding, stride, .. } = self;
        let stride = if *stride == 1 { String::new() } else { format!(" stride {stride}") };
        format!("({inputs}, {outputs}, {kernel}, {padding}){stride}")
    }

    fn output(&self, input: Shape) -> Fit {
        let [height, width] = input.image_of(self.inputs)?;
        let Self { inputs, outputs, kernel, padding, stride, .. } = *self;
        let g = ConvGeometry::of(inputs, height, width, outputs, kernel, padding, stride)
            .map_err(|cause| unfit("an image that its kernel fits", cause))?;
        Ok(Shape::Image(outputs, g.out_height, g.out_width))
    }

    fn variables(&self, initial: &Initial<'_>) -> Result<Variables> {
        let drawn = initial.draw(&[self.outputs, self.inputs, self.kernel, self.kernel])?;
        if self.start == Start::Identity {
            pass_on(&drawn.0)?;
        }
        Ok(Variables { parameters: Some(drawn), statistics: None })
    }

    fn macs(&self, output: Shape) -> usize {
        self.inputs * self.kernel * self.kernel * output.len()
    }

    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = node.parameters_for(pass);
        Ok(kernels::conv2d(x, &weight, &bias, self.padding, self.stride)?)
    }

    fn train(&self, node: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let x = x.plain()?;
        let out = Activation::Plain(self.forward(node, &x, &mut Pass::Evaluate)?);
        let (weight, _) = node.parameters_for(&Pass::Evaluate);
        let (name, geometry, start) = (node.name.clone(), (self.padding, self.stride), self.start);
        let step = plain_step(move |grad, of_input, gradients| {
            let (x, weight, bias) = kernels::conv2d_backward(&x, &weight, grad, geometry, of_input)?;
            keep(gradients, &name, (start != Start::Whitening).then_some(weight), bias);
            Ok(x)
        });
        Ok((out, step))
    }

    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        let [weight, bias] = values(node.parameters())?;
        Ok(builder.conv(from, [self.kernel, self.padding, self.stride], weight, bias))
    }
}

impl Conv {
    /// What is to lie side by side, given the layers behind it and the images in the batch, and whether a normalisation asks
    /// for moments: channels or images where what follows reads them so, and registers are full. A layer that needs planes
    /// would keep these beside what the convolution gave.
    pub(super) fn suits_pixels(&self, behind: &[Node], batch: usize) -> Option<(Beside, bool)> {
        let layer = |at: usize| behind.get(at).map(|node: &Node| &node.layer);
        let full = self.outputs.is_multiple_of(8);
        let pools = |layer: &Layer| matches!(layer, Layer::Pool(pool) if pool.kind != Pooling::Average);
        let (normalised, read) = match (layer(0), layer(1)) {
            (Some(Layer::BatchNorm(_)), None | Some(Layer::Relu)) => (true, true),
            (None, _) | (Some(Layer::Relu), None | Some(Layer::Conv(_))) => (false, true),
            (Some(Layer::Relu), Some(next)) => {
                (false, pools(next) || (full && matches!(next, Layer::Lrn(_))))
            }
            _ => (false, false),
        };
        // For more channels Winograd's tiles are better.
        let few = self.inputs <= 16 && self.outputs < 32 && self.stride == 1;
        if self.padding >= self.kernel {
            None
        } else if normalised || (read && full) {
            Some((Beside::Channels, normalised))
        } else {
            let images = Beside::images(batch).map(|images| (images, false));
            images.filter(|_| (read || layer(0).is_some_and(pools)) && !full && few)
        }
    }

    /// [`Operator::train`] with pixels.
    pub(super) fn train_pixels(
        &self,
        node: &Node,
        x: Pixels,
        normalised: bool,
    ) -> Result<(Activation, Step)> {
        let (weight, bias) = node.parameters_for(&Pass::Evaluate);
        let (name, geometry, start) = (node.name.clone(), (self.padding, self.stride), self.start);
        let out = Activation::Pixels(x.conv(&weight, &bias, geometry, normalised)?);
        let step: Step = Box::new(move |grad, of_input, gradients| {
            let grads = x.conv_backward(&weight, grad.pixels(&x)?, geometry, of_input)?;
            keep(gradients, &name, (start != Start::Whitening).then_some(grads.weight), grads.bias);
            Ok(grads.x.map(Gradient::Pixels))
        });
        Ok((out, step))
    }

    /// The outputs of one that whitens.
    pub fn whitened(inputs: usize, kernel: usize) -> usize {
        2 * inputs * kernel * kernel
    }

    /// Fits a convolution that whitens to the images that training sees. Fails where it is not the `first` layer or
    /// has another number of outputs than it needs.
    pub(crate) fn fit(&self, node: &Node, first: bool, train: &Split<Train>) -> Result<()> {
        if self.start != Start::Whitening {
            return Ok(());
        }
        let outputs = Self::whitened(self.inputs, self.kernel);
        if !first || self.outputs != outputs {
            bail!(
                Setting,
                "{}: a whitening convolution must be the first layer and have {outputs} outputs",
                node.name
            )
        }
        let (weight, _) = node.parameters();
        let values = train.patch_whitening(self.kernel)?;
        Ok(weight.set(&Tensor::from_vec(values, weight.shape(), weight.device())?)?)
    }
}

/// Lets the first outputs of a convolution with `weight` (outputs, inputs, kernel, kernel) be its inputs.
fn pass_on(weight: &Var) -> Result<()> {
    let (outputs, inputs, kernel, _) = weight.dims4()?;
    let mut values = weight.flatten_all()?.to_vec1::<f32>()?;
    let area = kernel * kernel;
    for channel in 0..inputs.min(outputs) {
        let filter = &mut values[channel * inputs * area..][..inputs * area];
        filter.fill(0.0);
        filter[channel * area + area / 2] = 1.0;
    }
    Ok(weight.set(&Tensor::from_vec(values, weight.shape(), weight.device())?)?)
}
