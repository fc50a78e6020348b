//! Branches described in a word, for experiments on where they leave and how much they compute.

use super::airbench;
use super::network::Network;
use crate::kernels::{Pool, Pooling};
use crate::layers::{
    Conv, Layer, Shape, average_pool, batch_norm, branch, conv, linear, lrn, max_pool, relu, without_branches,
};
use crate::{Error, Result, bail, error};
use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// Where a branch leaves the trunk, and how much it computes there; what it is made of says a [`BranchStyle`]. As text
/// `conv2:2x32`: behind the trunk's second convolution, two convolutions of 32 channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The trunk's layer behind which it leaves, as [`Network::summary`] names it: `conv2`.
    pub after: String,
    /// How many convolutions of 3×3.
    pub convolutions: usize,
    /// Their output channels.
    pub width: usize,
}

/// What branches are made of that a [`Placement`] describes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BranchStyle {
    /// As in the authors' AlexNet: rectifier, pool, normalisation, convolutions, pool, and one linear layer; behind a
    /// vector rectifier and linear layer alone.
    #[default]
    AlexNet,
    /// As in [`super::b_airbench`]: convolutions with pools between them, batch normalisation and
    /// Gaussian error linear units.
    Airbench,
    /// Slim ones for residual networks: convolutions with stride 2, each with batch normalisation and rectifier, the
    /// mean of the image, and one linear layer.
    Strided,
}

impl FromStr for Placement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(after, rest)| Some((after, rest.split_once('x')?)));
        if let Some((after, (convolutions, width))) = parts
            && let (Ok(convolutions), Ok(width)) = (convolutions.parse::<usize>(), width.parse::<usize>())
            && (width > 0 || convolutions == 0)
        {
            return Ok(Self { after: after.to_string(), convolutions, width });
        }
        bail!(Setting, "{text:?} is no branch: expected LAYER:CONVOLUTIONSxCHANNELS, as in conv2:2x32")
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}x{}", self.after, self.convolutions, self.width)
    }
}

/// The trunk of `layers`, for images of `input` (channels, height, width), with these branches instead of
/// its own, all in one style.
///
/// ```
/// use branchynet::networks::{BranchStyle, Placement, b_airbench, b_alexnet, with_branches};
///
/// let (image, alexnet, airbench) = ([3, 32, 32], b_alexnet(), b_airbench([64, 256, 256]));
/// let branches: Vec<Placement> = vec!["conv2:2x32".parse()?, "conv3:1x32".parse()?];
/// assert_eq!(with_branches(&alexnet, image, &branches, BranchStyle::AlexNet)?, alexnet);
/// let branches: Vec<Placement> = vec!["gelu3:4x96".parse()?];
/// assert_eq!(with_branches(&airbench, image, &branches, BranchStyle::Airbench)?, airbench);
/// # Ok::<(), branchynet::Error>(())
/// ```
///
/// Fails, naming the layers that there are, where the trunk has none of that name, and where an image is too small
/// for a branch.
pub fn with_branches(
    layers: &[Layer],
    input: [usize; 3],
    branches: &[Placement],
    style: BranchStyle,
) -> Result<Vec<Layer>> {
    let trunk = Network::new("trunk", input, without_branches(layers), 0, &Device::Cpu)?;
    let nodes = &trunk.segments[0];
    let name = |placement: &Placement| nodes.iter().any(|node| node.name == placement.after);
    if let Some(unknown) = branches.iter().find(|placement| !name(placement)) {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        bail!(Setting, "the trunk has no layer {:?}; it has {}", unknown.after, names.join(", "))
    }
    let mut list = Vec::new();
    for node in nodes {
        list.push(node.layer.clone());
        for placement in branches.iter().filter(|placement| placement.after == node.name) {
            list.push(match style {
                BranchStyle::AlexNet => placement.of_alexnet(node.output, trunk.classes())?,
                BranchStyle::Airbench => placement.of_airbench(node.output, trunk.classes())?,
                BranchStyle::Strided => placement.strided(node.output, trunk.classes())?,
            });
        }
    }
    Ok(list)
}

