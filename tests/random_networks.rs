//! Networks drawn at random: what computes them in other ways agrees with their layers, one after another.
//!
//! `NETWORKS=1000 SEED=7 cargo test --test random_networks` draws so many, from that seed on.

mod common;

use branchynet::kernels::Zeros;
use branchynet::networks::{
    Layer, Skip, average_pool, batch_norm, branch, conv, gelu, linear, lrn, max_pool, max_pool_inside, relu,
    residual, scale,
};
use branchynet::{Network, Result, Rng};
use candle_core::{Device, Tensor};
use common::{apart, compare_plans};
use rand::{Rng as _, SeedableRng};

/// Sums that cancel, as behind several normalisations, round worse than in networks that somebody would train. A mistake
/// takes gradients apart by a thousand times as much and more.
const ROUNDING: f32 = 50.0;

/// Channels, height, width.
type Image = [usize; 3];

fn size(image: Image) -> usize {
    image.iter().product()
}

/// Layers one after another, and the image that the last of them gives.
struct Draw {
    rng: Rng,
    image: Image,
    layers: Vec<Layer>,
}

impl Draw {
    fn one_of(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    fn push(&mut self, layer: Layer, image: Image) {
        self.layers.push(layer);
        self.image = image;
    }

    /// Channels that fill no register, or exactly one or two.
    fn channels(&mut self) -> usize {
        match self.one_of(3) {
            0 => [8, 16, 32][self.one_of(3)],
            _ => 1 + self.one_of(36),
        }
    }

    fn conv(&mut self, outputs: usize, stride: usize) -> Result<()> {
        let [inputs, height, width] = self.image;
        let padding = self.one_of(3);
        let kernel = 1 + self.one_of(5.min(height + 2 * padding).min(width + 2 * padding));
        let size = |length: usize| (length + 2 * padding - kernel) / stride + 1;
        let layer = conv(inputs, outputs, kernel, padding);
        let layer = if stride == 1 { layer } else { layer.stride(stride)? };
        self.push(layer, [outputs, size(height), size(width)]);
        Ok(())
    }

    fn pool(&mut self) {
        let [channels, height, width] = self.image;
        let kernel = 1 + self.one_of(4.min(height).min(width));
        let stride = 1 + self.one_of(3);
        let inside = |length: usize| (length - kernel) / stride + 1;
        let whole = |length: usize| {
            let windows = (length - kernel).div_ceil(stride) + 1;
            if (windows - 1) * stride >= length { windows - 1 } else { windows }
        };
        match self.one_of(3) {
            0 => self.push(max_pool(kernel, stride), [channels, whole(height), whole(width)]),
            1 => self.push(max_pool_inside(kernel, stride), [channels, inside(height), inside(width)]),
            _ => self.push(average_pool(kernel, stride), [channels, inside(height), inside(width)]),
        }
    }

    /// A block whose layers keep the size, or halve it and add channels.
    fn block(&mut self) -> Result<()> {
        let [channels, height, width] = self.image;
        let smaller = self.one_of(3) == 0;
        let outputs = if smaller { channels + self.one_of(9) } else { channels };
        let mut body = vec![match smaller {
            true => conv(channels, outputs, 3, 1).stride(2)?,
            false => [conv(channels, outputs, 3, 1), conv(channels, outputs, 1, 0), batch_norm(channels)]
                [self.one_of(3)]
            .clone(),
        }];
        for _ in 0..self.one_of(4) {
            body.push(match self.one_of(4) {
                0 => batch_norm(outputs),
                1 => relu(),
                2 => conv(outputs, outputs, 3, 1),
                _ => gelu(),
            });
        }
        let block = residual(body);
        let projected = match smaller {
            true => conv(channels, outputs, 1, 0).stride(2)?,
            false => conv(channels, outputs, 1, 0),
        };
        let block = match self.one_of(4) {
            0 => block.skip(Skip::Zeros(Zeros::Around))?,
            1 => block.skip(Skip::Zeros(Zeros::Behind))?,
            2 => block.skip(Skip::Layers(vec![projected]))?,
            _ => block,
        };
        let half = |length: usize| if smaller { length.div_ceil(2) } else { length };
        self.push(block, [outputs, half(height), half(width)]);
        Ok(())
    }

    fn layer(&mut self) -> Result<()> {
        let image = self.image;
        match self.one_of(12) {
            0..=3 => {
                let (outputs, stride) = (self.channels(), 1 + usize::from(self.one_of(4) == 0));
                self.conv(outputs, stride)?;
            }
            4 => self.pool(),
            5 => self.block()?,
            6 => self.push(batch_norm(image[0]), image),
            7 | 8 => self.push(relu(), image),
            9 => self.push(gelu(), image),
            10 => self.push(lrn(), image),
            _ => self.push(scale(0.5), image),
        }
        Ok(())
    }

    /// Layers to logits of three classes.
    fn part(&mut self, image: Image, most: usize) -> Result<Vec<Layer>> {
        let outside = (std::mem::take(&mut self.layers), self.image);
        self.image = image;
        for _ in 0..self.one_of(most) {
            self.layer()?;
        }
        self.push(linear(size(self.image), 3), [3, 1, 1]);
        let part = std::mem::replace(&mut self.layers, outside.0);
        self.image = outside.1;
        Ok(part)
    }
}

/// A network's layers, and images for it.
fn draw(seed: u64) -> Result<(Vec<Layer>, Tensor)> {
    let rng = Rng::seed_from_u64(seed);
    let mut draw = Draw { rng, image: [0; 3], layers: Vec::new() };
    let image = [1 + draw.one_of(5), 3 + draw.one_of(12), 3 + draw.one_of(12)];
    draw.image = image;
    for _ in 0..1 + draw.one_of(8) {
        draw.layer()?;
        if draw.one_of(5) == 0 {
            let (part, here) = (draw.part(draw.image, 4)?, draw.image);
            draw.push(branch(part), here);
        }
    }
    let end = draw.part(draw.image, 3)?;
    draw.layers.extend(end);
    let batch = [7, 8, 9, 16, 20][draw.one_of(5)];
    let values: Vec<f32> = (0..batch * size(image)).map(|_| draw.rng.random_range(-1.0..1.0)).collect();
    let images = Tensor::from_vec(values, (batch, image[0], image[1], image[2]), &Device::Cpu)?;
    Ok((draw.layers, images))
}

#[test]
fn plans_and_tapes_agree_with_the_layers() -> Result<()> {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |number| number.parse().expect("a whole number"))
    };
    let (first, count) = (number("SEED", 0), number("NETWORKS", 100));
    for seed in first..first + count {
        let (layers, images) = draw(seed)?;
        let [batch, image @ ..] = <[usize; 4]>::try_from(images.dims()).expect("four sizes");
        println!(
            "SEED={seed} NETWORKS=1, {batch} of {image:?}: {}",
            serde_json::to_string(&layers).expect("JSON")
        );
        let network = Network::new("random", image, layers, seed, &Device::Cpu)?;
        // With biases of 0, as they start, sums over zeros lie on a rectifier's corner.
        for (name, bias) in network.parameters().iter().filter(|(name, _)| name.ends_with("bias")) {
            let numbers = (0..bias.elem_count()).map(|i| 0.1 * (1.3 * i as f32 + name.len() as f32).sin());
            bias.set(&Tensor::from_iter(numbers, &Device::Cpu)?.reshape(bias.shape())?)?;
        }
        // Where a value lies on such a corner to within rounding, with other images none does.
        let mut told = (f32::INFINITY, String::new());
        for times in [1.0, 0.9, 1.1] {
            if told.0 >= ROUNDING {
                told = apart(&network, &(&images * times)?)?;
            }
        }
        assert!(told.0 < ROUNDING, "{told:?}");
        compare_plans(&network, &images)?;
    }
    Ok(())
}
