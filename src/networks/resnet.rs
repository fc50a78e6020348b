//! B-ResNet-110 on CIFAR-10 (paper, section IV; the authors' `resnet_cifar10.py`), and the ResNet-110
//! of He et al. 2016 (<https://arxiv.org/abs/1512.03385>, section 4.2) with the same branches.

use crate::layers::{
    Layer, average_pool, batch_norm, branch, conv, linear, lrn, relu, residual, without_branches,
};

/// B-ResNet-110 for images of 3×32×32, as the authors' code has it: no padding at the first
/// convolution, average pooling over 6×6 instead of the whole image.
pub fn b_resnet110() -> Vec<Layer> {
    with_branches(18, 0, 6)
}

/// The standard ResNet-110 (padded first convolution, global average pooling) with the authors'
/// branches.
pub fn b_resnet110_standard() -> Vec<Layer> {
    b_resnet(18)
}

/// [`b_resnet110_standard`] with this many blocks for each size of image: 3 for B-ResNet-20.
pub fn b_resnet(blocks: usize) -> Vec<Layer> {
    with_branches(blocks, 1, 8)
}

/// The standard ResNet without branches, of this many blocks for each size of image: 3 for ResNet-20, 9 for
/// ResNet-56, 18 for ResNet-110.
pub fn resnet(blocks: usize) -> Vec<Layer> {
    without_branches(&b_resnet(blocks))
}

/// The same layers, but the scale of each residual block's last batch normalisation starts at 0, so that the block begins as
/// its skip (Goyal et al. 2017, <https://arxiv.org/abs/1706.02677>).
pub fn zero_started(layers: &[Layer]) -> Vec<Layer> {
    let mut layers = layers.to_vec();
    for layer in &mut layers {
        match layer {
            Layer::Branch(inner) => *inner = zero_started(inner),
            Layer::Residual(block) => {
                if let Some(Layer::BatchNorm(last)) = block.layers.last_mut() {
                    last.zero = true;
                }
            }
            _ => (),
        }
    }
    layers
}

fn with_branches(blocks: usize, padding: usize, pool: usize) -> Vec<Layer> {
    // Height and width after the first convolution: 30 or 32.
    let size = 30 + 2 * padding;
    let mut layers = vec![
        // conv(inputs, outputs, kernel, padding)
        conv(3, 16, 3, padding), //    16×30×30
        batch_norm(16),
        relu(),
        branch([
            conv(16, 64, 5, 2), //     64×30×30
            relu(),
            lrn(),
            conv(64, 32, 3, 1), //     32×30×30
            relu(),
            conv(32, 32, 3, 1),
            relu(),
            linear(32 * size * size, 10),
        ]),
    ];
    layers.extend((0..blocks).map(|_| block(16, 16))); // 16×30×30
    layers.push(branch([block(16, 16), linear(16 * size * size, 10)]));
    layers.push(block(16, 32)); //     32×15×15
    layers.extend((1..blocks).map(|_| block(32, 32)));
    layers.push(block(32, 64)); //       64×8×8
    layers.extend((1..blocks).map(|_| block(64, 64)));
    layers.push(average_pool(pool, 1)); // 64×3×3
    layers.push(linear(64 * (9 - pool) * (9 - pool), 10));
    layers
}

/// Two convolutions and the input added to them; where the channels double, every second pixel.
fn block(inputs: usize, outputs: usize) -> Layer {
    residual([
        conv(inputs, outputs, 3, 1).stride(outputs / inputs).expect("a convolution has a stride"),
        batch_norm(outputs),
        relu(),
        conv(outputs, outputs, 3, 1),
        batch_norm(outputs),
    ])
}
