//! Branches described in a word, for experiments on where they leave and how much they compute.

use super::airbench;
use super::layer::{Layer, branch, conv, linear, lrn, max_pool, relu, without_branches};
use super::network::Network;
use super::node::Shape;
use crate::error::{bail, error};
use crate::kernels::{Pool, Pooling};
use crate::{Error, Result};
use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// A branch like those of B-AlexNet, or of B-Airbench: where it leaves the trunk, and what it computes there. As text
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

impl FromStr for Placement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(after, rest)| Some((after, rest.split_once('x')?)));
        if let Some((after, (convolutions, width))) = parts
            && let (Ok(convolutions), Ok(width)) = (convolutions.parse(), width.parse())
            && width > 0
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
/// its own. Each has the layers of the branches in the authors' AlexNet: rectifier, pool, normalisation,
/// convolutions, pool, and one linear layer; behind a vector the linear layer alone. In a trunk with Gaussian error
/// linear units they are like those of [`super::b_airbench`].
///
/// ```
/// use branchynet::networks::{Placement, b_airbench, b_alexnet, with_branches};
///
/// let branches: Vec<Placement> = vec!["conv2:2x32".parse()?, "conv3:1x32".parse()?];
/// assert_eq!(with_branches(&b_alexnet(), [3, 32, 32], &branches)?, b_alexnet());
/// let airbench = b_airbench([64, 256, 256]);
/// let branches: Vec<Placement> = vec!["gelu3:1x64".parse()?, "gelu5:0x64".parse()?];
/// assert_eq!(with_branches(&airbench, [3, 32, 32], &branches)?, airbench);
/// # Ok::<(), branchynet::Error>(())
/// ```
///
/// Fails, naming the layers that there are, where the trunk has none of that name.
pub fn with_branches(layers: &[Layer], input: [usize; 3], branches: &[Placement]) -> Result<Vec<Layer>> {
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
            list.push(match layers.contains(&Layer::Gelu) {
                true => placement.of_airbench(node.output)?,
                false => placement.branch(node.output, trunk.classes())?,
            });
        }
    }
    Ok(list)
}

impl Placement {
    /// A branch as in airbench, for ten classes.
    fn of_airbench(&self, output: Shape) -> Result<Layer> {
        match output {
            Shape::Image(channels, size, width) if size == width && (size > 1 || self.convolutions == 0) => {
                Ok(airbench::exit(channels, size, self.convolutions, self.width))
            }
            _ => bail!(
                Setting,
                "{self}: a branch needs a square image of at least 2x2 pixels, and here is {output}"
            ),
        }
    }

    /// The branch behind an output of this shape.
    fn branch(&self, output: Shape, classes: usize) -> Result<Layer> {
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
