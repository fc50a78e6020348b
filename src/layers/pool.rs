//! Pooling.

use super::*;

/// Pooling of each channel over square windows: (channels, height, width) to (channels, windows, windows); how many
/// windows there are says [`Pooling`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What a window gives.
    pub kind: Pooling,
    /// Height and width of a window, in pixels.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
}

/// Max pooling whose windows may hang over the edge: window size, stride.
pub fn max_pool(kernel: usize, stride: usize) -> Layer {
    Layer::Pool(Pool { kind: Pooling::Max, kernel, stride })
}

/// Max pooling whose windows stay inside the image: window size, stride.
pub fn max_pool_inside(kernel: usize, stride: usize) -> Layer {
    Layer::Pool(Pool { kind: Pooling::MaxInside, kernel, stride })
}

/// Average pooling whose windows stay inside the image: window size, stride.
pub fn average_pool(kernel: usize, stride: usize) -> Layer {
    Layer::Pool(Pool { kind: Pooling::Average, kernel, stride })
}

impl Pool {
    /// Its windows over an image of this size.
    fn windows(&self, height: usize, width: usize) -> candle_core::Result<kernels::Pool> {
        kernels::Pool::new(self.kind, height, width, self.kernel, self.stride)
    }
}

impl Operator for Pool {
    fn kind(&self) -> &'static str {
        match self.kind {
            Pooling::Max | Pooling::MaxInside => "max_pool",
            Pooling::Average => "average_pool",
        }
    }

    fn arguments(&self) -> String {
        format!("({}, {})", self.kernel, self.stride)
    }

    fn output(&self, input: Shape) -> Fit {
        let [channels, height, width] = input.image()?;
        let pool = self.windows(height, width);
        let pool = pool.map_err(|cause| unfit("an image that its window fits", cause))?;
        Ok(Shape::Image(channels, pool.out_height, pool.out_width))
    }

    fn forward(&self, _: &Node, x: &Tensor, _: &mut Pass<'_>) -> Result<Tensor> {
        Ok(kernels::pool2d(x, self.kind, self.kernel, self.stride)?)
    }

    fn train(&self, node: &Node, x: Activation, _: &mut Rng) -> Result<(Activation, Step)> {
        if let (Activation::Pixels(x), Pooling::Max | Pooling::MaxInside) = (&x, self.kind) {
            let (x, [_, height, width]) = (x.clone(), x.shape()?);
            let pool = self.windows(height, width)?;
            let out = x.max_pool(&pool)?;
            let kept = out.clone();
            let step = pixel_step(x, move |x, grad| x.max_pool_backward(&pool, &kept, grad));
            return Ok((Activation::Pixels(out), step));
        }
        let x = x.plain()?;
        let out = Activation::Plain(self.forward(node, &x, &mut Pass::Evaluate)?);
        let (_, _, height, width) = x.dims4()?;
        let pool = self.windows(height, width)?;
        Ok((out, step(move |grad| pool.backward(&x, grad))))
    }

    fn place(&self, _: &Node, from: View, builder: &mut StepBuilder) -> Result<View> {
        Ok(builder.pool(from, self.kind, self.kernel, self.stride)?)
    }
}
