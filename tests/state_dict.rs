//! Weights from PyTorch: a `state_dict` of models as torchvision and others write them.

use branchynet::candle_core::{DType, Device, Tensor, safetensors};
use branchynet_runs::prelude::*;
use branchynet_runs::read_state_dict;
use std::collections::HashMap;

/// Tensors of these names and shapes, filled as `tests/pytorch_values.py` does: element i is sin(1.3 i + s), s the sum of the
/// name's bytes.
fn filled(shapes: &[(String, Vec<usize>)]) -> Result<HashMap<String, Tensor>> {
    let fill = |(name, shape): &(String, Vec<usize>)| {
        let sum: f64 = name.bytes().map(f64::from).sum();
        let fan_in: usize = shape.iter().skip(1).product();
        let value = |i: usize| {
            let sine = (1.3 * i as f64 + sum).sin();
            let value = match () {
                () if shape.len() > 1 => sine * 2.0 / (fan_in as f64).sqrt(),
                () if name.ends_with("running_var") || name.ends_with("weight") => 1.0 + 0.5 * sine,
                () => 0.1 * sine,
            };
            value as f32
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        Ok((name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?))
    };
    shapes.iter().map(fill).collect()
}

/// What a module has in a `state_dict`.
fn module(name: &str, weight: &[usize], parts: &[&str]) -> Vec<(String, Vec<usize>)> {
    let shape = |part: &str| if part == "weight" { weight.to_vec() } else { vec![weight[0]] };
    parts.iter().map(|part| (format!("{name}.{part}"), shape(part))).collect()
}

const BOTH: [&str; 2] = ["weight", "bias"];
const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// torchvision's AlexNet, narrower; its convolutions 3 to 5 are of one shape, and `features.10` sorts before `features.2`.
fn alexnet_shapes() -> Vec<(String, Vec<usize>)> {
    [
        ("features.0", &[8, 3, 11, 11][..]),
        ("features.3", &[16, 8, 5, 5]),
        ("features.6", &[16, 16, 3, 3]),
        ("features.8", &[16, 16, 3, 3]),
        ("features.10", &[16, 16, 3, 3]),
        ("classifier.1", &[32, 576]),
        ("classifier.4", &[32, 32]),
        ("classifier.6", &[10, 32]),
    ]
    .into_iter()
    .flat_map(|(name, weight)| module(name, weight, &BOTH))
    .collect()
}

/// The same with a branch.
fn alexnet() -> Result<Network> {
    let layers = vec![
        conv(3, 8, 11, 2).stride(4)?,
        relu(),
        max_pool_inside(3, 2),
        branch([max_pool(3, 2), linear(8 * 13 * 13, 10)]),
        conv(8, 16, 5, 2),
        relu(),
        max_pool_inside(3, 2),
        conv(16, 16, 3, 1),
        relu(),
        conv(16, 16, 3, 1),
        relu(),
        conv(16, 16, 3, 1),
        relu(),
        max_pool_inside(3, 2),
        dropout(0.5),
        linear(576, 32),
        relu(),
        dropout(0.5),
        linear(32, 32),
        relu(),
        linear(32, 10),
    ];
    Network::new("B-AlexNet", [3, 224, 224], layers, 0, &Device::Cpu)
}

/// A CIFAR ResNet of three stages: `project` has the shortcuts of changing shape by convolutions (option B).
fn resnet_shapes(width: usize, blocks: usize, project: bool) -> Vec<(String, Vec<usize>)> {
    let conv = |name: &str, o: usize, i: usize, k: usize| module(name, &[o, i, k, k], &["weight"]);
    let norm = |name: &str, channels: usize| module(name, &[channels], &NORM);
    let mut shapes = [conv("conv1", width, 3, 3), norm("bn1", width)].concat();
    let mut inputs = width;
    for stage in 0..3 {
        let outputs = width << stage;
        for block in 0..blocks {
            let name = |part: &str| format!("layer{}.{block}.{part}", stage + 1);
            shapes.extend(conv(&name("conv1"), outputs, inputs, 3));
            shapes.extend(norm(&name("bn1"), outputs));
            shapes.extend(conv(&name("conv2"), outputs, outputs, 3));
            shapes.extend(norm(&name("bn2"), outputs));
            if project && inputs != outputs {
                shapes.extend(conv(&name("downsample.0"), outputs, inputs, 1));
                shapes.extend(norm(&name("downsample.1"), outputs));
            }
            inputs = outputs;
        }
    }
    [shapes, module("fc", &[10, inputs], &BOTH)].concat()
}

/// The same with a branch.
fn resnet(width: usize, blocks: usize, project: bool) -> Result<Network> {
    let mut layers = vec![conv(3, width, 3, 1), batch_norm(width), relu(), branch([linear(width << 10, 10)])];
    let mut inputs = width;
    for stage in 0..3 {
        let outputs = width << stage;
        for _ in 0..blocks {
            let stride = outputs / inputs;
            let skip = match project && stride > 1 {
                true => Skip::Layers(vec![conv(inputs, outputs, 1, 0).stride(stride)?, batch_norm(outputs)]),
                false => Skip::Zeros(Zeros::Around),
            };
            let block = residual([
                conv(inputs, outputs, 3, 1).stride(stride)?,
                batch_norm(outputs),
                relu(),
                conv(outputs, outputs, 3, 1),
                batch_norm(outputs),
            ]);
            layers.push(block.skip(skip)?);
            inputs = outputs;
        }
    }
    layers.extend([average_pool(8, 1), linear(inputs, 10)]);
    Network::new("B-ResNet", [3, 32, 32], layers, 0, &Device::Cpu)
}

/// Two images of waves: element i is sin(1.3 i + 1).
fn images(size: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..2 * 3 * size * size).map(|i| (1.3 * i as f64 + 1.0).sin() as f32).collect();
    Ok(Tensor::from_vec(values, (2, 3, size, size), &Device::Cpu)?)
}