impl Placement {
    /// How branch `i` (from 0) of a network is described: behind which layer of the trunk, and its convolutions.
    /// Panics where there is no such branch.
    pub fn of(network: &Network, i: usize) -> Self {
        let after = network.segments[..=i].iter().flatten().last();
        let widths = network.branches[i].iter().filter_map(|node| match node.layer {
            Layer::Conv(Conv { outputs, .. }) => Some(outputs),
            _ => None,
        });
        let widths: Vec<usize> = widths.collect();
        Self {
            after: after.map_or_else(|| "image".to_string(), |node| node.name.clone()),
            convolutions: widths.len(),
            width: widths.last().copied().unwrap_or(0),
        }
    }

    /// Channels and size of a square image, where it is large enough for a convolution if there is one.
    fn square(&self, output: Shape) -> Result<(usize, usize)> {
        match output {
            Shape::Image(channels, size, width) if size == width && (size > 1 || self.convolutions == 0) => {
                Ok((channels, size))
            }
            _ => bail!(
                Setting,
                "{self}: a branch needs a square image of at least 2x2 pixels, and here is {output}"
            ),
        }
    }

    fn of_airbench(&self, output: Shape, classes: usize) -> Result<Layer> {
        let (channels, size) = self.square(output)?;
        Ok(airbench::exit(channels, size, classes, [self.convolutions, self.width]))
    }

    fn strided(&self, output: Shape, classes: usize) -> Result<Layer> {
        let (mut channels, mut size) = self.square(output)?;
        let mut layers = Vec::new();
        for _ in 0..self.convolutions {
            layers.extend([conv(channels, self.width, 3, 1).stride(2)?, batch_norm(self.width), relu()]);
            (channels, size) = (self.width, size.div_ceil(2));
        }
        layers.extend([average_pool(size, 1), linear(channels, classes)]);
        Ok(branch(layers))
    }

    fn of_alexnet(&self, output: Shape, classes: usize) -> Result<Layer> {
        let Shape::Image(channels, height, width) = output else {
            return Ok(branch([relu(), linear(output.len(), classes)]));
        };
        let mut layers = vec![relu(), max_pool(3, 2), lrn()];
        let mut inputs = channels;
        for _ in 0..self.convolutions {
            layers.extend([conv(inputs, self.width, 3, 1), relu()]);
            inputs = self.width;
        }
        layers.push(max_pool(3, 2));
        let pooled = |height, width| {
            Pool::new(Pooling::Max, height, width, 3, 2).map_err(|_| {
                error!(Setting, "{self}: an image of {output} is too small for its two poolings")
            })
        };
        let once = pooled(height, width)?;
        let twice = pooled(once.out_height, once.out_width)?;
        layers.push(linear(inputs * twice.out_height * twice.out_width, classes));
        Ok(branch(layers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_described_as_they_were_asked_for() -> Result<()> {
        let asked = ["gelu3:0x0", "gelu3:3x64", "gelu5:1x96"];
        let placements = asked.iter().map(|text| text.parse()).collect::<Result<Vec<Placement>>>()?;
        let layers = with_branches(
            &airbench::b_airbench([16, 64, 64]),
            [3, 32, 32],
            &placements,
            BranchStyle::Airbench,
        )?;
        let network = Network::new("test", [3, 32, 32], layers, 0, &Device::Cpu)?;
        for (i, placement) in placements.iter().enumerate() {
            assert_eq!(Placement::of(&network, i), *placement);
        }
        let slim = ["residual3:2x8".parse()?, "residual7:0x0".parse()?];
        let layers = with_branches(&super::super::resnet(3), [3, 32, 32], &slim, BranchStyle::Strided)?;
        let network = Network::new("test", [3, 32, 32], layers, 0, &Device::Cpu)?;
        // Two convolutions with stride 2 on 16 channels of 32x32, and the linear layers.
        assert_eq!(network.costs()[0].branch_macs, (16 * 8 * 256 + 8 * 8 * 64) * 9 + 80);
        assert_eq!(network.costs()[1].branch_macs, 640);
        assert!("gelu3:1x0".parse::<Placement>().is_err(), "convolutions without channels");
        Ok(())
    }
}
