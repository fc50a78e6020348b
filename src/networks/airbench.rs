//! Keller Jordan's airbench network, which reaches 94 % on CIFAR-10 in 0.36 PFLOP of training
//! (<https://arxiv.org/abs/2404.00498>), with branches.

use crate::layers::{Layer, Start, branch, conv, gelu, linear, max_pool_inside, plain_norm, scale};

/// The network for images of 3×32×32 with groups of these widths (airbench: 64, 256, 256), and a
/// branch behind the first group. Of fourteen candidates it saved most, and no second one beside it much more (notebook
/// 9).
///
/// A fixed convolution whitens patches of 2×2 pixels. A group has two convolutions, the first of which a pooling
/// follows. Differences to the original: convolutions have biases, which batch normalisation takes away again,
/// and the last layer has one; the whitening's bias is trained to the end, not for three epochs; running statistics
/// keep 0.9 a step, not 0.6; random weights begin with three times the variance.
pub fn b_airbench([first, second, third]: [usize; 3]) -> Vec<Layer> {
    let mut layers = vec![whitening(), gelu()]; //  24×31×31
    layers.extend(group(24, first)); //          first×15×15
    layers.push(exit(first, 15, 10, [4, 96]));
    layers.extend(group(first, second)); //      second×7×7
    layers.extend(group(second, third)); //       third×3×3
    layers.extend([max_pool_inside(3, 3), linear(third, 10), scale(1.0 / 9.0)]);
    layers
}

/// A branch behind an image of so many channels: convolutions of `width` channels, before every second of which a
/// pooling halves the image, and the trunk's end.
pub(super) fn exit(
    channels: usize,
    mut size: usize,
    classes: usize,
    [convolutions, width]: [usize; 2],
) -> Layer {
    let (mut layers, mut inputs) = (Vec::new(), channels);
    for i in 0..convolutions {
        if i == 0 || (i % 2 == 0 && size > 3) {
            layers.push(max_pool_inside(2, 2));
            size /= 2;
        }
        layers.extend([identity(inputs, width), plain_norm(width), gelu()]);
        inputs = width;
    }
    layers.extend([max_pool_inside(size, size), linear(inputs, classes), scale(1.0 / 9.0)]);
    branch(layers)
}

fn whitening() -> Layer {
    start(conv(3, 24, 2, 0), Start::Whitening)
}

fn identity(inputs: usize, outputs: usize) -> Layer {
    start(conv(inputs, outputs, 3, 1), Start::Identity)
}

fn start(layer: Layer, start: Start) -> Layer {
    layer.start(start).expect("a convolution has a start")
}

fn group(inputs: usize, outputs: usize) -> Vec<Layer> {
    vec![
        identity(inputs, outputs),
        max_pool_inside(2, 2),
        plain_norm(outputs),
        gelu(),
        identity(outputs, outputs),
        plain_norm(outputs),
        gelu(),
    ]
}