/// `tests/pytorch_values.py` printed these, with the models: of two images the logits.
#[rustfmt::skip]
const PYTORCH: [[[f64; 10]; 2]; 3] = [
    [[-0.18017492, 0.42505506, -0.28046842, -0.094897538, 0.22113599, -0.2545816, 0.32981666, -0.097994425, -0.30196745, 0.34901794],
     [-0.18122568, 0.42632984, -0.28126691, -0.095014, 0.22210342, -0.25586853, 0.33071611, -0.098012272, -0.30284101, 0.35030301]],
    [[4.3945405, -1.1147107, -4.5285901, 0.59953305, 4.5861049, -0.081057052, -4.5681874, -0.42143734, 4.484055, 0.89367152],
     [4.4773824, -1.229413, -4.6234026, 0.70434042, 4.6918555, -0.17482795, -4.6837242, -0.33972424, 4.6081197, 0.82490621]],
    [[13.612369, -0.39916003, -13.115012, 19.228112, -14.801408, 2.4272077, 11.402021, -19.086165, 16.10005, -4.2495896],
     [13.521698, -0.67343881, -12.626461, 18.793678, -14.65975, 2.6561475, 10.928253, -18.627838, 15.908948, -4.4306969]],
];

type Case = (Network, Vec<(String, Vec<usize>)>, Tensor);

fn cases() -> Result<[Case; 3]> {
    Ok([
        (alexnet()?, alexnet_shapes(), images(224)?),
        (resnet(16, 3, false)?, resnet_shapes(16, 3, false), images(32)?),
        (resnet(8, 2, true)?, resnet_shapes(8, 2, true), images(32)?),
    ])
}

fn branch_state(network: &Network) -> Result<Vec<f32>> {
    Ok(network.parameters()["branch1.linear1.weight"].flatten_all()?.to_vec1()?)
}

#[test]
fn a_state_dict_gives_pytorchs_logits() -> Result<()> {
    for (i, (network, shapes, images)) in cases()?.into_iter().enumerate() {
        let mut tensors = filled(&shapes)?;
        // As PyTorch writes it beside each batch normalisation.
        tensors.insert("bn1.num_batches_tracked".to_string(), Tensor::new(7i64, &Device::Cpu)?);
        let path =
            std::env::temp_dir().join(format!("branchynet-state-{}-{i}.safetensors", std::process::id()));
        safetensors::save(&tensors, &path)?;
        let before = branch_state(&network)?;
        network.load_state_dict(&read_state_dict(&path)?)?;
        std::fs::remove_file(&path)?;
        assert_eq!(branch_state(&network)?, before, "branches keep theirs");
        let by_layers = network.forward(&images, &mut Pass::Evaluate)?[1].to_vec2::<f32>()?;
        let pixels = images.flatten_all()?.to_vec1::<f32>()?;
        let by_plan = Plan::new(&network)?.logits(&pixels)?.swap_remove(1);
        let expected = PYTORCH[i].as_flattened();
        let largest = expected.iter().fold(1f64, |largest, z| largest.max(z.abs()));
        for got in [by_layers.concat(), by_plan] {
            for (got, want) in got.iter().zip(expected) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 1e-5 * largest, "network {i}: {got}, PyTorch {want}");
            }
        }
    }
    Ok(())
}

