//! A list of layers for other images, and for another number of classes, than it was written for.

use branchynet::networks::{Conv, Layer, Shape, Skip, Start};

/// `layers`, written for images of `from` (channels, height, width), for images of `to` and so many classes: layers take
/// the channels and values that reach them, a pooling over the whole image stays one, and the trunk and each branch end
/// in a logit for each class. For the images and classes that it was written for a list stays as it is.
///
/// ```
/// use branchynet_runs::{branchynet::networks::*, follow};
///
/// let layers = [conv(1, 4, 3, 1), branch([linear(256, 10)]), relu(), max_pool(2, 2), linear(64, 10)];
/// let larger = [conv(3, 4, 3, 1), branch([linear(1600, 26)]), relu(), max_pool(2, 2), linear(400, 26)];
/// assert_eq!(follow(&layers, [1, 8, 8], [3, 20, 20], 26), larger);
/// assert_eq!(follow(&b_lenet(), [1, 28, 28], [1, 28, 28], 10), b_lenet());
/// ```
///
/// From a layer on that the images are too small for, the list stays as it was: [`branchynet::Network::new`] names it.
pub fn follow(layers: &[Layer], from: [usize; 3], to: [usize; 3], classes: usize) -> Vec<Layer> {
    walk(layers, [from.into(), to.into()], Some(classes))
}

/// The layers of one part, which were written for the first shape and get the second; with `classes` it ends in an exit.
fn walk(layers: &[Layer], [mut from, mut to]: [Shape; 2], classes: Option<usize>) -> Vec<Layer> {
    let mut list = layers.to_vec();
    let end = layers.iter().rposition(|layer| matches!(layer, Layer::Linear(_)));
    for (i, layer) in list.iter_mut().enumerate() {
        let written = layer.output(from);
        match (&mut *layer, from, to) {
            (Layer::Branch(inner), ..) => {
                *inner = walk(inner, [from, to], classes);
                continue;
            }
            (Layer::Residual(block), ..) => {
                block.layers = walk(&block.layers, [from, to], None);
                if let Skip::Layers(layers) = &mut block.skip {
                    *layers = walk(layers, [from, to], None);
                }
            }
            (Layer::Conv(conv), _, Shape::Image(channels, ..)) => {
                conv.inputs = channels;
                if conv.start == Start::Whitening {
                    conv.outputs = Conv::whitened(channels, conv.kernel);
                }
            }
            (Layer::BatchNorm(norm), _, Shape::Image(channels, ..)) => norm.channels = channels,
            (Layer::Linear(linear), ..) => {
                linear.inputs = to.len();
                linear.outputs = classes.filter(|_| Some(i) == end).unwrap_or(linear.outputs);
            }
            (Layer::Pool(pool), Shape::Image(_, height, width), Shape::Image(_, to_height, to_width))
                if [height, width] == [pool.kernel; 2] =>
            {
                let whole = to_height.min(to_width);
                if pool.stride == pool.kernel {
                    pool.stride = whole;
                }
                pool.kernel = whole;
            }
            _ => (),
        }
        let (Ok(as_written), Ok(here)) = (written, layer.output(to)) else { break };
        (from, to) = (as_written, here);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use branchynet::networks::without_branches;
    use branchynet::networks::{b_airbench, b_alexnet, b_lenet, b_resnet110, b_resnet110_standard, resnet};
    use branchynet::{Network, Result};
    use candle_core::Device;

    #[test]
    fn every_network_follows_images_and_classes() -> Result<()> {
        let (grey, colour) = ([1, 28, 28], [3, 32, 32]);
        let airbench = b_airbench([8, 16, 16]);
        for (layers, from) in [
            (b_lenet(), grey),
            (b_alexnet(), colour),
            (b_resnet110(), colour),
            (b_resnet110_standard(), colour),
            (resnet(3), colour),
            (without_branches(&airbench), colour),
            (airbench, colour),
        ] {
            assert_eq!(follow(&layers, from, from, 10), layers, "nothing changes");
            for (to, classes) in [(grey, 10), ([1, 40, 40], 26), ([3, 64, 48], 100), (colour, 3)] {
                let list = follow(&layers, from, to, classes);
                // Every exit gives as many logits, else this fails.
                let network = Network::new("test", to, list.clone(), 0, &Device::Cpu)?;
                assert_eq!((network.classes(), network.exits()), (classes, 1 + branches(&layers)));
                if to == [1, 40, 40] {
                    assert_eq!(follow(&list, to, from, 10), layers, "and back");
                }
            }
        }
        // 38, 19 and 10 pixels, of which a pooling over 6 leaves 5; 40, 20 and 10, of which one over all leaves 1.
        let inputs = |layers: &[Layer], side| match follow(layers, colour, [3, side, side], 10).last() {
            Some(Layer::Linear(linear)) => linear.inputs,
            other => panic!("{other:?}"),
        };
        assert_eq!((inputs(&b_resnet110(), 40), inputs(&b_resnet110_standard(), 40)), (64 * 25, 64));
        Ok(())
    }

    fn branches(layers: &[Layer]) -> usize {
        layers.iter().filter(|layer| layer.is_branch()).count()
    }

    #[test]
    fn images_that_are_too_small_are_refused_by_the_layer() {
        let to = [1, 12, 12];
        let list = follow(&without_branches(&b_resnet110()), [3, 32, 32], to, 5);
        let error = Network::new("small", to, list, 0, &Device::Cpu).expect_err("3x3 pixels").to_string();
        assert!(error.contains("average_pool1") && error.contains("gives 64x3x3"), "{error}");
    }
}
