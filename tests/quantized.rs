//! Networks as int8 runtimes compute them.

use branchynet::exits::{ExitPolicy, Plan};
use branchynet::networks::{Layer, Network, Skip, average_pool, gelu, max_pool_inside, plain_norm, quantize};
use branchynet::networks::{batch_norm, branch, conv, linear, lrn, max_pool, relu, residual};
use branchynet::prelude::*;
use rand::SeedableRng;

/// Batch normalisations behind convolutions, also behind a pooling, blocks with either skip, and rectifiers where branches begin.
fn layers() -> Vec<Layer> {
    let skip = Skip::Layers(vec![conv(6, 8, 1, 0), batch_norm(8)]);
    vec![
        conv(3, 4, 3, 1),
        batch_norm(4),
        branch([relu(), lrn(), max_pool(3, 2), linear(64, 5)]),
        relu(),
        conv(4, 6, 3, 1),
        max_pool_inside(2, 2),
        plain_norm(6),
        gelu(),
        residual([conv(6, 6, 3, 1), batch_norm(6), relu(), conv(6, 6, 3, 1), batch_norm(6)]),
        residual([conv(6, 8, 3, 1), batch_norm(8)]).skip(skip).expect("a block"),
        branch([average_pool(4, 1), linear(8, 5)]),
        linear(128, 7),
        relu(),
        linear(7, 5),
    ]
}

fn images() -> Result<Tensor> {
    let values: Vec<f32> = (0..40 * 3 * 8 * 8).map(|i| (1.3 * i as f32).sin()).collect();
    Ok(Tensor::from_vec(values, (40, 3, 8, 8), &Device::Cpu)?)
}

fn network() -> Result<Network> {
    let network = Network::new("all", [3, 8, 8], layers(), 3, &Device::Cpu)?;
    // Statistics that are not those of the start.
    for seed in 0..20 {
        network.forward_with_tape(&images()?, &mut branchynet::Rng::seed_from_u64(seed))?;
    }
    Ok(network)
}

/// The largest distance of logits, in parts of the largest logit.
fn distance(a: &[Tensor], b: &[Tensor]) -> Result<f32> {
    let mut distance = 0f32;
    for (a, b) in a.iter().zip(b) {
        let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        distance = distance.max(largest(&(a - b)?)? / largest(a)?);
    }
    Ok(distance)
}

#[test]
fn a_quantised_network_is_near_its_own_and_the_nearer_the_more_bits() -> Result<()> {
    let (network, images) = (network()?, images()?);
    let want = network.forward(&images, &mut Pass::Evaluate)?;
    let mut distances = Vec::new();
    for bits in [3, 5, 8] {
        let quantized = network.quantized(&images, bits)?;
        assert_eq!((quantized.exits(), quantized.costs()), (network.exits(), network.costs()));
        distances.push(distance(&want, &quantized.forward(&images, &mut Pass::Evaluate)?)?);
    }
    assert!(distances[0] > distances[1] && distances[1] > distances[2], "{distances:?}");
    // Activations have 8 bits in any case.
    assert!(distances[2] < 0.1, "{distances:?}");
    Ok(())
}

#[test]
fn weights_are_whole_multiples_and_no_batch_normalisation_is_left() -> Result<()> {
    let quantized = network()?.quantized(&images()?, 7)?;
    for (name, var) in quantized.parameters().iter().filter(|(name, _)| name.ends_with("weight")) {
        assert!(!name.contains("batch_norm"), "{name}");
        for output in var.flatten_from(1)?.to_vec2::<f32>()? {
            let scale = output.iter().fold(0f32, |largest, w| largest.max(w.abs())) / 63.0;
            for weight in output {
                let number = weight / scale;
                assert!((number - number.round()).abs() < 1e-3 && number.abs() < 63.5, "{name}: {number}");
            }
        }
    }
    Ok(())
}

#[test]
fn values_are_rounded_to_even_in_passes_and_plans_alike() -> Result<()> {
    // In halves of the scale, and beyond both ends of the range.
    let image: Vec<f32> =
        (0..64).map(|i| i as f32 * 0.5 - 4.0).chain((0..64).map(|i| i as f32 * 4.1)).collect();
    let want: Vec<f32> = image.iter().map(|x| x.clamp(-2.0, 253.0).round_ties_even()).collect();
    let network = Network::new("one", [2, 8, 8], [quantize(-2.0, 253.0), linear(128, 128)], 0, &Device::Cpu)?;
    // The logits are the values.
    let parameters = network.parameters();
    parameters["linear1.weight"].set(&Tensor::eye(128, DType::F32, &Device::Cpu)?)?;
    let x = Tensor::from_slice(&image, (1, 2, 8, 8), &Device::Cpu)?;
    let got = network.forward(&x, &mut Pass::Evaluate)?[0].flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(got, want);
    let mut plan = Plan::new(&network)?;
    plan.classify(&image, &ExitPolicy::entropy([]))?;
    assert_eq!(plan.logits_at(0), want);
    Ok(())
}

#[test]
fn a_batch_normalisation_without_a_convolution_is_named() -> Result<()> {
    let layers = [relu(), batch_norm(3), conv(3, 2, 3, 1), linear(128, 4)];
    let network = Network::new("odd", [3, 8, 8], layers, 0, &Device::Cpu)?;
    let error = network.quantized(&images()?, 7).expect_err("nothing to fold it into").to_string();
    assert!(error.contains("batch_norm1: for int8"), "{error}");
    Ok(())
}