#[test]
fn layers_are_named_where_their_order_is_not_known() -> Result<()> {
    let shapes = |names: [&str; 3]| {
        let weights = [vec![4, 4, 3, 3], vec![4, 4, 3, 3], vec![2, 64]];
        let named = names.into_iter().zip(weights).flat_map(|(name, weight)| module(name, &weight, &BOTH));
        named.collect::<Vec<_>>()
    };
    let layers = [conv(4, 4, 3, 1), relu(), conv(4, 4, 3, 1), branch([linear(64, 2)]), linear(64, 2)];
    let build = || Network::new("two", [4, 4, 4], layers.clone(), 0, &Device::Cpu);
    let weights = |names| StateDict::of_tensors(filled(&shapes(names))?);
    let first = |network: &Network| -> Result<Vec<f32>> {
        Ok(network.parameters()["conv1.weight"].flatten_all()?.to_vec1()?)
    };
    for (names, certain) in [
        (["a", "b", "fc"], false),
        (["entry.conv", "middle.conv", "fc"], false),
        // The second may come before the stages or after them.
        (["layer1.conv", "conv2", "fc"], false),
        (["conv1", "layer1.0.conv1", "fc"], true),
        (["module.features.2", "module.features.10", "module.classifier"], true),
        (["layer1.2.conv1", "layer1.2.shortcut.0", "linear"], true),
    ] {
        let (network, weights) = (build()?, weights(names)?);
        let before = first(&network)?;
        let loaded = network.load_state_dict(&weights);
        assert_eq!(loaded.is_ok(), certain, "{names:?}: {loaded:?}");
        if let Err(error) = loaded {
            let error = error.to_string();
            assert!(error.contains("is not certain") && error.contains(names[0]), "{error}");
            assert_eq!(first(&network)?, before);
        }
        // By name each way round, and a branch with the head's weights.
        network.load_state_dict_as(&weights, &[("conv2", names[0]), ("conv1", names[1])])?;
        let expected =
            filled(&shapes(names))?[&format!("{}.weight", names[1])].flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(first(&network)?, expected);
        network.load_state_dict_as(&weights, &[("branch1.linear1", names[2])])?;
        let head =
            filled(&shapes(names))?[&format!("{}.weight", names[2])].flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(branch_state(&network)?, head);
    }
    let (network, weights) = (build()?, weights(["a", "b", "fc"])?);
    let refused = |names: &[(&str, &str)], part: &str| {
        let error = network.load_state_dict_as(&weights, names).expect_err(part).to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(
        &[("conv3", "a")],
        "two has no layer \"conv3\" with weights; it has conv1, conv2, linear1, branch1.linear1",
    );
    refused(&[("conv1", "c")], "the state_dict has no c, which layer conv1 of two shall have");
    refused(&[("conv1", "fc")], "fc.weight is [2, 64], but layer conv1 of two needs [4, 4, 3, 3]");
    Ok(())
}

#[test]
fn what_does_not_fit_changes_nothing() -> Result<()> {
    let network = resnet(8, 2, true)?;
    let state = || -> Result<Vec<Vec<f32>>> {
        network.state().values().map(|var| Ok(var.flatten_all()?.to_vec1()?)).collect()
    };
    let before = state()?;
    let refused = |change: &dyn Fn(&mut HashMap<String, Tensor>) -> Result<()>, part: &str| -> Result<()> {
        let mut tensors = filled(&resnet_shapes(8, 2, true))?;
        change(&mut tensors)?;
        let error = match StateDict::of_tensors(tensors) {
            Ok(weights) => network.load_state_dict(&weights).expect_err(part),
            Err(error) => error,
        }
        .to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
        assert_eq!(state()?, before);
        Ok(())
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let put = |name: &'static str, shape: &'static [usize]| {
        move |tensors: &mut HashMap<String, Tensor>| {
            tensors.insert(name.to_string(), zeros(shape)?);
            Ok(())
        }
    };
    refused(
        &put("fc.weight", &[10, 64]),
        "layer linear1, linear(32, 10), of B-ResNet needs a weight of [10, 32]; the next such layer is fc with [10, 64]",
    )?;
    refused(&put("fc.bias", &[1]), "fc.bias is [1], but layer linear1 of B-ResNet needs [10]")?;
    refused(
        &put("fc2.weight", &[10, 10]),
        "no layer in the trunk of B-ResNet is left for fc2 with [10, 10]",
    )?;
    refused(&put("fc.weight_scale", &[1]), "the state_dict has fc.weight_scale, for which layer linear1")?;
    refused(&put("scale", &[1]), "no layer in the trunk of B-ResNet is left for scale")?;
    refused(
        &|tensors| {
            tensors.retain(|name, _| !name.starts_with("layer3.1.conv2"));
            Ok(())
        },
        "layer residual6.conv2, conv(32, 32, 3, 1), of B-ResNet needs a weight of [32, 32, 3, 3]; no such layer is left",
    )?;
    refused(
        &|tensors| {
            tensors.remove("bn1.running_var");
            Ok(())
        },
        "has no bn1.running_var, which layer batch_norm1 of B-ResNet needs: [8]",
    )?;
    let infinite = |tensors: &mut HashMap<String, Tensor>| {
        tensors.insert("fc.bias".to_string(), Tensor::new(&[f32::INFINITY; 10], &Device::Cpu)?);
        Ok(())
    };
    refused(&infinite, "fc.bias has values that are not finite")
}

#[test]
fn a_frozen_trunk_trains_new_branches() -> Result<()> {
    let layers = [conv(1, 4, 3, 1), relu(), branch([linear(256, 2)]), max_pool_inside(2, 2), linear(64, 2)];
    let network = Network::new("frozen", [1, 8, 8], layers, 0, &Device::Cpu)?;
    let shapes = [module("0", &[4, 1, 3, 3], &BOTH), module("4", &[2, 64], &BOTH)].concat();
    // Half the bits are enough for the shapes.
    let half = filled(&shapes)?.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(DType::BF16)?)));
    network.load_state_dict(&StateDict::of_tensors(half.collect::<Result<Vec<_>>>()?)?)?;
    // Dark or bright.
    let part = |n: usize| -> Result<(Tensor, Tensor)> {
        let labels: Vec<u8> = (0..n).map(|i| (i % 2) as u8).collect();
        let pixels: Vec<u8> = labels.iter().flat_map(|&label| [40 + 120 * label; 64]).collect();
        let images = Tensor::from_vec(pixels, (n, 1, 8, 8), &Device::Cpu)?;
        Ok((images, Tensor::from_vec(labels, n, &Device::Cpu)?))
    };
    let ((images, labels), (test_images, test_labels)) = (part(200)?, part(20)?);
    let data =
        Dataset::from_tensors("brightness", (&images, &labels), (&test_images, &test_labels), 10, &[])?;
    let all = || -> Result<HashMap<String, Vec<f32>>> {
        let flat = |(name, var): (String, Var)| Ok((name, var.flatten_all()?.to_vec1()?));
        network.parameters().into_iter().map(flat).collect()
    };
    let before = all()?;
    let path = std::env::temp_dir().join(format!("branchynet-frozen-{}.safetensors", std::process::id()));
    let keep = training::Keep { checkpoint: Some(path.clone()), anew: true };
    let config =
        Config { epochs: 10, learning_rate: 0.02, batch_size: 20, frozen: true, ..Config::default() };
    training::train_with(&network, &data, &config, &keep, &mut |_| ())?;
    std::fs::remove_file(&path)?;
    for (name, values) in all()? {
        assert_eq!(values == before[&name], !name.starts_with("branch1."), "{name}");
    }
    assert!(evaluate(&network, &data.test)?.accuracy[0] > 0.95, "the branch learns");
    Ok(())
}
