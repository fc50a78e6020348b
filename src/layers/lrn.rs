//! Local response normalisation.

use super::*;

/// Local response normalisation of an image, across channels, with the constants of the authors' AlexNet (Krizhevsky
/// et al. 2012, section 3.3).
pub fn lrn() -> Layer {
    Layer::Lrn(Lrn::default())
}

impl Operator for Lrn {
    fn kind(&self) -> &'static str {
        "lrn"
    }

    fn output(&self, input: Shape) -> Fit {
        self.check().map_err(|cause| unfit("an odd n and a k above 0", cause))?;
        input.image().map(|_| input)
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::lrn(x, *self)?)
    }

    fn train(&self, _: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        let constants = *self;
        if let Activation::Pixels(x) = &x
            && x.beside() == Beside::Channels
        {
            let (x, out) = (x.clone(), Activation::Pixels(x.lrn(self)?));
            return Ok((out, pixel_step(x, move |x, grad| x.lrn_backward(&constants, grad))));
        }
        let x = x.plain()?;
        let out = Activation::Plain(kernels::lrn(&x, constants)?);
        Ok((out, step(move |grad| constants.backward(&x, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.lrn(from, *self))
    }
}
