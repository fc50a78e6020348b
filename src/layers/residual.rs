//! Residual block (He et al. 2016, <https://arxiv.org/abs/1512.03385>).

use super::*;

/// A residual block: the rectified sum of what these layers give and the block's input. As JSON it is its layers alone where
/// its skip is the default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Residual {
    /// From its input to what is added to it.
    pub layers: Vec<Layer>,
    /// How the input comes in again.
    pub skip: Skip,
}

/// How the input of a residual block comes in again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    /// As it is; where the layers give a smaller image or more channels, subsampled and with channels of zeros (He et al.'s
    /// option A, [`crate::kernels::add_shortcut`]).
    Zeros(Zeros),
    /// Through layers of its own (option B: a convolution of 1×1 with a stride, and batch normalisation).
    Layers(Vec<Layer>),
}

impl Default for Skip {
    fn default() -> Self {
        Self::Zeros(Zeros::Front)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Plain(Vec<Layer>),
    Full { layers: Vec<Layer>, skip: Skip },
}

impl From<Written> for Residual {
    fn from(written: Written) -> Self {
        match written {
            Written::Plain(layers) => Self { layers, skip: Skip::default() },
            Written::Full { layers, skip } => Self { layers, skip },
        }
    }
}

impl From<Residual> for Written {
    fn from(Residual { layers, skip }: Residual) -> Self {
        match skip == Skip::default() {
            true => Self::Plain(layers),
            false => Self::Full { layers, skip },
        }
    }
}

/// A residual block: `max(layers(x) + x, 0)`. Where the layers give a smaller image or more channels,
/// x is subsampled and padded with channels of zeros in front; [`Layer::skip`] has other ways.
pub fn residual(layers: impl Into<Vec<Layer>>) -> Layer {
    Layer::Residual(Residual { layers: layers.into(), skip: Skip::default() })
}

impl Residual {
    /// The block with these layers, and these for its skip where that has layers.
    pub(crate) fn of(&self, layers: Vec<Layer>, beside: Vec<Layer>) -> Layer {
        let skip = match self.skip {
            Skip::Layers(_) => Skip::Layers(beside),
            Skip::Zeros(zeros) => Skip::Zeros(zeros),
        };
        Layer::Residual(Self { layers, skip })
    }

    /// Where zeros go that are lacking; with layers of its own none are.
    pub fn zeros(&self) -> Zeros {
        match self.skip {
            Skip::Zeros(zeros) => zeros,
            Skip::Layers(_) => Zeros::default(),
        }
    }
}

impl Operator for Residual {
    fn kind(&self) -> &'static str {
        "residual"
    }

    fn arguments(&self) -> String {
        " block".to_string()
    }

    fn inner(&self) -> &[Layer] {
        &self.layers
    }

    fn beside(&self) -> &[Layer] {
        match &self.skip {
            Skip::Layers(layers) => layers,
            Skip::Zeros(_) => &[],
        }
    }

    fn output(&self, input: Shape) -> Fit {
        if self.layers.iter().chain(self.beside()).any(|layer| matches!(layer, Layer::Residual(_))) {
            return Err("no residual block inside it".to_string());
        }
        let through = |layers: &[Layer]| layers.iter().try_fold(input, |shape, layer| layer.output(shape));
        let (end, beside) = (through(&self.layers)?, through(self.beside())?);
        let image = end.image().map_err(|_| format!("its layers to give an image, not {end}"))?;
        if beside != end && matches!(self.skip, Skip::Layers(_)) {
            return Err(format!("its skip to give {end} as its layers do, not {beside}"));
        }
        Shortcut::new(beside.image()?, image, self.zeros())
            .map_err(|cause| unfit("its layers to give an image that its input can be added to", cause))?;
        Ok(end)
    }

    fn forward(&self, node: &Node, x: &Tensor, pass: &mut Pass<'_>) -> Result<Tensor> {
        let (body, x) = (run(&node.inner, x, pass)?, run(&node.beside, x, pass)?);
        Ok(Shortcut::between(&x, &body, self.zeros())?.add(&body, &x)?)
    }

    fn train(&self, node: &Node, x: Activation, rng: &mut Rng) -> Result<(Activation, Step)> {
        let (body, steps) = train(&node.inner, x.clone(), rng)?;
        let (x, beside) = train(&node.beside, x, rng)?;
        // What goes back through both, given the gradients of what is added.
        let both = |(of_body, of_x): (Gradient, Gradient), of_input, gradients: &mut Gradients| {
            let of_x = backward(beside, of_x, of_input, gradients)?;
            let through = backward(steps, of_body, of_input, gradients)?;
            Ok(match (of_x, through) {
                (Some(of_x), Some(through)) => Some(of_x.add(through)?),
                (of_x, through) => of_x.or(through),
            })
        };
        if let Activation::Pixels(body) = body {
            let shortcut = Shortcut::new(x.image()?, body.shape()?, self.zeros())?;
            let beside = if shortcut.is_identity() { body.beside() } else { Beside::Channels };
            let (body, x) = (body.arranged(beside)?, x.pixels(beside)?);
            let out = shortcut.add_pixels(&body, &x)?;
            let kept = out.clone();
            let step: Step = Box::new(move |grad, of_input, gradients| {
                let (of_body, of_x) = shortcut.backward_pixels(&body, &x, &kept, grad.pixels(&kept)?)?;
                both((Gradient::Pixels(of_body), Gradient::Pixels(of_x)), of_input, gradients)
            });
            return Ok((Activation::Pixels(out), step));
        }
        let (body, x) = (body.plain()?, x.plain()?);
        let shortcut = Shortcut::between(&x, &body, self.zeros())?;
        let out = shortcut.add(&body, &x)?;
        let kept = out.clone();
        let step: Step = Box::new(move |grad, of_input, gradients| {
            let (of_body, of_x) = shortcut.backward(&kept, &grad.plain()?)?;
            both((Gradient::Plain(of_body), Gradient::Plain(of_x)), of_input, gradients)
        });
        Ok((Activation::Plain(out), step))
    }

    fn place(&self, node: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        // The input is read again at the end.
        builder.keep();
        let beside = place(&node.beside, from, builder)?;
        builder.keep();
        let end = place(&node.inner, from, builder)?;
        Ok(builder.shortcut(end, beside, self.zeros())?)
    }
}
