//! A split on a GPU: its bytes are sent there once, and batches are put together, shifted, flipped and
//! preprocessed there. Two numbers per sample are all that has to be sent for a batch.

use super::preprocess::Pixels;
use crate::Result;
use crate::kernels::{Number, Op, Operation, Precision, Thread};
use candle_core::{Device, Shape, Tensor};

/// A split's images and what turns them into what the network sees.
#[derive(Debug)]
pub(super) struct Resident {
    device: Device,
    image: [usize; 3],
    /// u8.
    bytes: Tensor,
    /// (channels, 256): what every byte becomes.
    table: Tensor,
    /// Mean image (1, pixels) and whitening matrix (pixels, pixels).
    whitening: Option<(Tensor, Tensor)>,
}

impl Resident {
    pub(super) fn new(images: &[u8], image: [usize; 3], pixels: &Pixels, device: &Device) -> Result<Self> {
        let whitening = match &pixels.whitening {
            Some((mean, matrix)) => Some((mean.to_device(device)?, matrix.to_device(device)?)),
            None => None,
        };
        Ok(Self {
            device: device.clone(),
            image,
            bytes: Tensor::from_slice(images, images.len(), device)?,
            table: Tensor::from_vec(pixels.table.concat(), (image[0], 256), device)?,
            whitening,
        })
    }

    pub(super) fn is_on(&self, device: &Device) -> bool {
        self.device.same_device(device)
    }

    /// The images of `samples`: f32 (samples, channels, height, width). Two numbers per sample: which it
    /// is, and [`super::split::Alteration::code`].
    pub(super) fn batch(&self, samples: Vec<u32>) -> Result<Tensor> {
        let samples = Tensor::from_vec(samples, ((), 2), &self.device)?;
        let op = Op(Images { image: self.image });
        let images = self.table.apply_op3_no_bwd(&self.bytes, &samples, &op)?;
        let Some((mean, matrix)) = &self.whitening else {
            return Ok(images);
        };
        // The matrix stretches what varies little by far: it is applied to whole f32, whatever the
        // network's products are computed in.
        let precision = Precision::F32.scope();
        let white = images.flatten_from(1)?.broadcast_sub(mean)?.matmul(matrix)?;
        drop(precision);
        let (min, max) = (white.min_keepdim(1)?, white.max_keepdim(1)?);
        let range = (max - &min)?.maximum(f64::from(f32::MIN_POSITIVE))?;
        let scaled = white.broadcast_sub(&min)?.broadcast_div(&range)?;
        Ok(scaled.reshape(images.shape())?)
    }
}

struct Images {
    image: [usize; 3],
}

impl Operation<3> for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    fn shape(&self, [_, _, samples]: [&Shape; 3]) -> candle_core::Result<Shape> {
        let [channels, height, width] = self.image;
        Ok(Shape::from((samples.dims()[0], channels, height, width)))
    }

    fn kernel(&self, _: &Shape) -> candle_core::Result<(Thread, Vec<Number>)> {
        let [channels, height, width] = self.image;
        Ok((Thread::Result, [channels, height, width, super::SHIFT].map(Number::from).to_vec()))
    }
}
