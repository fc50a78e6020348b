//! B-AlexNet (paper, section IV; the authors' `alexnet_cifar10.py`): a small AlexNet for CIFAR-10
//! with branches after its second and third convolution. 65.6 % of the test images leave at the
//! first in the paper and 25.2 % at the second, at 79.19 % accuracy.

use crate::layers::{Layer, branch, conv, dropout, linear, lrn, max_pool, relu};

/// B-AlexNet for images of 3×32×32.
pub fn b_alexnet() -> Vec<Layer> {
    // conv(inputs, outputs, kernel, padding), max_pool(kernel, stride), linear(inputs, outputs)
    vec![
        conv(3, 32, 5, 2), //          32×32×32
        relu(),
        max_pool(3, 2), //             32×16×16
        lrn(),
        conv(32, 64, 5, 2), //         64×16×16
        branch([
            relu(),
            max_pool(3, 2), //           64×8×8
            lrn(),
            conv(64, 32, 3, 1), //       32×8×8
            relu(),
            conv(32, 32, 3, 1),
            relu(),
            max_pool(3, 2), //           32×4×4
            linear(512, 10),
        ]),
        relu(),
        max_pool(3, 2), //               64×8×8
        lrn(),
        conv(64, 96, 3, 1), //           96×8×8
        branch([
            relu(),
            max_pool(3, 2), //           96×4×4
            lrn(),
            conv(96, 32, 3, 1), //       32×4×4
            relu(),
            max_pool(3, 2), //           32×2×2
            linear(128, 10),
        ]),
        relu(),
        conv(96, 96, 3, 1),
        relu(),
        conv(96, 64, 3, 1), //           64×8×8
        relu(),
        max_pool(3, 2), //               64×4×4
        linear(1024, 256),
        relu(),
        dropout(0.5),
        linear(256, 128),
        relu(),
        dropout(0.5),
        linear(128, 10),
    ]
}
