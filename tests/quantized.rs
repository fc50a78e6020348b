//! Networks as int8 runtimes compute them.

use branchynet::exits::{ExitPolicy, Plan};
use branchynet::networks::{Layer, Network, Skip, average_pool, gelu, max_pool_inside, plain_norm, quantize};
use branchynet::networks::{b_airbench, b_alexnet, b_lenet, b_resnet};
use branchynet::networks::{batch_norm, branch, conv, linear, lrn, max_pool, relu, residual};
use branchynet_runs::prelude::*;
use rand::SeedableRng;
use std::path::Path;
use std::process::Command;

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

/// Networks that have everything: one channel and few outputs, local response normalisation, blocks with all skips and pooling of
/// means, and Gaussian error linear units behind convolutions that a pooling follows.
fn networks() -> Vec<(&'static str, [usize; 3], Vec<Layer>)> {
    vec![
        ("lenet", [1, 28, 28], b_lenet()),
        ("alexnet", [3, 32, 32], b_alexnet()),
        ("resnet", [3, 32, 32], b_resnet(2)),
        ("gelu", [3, 32, 32], b_airbench([20, 40, 72])),
        ("all", [3, 8, 8], layers()),
        // The image is read by something else than a convolution, in one of two places or in all.
        ("pooled", [3, 8, 8], vec![max_pool(2, 2), conv(3, 20, 3, 1), relu(), linear(320, 4)]),
        ("averaged", [3, 8, 8], vec![average_pool(2, 2), conv(3, 20, 3, 1), relu(), linear(320, 4)]),
        ("normal", [3, 8, 8], vec![lrn(), conv(3, 20, 3, 1), relu(), linear(1280, 4)]),
        ("rectified", [3, 8, 8], vec![relu(), max_pool(3, 2), conv(3, 20, 3, 1), linear(320, 4)]),
        ("smooth", [3, 8, 8], vec![gelu(), conv(3, 20, 3, 1), relu(), linear(1280, 4)]),
        ("block", [3, 8, 8], vec![residual([conv(3, 3, 3, 1)]), linear(192, 4)]),
        ("twice", [3, 8, 8], vec![branch([max_pool(2, 2), linear(48, 4)]), conv(3, 9, 3, 1), linear(576, 4)]),
    ]
}

fn noise([channels, height, width]: [usize; 3], images: usize) -> Result<Tensor> {
    let value = |i: usize| (1.3 * i as f32).sin() + (0.01 * i as f32).cos();
    let values: Vec<f32> = (0..images * channels * height * width).map(value).collect();
    Ok(Tensor::from_vec(values, (images, channels, height, width), &Device::Cpu)?)
}

/// Such a network with statistics of its own, quantised.
fn quantized(name: &str, image: [usize; 3], layers: Vec<Layer>, bits: u32) -> Result<Network> {
    let (network, images) = (Network::new(name, image, layers, 3, &Device::Cpu)?, noise(image, 24)?);
    for seed in 0..5 {
        network.forward_with_tape(&images, &mut branchynet::Rng::seed_from_u64(seed))?;
    }
    network.quantized(&images, bits)
}

fn plan_logits(network: &Network, images: &Tensor) -> Result<Vec<Vec<f32>>> {
    Plan::new(network)?.logits(&images.flatten_all()?.to_vec1::<f32>()?)
}

#[test]
fn a_plan_sums_whole_numbers_and_says_what_f32_says() -> Result<()> {
    for (name, image, layers) in networks() {
        for bits in [7, 8] {
            let network = quantized(name, image, layers.clone(), bits)?;
            let images = noise(image, 24)?;
            let want = network.forward(&images, &mut Pass::Evaluate)?;
            let mut got = Vec::new();
            for (logits, want) in plan_logits(&network, &images)?.into_iter().zip(&want) {
                got.push(Tensor::from_vec(logits, want.shape(), &Device::Cpu)?);
            }
            let changed: u32 = (want.iter().zip(&got))
                .map(|(a, b)| {
                    Ok((a.argmax(1)?.ne(&b.argmax(1)?)?)
                        .to_dtype(DType::U32)?
                        .sum_all()?
                        .to_scalar::<u32>()?)
                })
                .sum::<Result<u32>>()?;
            // A sum that f32 rounds to the other side of a half moves a value by a step.
            let distance = distance(&want, &got)?;
            println!("{name}, {bits} bits: {distance:.6} of the largest logit, {changed} other answers");
            assert!(distance < 0.02 && changed <= 2, "{name}, {bits} bits: {distance} {changed}");
        }
    }
    Ok(())
}

/// What [`all_instructions_give_the_same_bits`] runs with other instructions.
#[test]
#[ignore = "a part of another test"]
fn logits_of_networks_in_a_folder() -> Result<()> {
    let Some(folder) = std::env::var_os("QUANTIZED_FOLDER") else { return Ok(()) };
    let folder = Path::new(&folder);
    for (name, image, _) in networks() {
        let layers: Vec<Layer> =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{name}.json")))?).expect("layers");
        let network = Network::new(name, image, layers, 0, &Device::Cpu)?;
        let tensors = branchynet::candle_core::safetensors::load(
            folder.join(format!("{name}.safetensors")),
            &Device::Cpu,
        )?;
        for (name, var) in network.state() {
            var.set(&tensors[&name])?;
        }
        let bytes: Vec<u8> = plan_logits(&network, &noise(image, 7)?)?
            .iter()
            .flatten()
            .flat_map(|z| z.to_le_bytes())
            .collect();
        std::fs::write(folder.join(format!("{name}.logits")), bytes)?;
    }
    Ok(())
}

#[test]
fn all_instructions_give_the_same_bits() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("branchynet-quantized-{}", std::process::id()));
    for bits in [7, 8] {
        std::fs::create_dir_all(&folder)?;
        let mut own = Vec::new();
        for (name, image, layers) in networks() {
            let network = quantized(name, image, layers, bits)?;
            std::fs::write(
                folder.join(format!("{name}.json")),
                serde_json::to_vec(network.layers()).expect("JSON"),
            )?;
            let tensors = network.state().into_iter().map(|(name, var)| (name, var.into_inner())).collect();
            branchynet::candle_core::safetensors::save(&tensors, folder.join(format!("{name}.safetensors")))?;
            own.push(plan_logits(&network, &noise(image, 7)?)?.concat());
        }
        let mut compared = 0;
        for instructions in ["scalar", "avx2", "avx512"] {
            let child = Command::new(std::env::current_exe()?)
                .args(["--exact", "logits_of_networks_in_a_folder", "--ignored"])
                .env("BRANCHYNET_SIMD", instructions)
                .env("QUANTIZED_FOLDER", &folder)
                .output()?;
            let there = match instructions {
                "scalar" => true,
                #[cfg(target_arch = "x86_64")]
                "avx2" => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
                #[cfg(target_arch = "x86_64")]
                "avx512" => is_x86_feature_detected!("avx512f"),
                _ => false,
            };
            if !there {
                continue;
            }
            compared += 1;
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
            for ((name, ..), own) in networks().iter().zip(&own) {
                let logits = std::fs::read(folder.join(format!("{name}.logits")))?;
                let own: Vec<u8> = own.iter().flat_map(|z| z.to_le_bytes()).collect();
                assert!(!own.is_empty() && logits == own, "{name} with {instructions}, {bits} bits");
            }
        }
        assert!(compared > 0);
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}
