//! The paper's networks: parameters and multiply-accumulates worked out by hand, and what the paper
//! says of them; the backward pass against candle's autograd.

mod common;

use branchynet::exits::{ExitPolicy, Plan};
use branchynet::kernels::Zeros;
use branchynet::networks::{
    ExitCost, Layer, Pass, Skip, average_pool, batch_norm, branch, conv, gelu, linear, lrn, max_pool,
    max_pool_inside, relu, residual, scale, without_branches,
};
use branchynet::networks::{b_alexnet, b_lenet, b_resnet, b_resnet110, b_resnet110_standard};
use branchynet::{Network, Result, Rng};
use candle_core::{Device, Tensor};
use common::{compare_gradients, compare_plans};
use rand::SeedableRng;

fn build(layers: Vec<Layer>, image: [usize; 3]) -> Result<Network> {
    Network::new("test", image, layers, 0, &Device::Cpu)
}

fn cost(trunk_macs: usize, branch_macs: usize, macs: usize) -> ExitCost {
    ExitCost { trunk_macs, branch_macs, macs }
}

#[test]
fn lenet_costs_what_paper_and_pencil_say() -> Result<()> {
    let network = build(b_lenet(), [1, 28, 28])?;
    // conv1: 25·5·30². branch: 45·10·15² + 640·10. The rest of the trunk: 125·10·17² + 250·20·11² +
    // 720·84 + 84·10.
    let (first, branch) = (112_500, 101_250 + 6_400);
    let trunk = first + 361_250 + 605_000 + 60_480 + 840;
    assert_eq!(network.costs(), [cost(first, branch, first + branch), cost(trunk, 0, trunk + branch)]);
    assert_eq!(trunk, 1_140_070); // paper: 1.14 M
    Ok(())
}

#[test]
fn alexnet_costs_what_paper_and_pencil_say() -> Result<()> {
    let network = build(b_alexnet(), [3, 32, 32])?;
    // conv1 75·32·32², conv2 800·64·16²; conv3 576·96·8²; conv4 864·96·8², conv5 864·64·8², linear.
    let first = 2_457_600 + 13_107_200;
    let second = first + 3_538_944;
    let trunk = second + 5_308_416 + 3_538_944 + 262_144 + 32_768 + 1_280;
    let branch1 = 576 * 32 * 64 + 288 * 32 * 64 + 5_120;
    let branch2 = 864 * 32 * 16 + 1_280;
    assert_eq!(
        network.costs(),
        [
            cost(first, branch1, first + branch1),
            cost(second, branch2, second + branch1 + branch2),
            cost(trunk, 0, trunk + branch1 + branch2)
        ]
    );
    // Paper: 28.2 M; to leave at exit 1, 15.6 M + 1.77 M.
    assert_eq!((trunk, first, branch1), (28_247_296, 15_564_800, 1_774_592));
    let conv = |i: usize, o: usize, k: usize| i * o * k * k + o;
    let linear = |i: usize, o: usize| i * o + o;
    let parameters = conv(3, 32, 5) + conv(32, 64, 5)
        + conv(64, 32, 3) + conv(32, 32, 3) + linear(512, 10) // branch 1
        + conv(64, 96, 3)
        + conv(96, 32, 3) + linear(128, 10) // branch 2
        + conv(96, 96, 3) + conv(96, 64, 3) + linear(1024, 256) + linear(256, 128) + linear(128, 10);
    assert_eq!(network.parameter_count(), parameters);
    Ok(())
}

#[test]
fn resnet110_costs_what_paper_and_pencil_say() -> Result<()> {
    let network = build(b_resnet110(), [3, 32, 32])?;
    // 36 convolutions 144·16·30²; one 144·32·15² and 35 288·32·15²; one 288·64·8² and 35 576·64·8².
    let stem = 27 * 16 * 900;
    let second = stem + 36 * 2_073_600;
    let trunk = second + 1_036_800 + 35 * 2_073_600 + 1_179_648 + 35 * 2_359_296 + 5_760;
    let branch1 = 23_040_000 + 16_588_800 + 8_294_400 + 288_000;
    let branch2 = 2 * 2_073_600 + 144_000;
    assert_eq!(
        network.costs(),
        [
            cost(stem, branch1, stem + branch1),
            cost(second, branch2, second + branch1 + branch2),
            cost(trunk, 0, trunk + branch1 + branch2)
        ]
    );
    // Paper: 232 M; to leave at exit 1, 0.39 M + 48.2 M.
    assert_eq!((trunk, stem, branch1), (232_411_968, 388_800, 48_211_200));
    // A convolution with bias and its batch normalisation: i·o·9 + 3·o.
    let stage = |i: usize, o: usize| i * o * 9 + 35 * o * o * 9 + 36 * 3 * o;
    let trunk = 3 * 16 * 9 + 3 * 16 + stage(16, 16) + stage(16, 32) + stage(32, 64) + 5_770;
    let branch1 = 25_664 + 18_464 + 9_248 + 288_010;
    let branch2 = 2 * (16 * 16 * 9 + 3 * 16) + 144_010;
    assert_eq!(network.parameter_count(), trunk + branch1 + branch2);
    // He et al. 2016 give 1.7 M for the standard one, which has no biases in its convolutions.
    let standard = build(without_branches(&b_resnet110_standard()), [3, 32, 32])?;
    let biases = 16 + 36 * (16 + 32 + 64);
    assert_eq!(standard.parameter_count() - biases, 1_727_962);
    Ok(())
}

/// A convolution of every second pixel.
fn strided(inputs: usize, outputs: usize) -> Layer {
    conv(inputs, outputs, 3, 1).stride(2).expect("convolutions have a stride")
}

#[test]
fn only_what_has_a_stride_takes_one() -> Result<()> {
    assert_eq!(max_pool(3, 1).stride(2)?, max_pool(3, 2));
    let error = relu().stride(2).expect_err("a rectifier has no stride");
    assert_eq!(error.kind(), branchynet::ErrorKind::Setting);
    assert!(error.to_string().contains("relu() has no stride"), "{error}");
    Ok(())
}

/// Every kind of layer, in two branches and the trunk, small enough for many passes.
fn all_kinds() -> Vec<Layer> {
    vec![
        conv(3, 4, 3, 1),
        batch_norm(4),
        relu(),
        branch([lrn(), max_pool(3, 2), linear(64, 5)]),
        residual([strided(4, 6), batch_norm(6), relu(), conv(6, 6, 3, 1), batch_norm(6)]),
        branch([residual([conv(6, 6, 3, 1), batch_norm(6)]), average_pool(3, 1), linear(24, 5)]),
        max_pool(2, 2),
        linear(24, 7),
        relu(),
        linear(7, 5),
    ]
}

/// Residual blocks whose input comes in again in other ways.
fn skips() -> Result<Vec<Layer>> {
    let block = |inputs: usize, outputs: usize| {
        residual([strided(inputs, outputs), batch_norm(outputs), relu(), conv(outputs, outputs, 3, 1)])
    };
    let (around, behind) = (Skip::Zeros(Zeros::Around), Skip::Zeros(Zeros::Behind));
    let projected = Skip::Layers(vec![conv(21, 33, 1, 0).stride(2)?, batch_norm(33)]);
    Ok(vec![
        block(3, 12).skip(around)?,
        branch([linear(12 * 20, 4)]),
        block(12, 21).skip(behind)?,
        block(21, 33).skip(projected)?,
        residual([conv(33, 33, 3, 1), batch_norm(33)]).skip(Skip::Layers(vec![conv(33, 33, 1, 0)]))?,
        linear(66, 4),
    ])
}

/// Convolutions whose channels lie side by side in training, in all sizes, and what reads them.
fn side_by_side() -> Vec<Vec<Layer>> {
    let after = |layer: Layer, outputs: usize| vec![layer, batch_norm(outputs), relu()];
    let body = [after(strided(16, 32), 32), vec![conv(32, 32, 3, 1), batch_norm(32)]].concat();
    let beside = [after(conv(20, 20, 1, 0), 20), vec![max_pool(2, 2), linear(20 * 20, 3)]].concat();
    vec![
        [
            after(conv(3, 16, 3, 0), 16),
            vec![branch([conv(16, 8, 5, 2), relu(), linear(8 * 42, 3)]), residual(body), linear(32 * 12, 3)],
        ]
        .concat(),
        [
            after(conv(3, 20, 5, 2), 20),
            vec![branch(beside)],
            after(conv(20, 33, 2, 1), 33),
            vec![linear(33 * 90, 3)],
        ]
        .concat(),
        // A padding as wide as the kernel, and normalisations that are not rectified.
        [
            after(conv(3, 17, 1, 1), 17),
            vec![conv(17, 16, 3, 1), batch_norm(16), gelu(), conv(16, 16, 3, 0), batch_norm(16)],
            vec![branch([linear(16 * 72, 3)]), linear(16 * 72, 3)],
        ]
        .concat(),
        // A normalisation whose rectifier is the end of a block, one that a branch reads without the rectifier, and one that
        // the branch of another block rectifies for itself.
        vec![residual(after(conv(3, 3, 3, 1), 3)), linear(3 * 72, 3)],
        vec![
            conv(3, 16, 3, 1),
            batch_norm(16),
            branch([linear(16 * 72, 3)]),
            relu(),
            conv(16, 16, 3, 1),
            batch_norm(16),
            branch([conv(16, 5, 3, 1), relu(), max_pool(2, 2), linear(5 * 20, 3)]),
            residual([relu(), conv(16, 16, 3, 1), batch_norm(16)]),
            linear(16 * 72, 3),
        ],
        // Without normalisations: windows that hang over, what two branches read through their own rectifiers, and pooling
        // without one.
        vec![
            conv(3, 16, 5, 2),
            branch([relu(), max_pool(3, 2), lrn(), conv(16, 8, 3, 1), max_pool_inside(2, 2), linear(32, 3)]),
            relu(),
            relu(),
            max_pool(2, 2),
            conv(16, 24, 3, 1),
            relu(),
            conv(24, 8, 3, 1),
            max_pool(3, 1),
            linear(8 * 6, 3),
        ],
    ]
}

/// Convolutions of few channels, for which images lie side by side in training: kernels of all sizes, what reads them in
/// branches and trunk, and what needs them in another way.
fn few_channels() -> Vec<Layer> {
    let branch = branch([max_pool(2, 2), relu(), conv(5, 10, 3, 1), max_pool(2, 2), relu(), linear(90, 3)]);
    vec![
        conv(3, 5, 5, 3),
        branch,
        max_pool(2, 2),
        relu(),
        conv(5, 10, 4, 2),
        relu(),
        max_pool(3, 2),
        conv(10, 21, 7, 3),
        relu(),
        residual([conv(21, 21, 3, 1), relu()]),
        conv(21, 2, 1, 0),
        relu(),
        conv(2, 6, 2, 1),
        average_pool(2, 1),
        linear(6 * 9, 3),
    ]
}

fn images(batch: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..batch * 3 * 64).map(|i| (1.3 * i as f32).sin()).collect();
    Ok(Tensor::from_vec(values, (batch, 3, 8, 8), &Device::Cpu)?)
}

#[test]
fn the_tape_gives_the_gradients_of_candles_autograd() -> Result<()> {
    let [height, width] = [9, 8];
    let values: Vec<f32> = (0..9 * 3 * height * width).map(|i| (1.3 * i as f32).sin()).collect();
    let of_skips = Tensor::from_vec(values, (9, 3, height, width), &Device::Cpu)?;
    compare_gradients(&build(skips()?, [3, height, width])?, &of_skips)?;
    for layers in side_by_side() {
        compare_gradients(&build(layers, [3, height, width])?, &of_skips)?;
    }
    let few = build(few_channels(), [3, height, width])?;
    // Half a group of images that lie side by side, a whole one, and two.
    let many = Tensor::cat(&[&of_skips, &of_skips.flip(&[3])?, &of_skips], 0)?;
    for batch in [8, 9, 16, 27] {
        compare_gradients(&few, &many.narrow(0, 0, batch)?)?;
    }
    for (layers, [channels, height, width]) in beginnings()? {
        let of_size = many.narrow(2, 0, height.min(9))?.pad_with_zeros(3, 0, width.saturating_sub(8))?;
        let images = of_size.narrow(3, 0, width)?.contiguous()?;
        compare_gradients(&build(layers, [channels, height, width])?, &images)?;
    }
    compare_gradients(&build(all_kinds(), [3, 8, 8])?, &images(9)?)
}

/// A run that diverges is told by its loss: nothing on the way may turn NaN into a number.
#[test]
fn what_is_no_number_reaches_the_logits_in_training() -> Result<()> {
    let block = residual([conv(8, 8, 3, 1), batch_norm(8), relu(), conv(8, 8, 3, 1), batch_norm(8)]);
    let smaller = residual([strided(8, 16), batch_norm(16)]);
    let network = build(vec![conv(3, 8, 3, 1), block, smaller, linear(16 * 16, 2)], [3, 8, 8])?;
    let few = build(vec![conv(3, 5, 3, 1), max_pool(2, 2), relu(), linear(80, 2)], [3, 8, 8])?;
    // One pixel, which is not the first of its window.
    let mut values = images(9)?.flatten_all()?.to_vec1::<f32>()?;
    values[9] = f32::NAN;
    let one = Tensor::from_vec(values, (9, 3, 8, 8), &Device::Cpu)?;
    for (network, images) in [(&network, (images(3)? * f64::NAN)?), (&few, one)] {
        let (logits, _) = network.forward_with_tape(&images, &mut Rng::seed_from_u64(0))?;
        assert!(logits[0].get(0)?.to_vec1::<f32>()?.iter().all(|z| z.is_nan()));
        assert!(network.forward(&images, &mut Pass::Evaluate)?[0].get(0)?.to_vec1::<f32>()?[0].is_nan());
    }
    Ok(())
}

/// A run that is resumed on another machine must not depend on its cores.
#[test]
fn gradients_are_the_same_bits_with_any_number_of_threads() -> Result<()> {
    let values: Vec<f32> = (0..20 * 3 * 72).map(|i| (1.3 * i as f32).sin()).collect();
    let images = Tensor::from_vec(values, (20, 3, 9, 8), &Device::Cpu)?;
    for layers in [side_by_side(), vec![few_channels()]].concat() {
        let network = build(layers, [3, 9, 8])?;
        let gradients = |threads: usize| -> Result<Vec<Vec<f32>>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let (logits, tape) = network.forward_with_tape(&images, &mut Rng::seed_from_u64(0))?;
                let gradients = tape.backward(logits)?;
                gradients.values().map(|grad| Ok(grad.flatten_all()?.to_vec1()?)).collect()
            })
        };
        let bits = |of: Vec<Vec<f32>>| of.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let alone = bits(gradients(1)?);
        assert_eq!(alone, bits(gradients(2)?), "{}", network.name());
        assert_eq!(alone, bits(gradients(5)?), "{}", network.name());
    }
    Ok(())
}

#[test]
fn images_that_do_not_fit_are_refused_in_training() -> Result<()> {
    let network = build(b_lenet(), [1, 28, 28])?;
    let mut rng = Rng::seed_from_u64(0);
    for (shape, told) in [((16, 3, 28, 28), "(batch, 1, 28, 28)"), ((0, 1, 28, 28), "got none")] {
        let images = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
        let error = network.forward_with_tape(&images, &mut rng).map(drop).expect_err("it does not fit");
        assert!(error.to_string().contains(told), "{error}");
    }
    Ok(())
}

#[test]
fn running_statistics_approach_those_of_the_data_and_decide_inference() -> Result<()> {
    let network = build(vec![batch_norm(3), relu(), linear(192, 2)], [3, 8, 8])?;
    let images = ((images(40)? * 3.0)? + 5.0)?;
    let mut rng = Rng::seed_from_u64(0);
    for step in 0..60 {
        // Training moves them by a tenth each step; a pass that does not train leaves them alone.
        network.forward_with_tape(&images, &mut rng)?;
        if step == 0 {
            let mean = network.state()["batch_norm1.mean"].to_vec1::<f32>()?;
            assert!((mean[0] - 0.5).abs() < 0.05, "{mean:?}");
        }
    }
    let before = network.state()["batch_norm1.variance"].to_vec1::<f32>()?;
    network.forward(&images, &mut Pass::Evaluate)?;
    assert_eq!(network.state()["batch_norm1.variance"].to_vec1::<f32>()?, before);
    let channel = images.narrow(1, 1, 1)?.flatten_all()?.to_vec1::<f32>()?;
    let count = channel.len() as f64;
    let mean = channel.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let square: f64 = channel.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let state = network.state();
    let (got_mean, got_variance) = (
        f64::from(state["batch_norm1.mean"].to_vec1::<f32>()?[1]),
        f64::from(state["batch_norm1.variance"].to_vec1::<f32>()?[1]),
    );
    // 0.9^60 of the start is left.
    assert!((got_mean - mean).abs() < 0.02, "{got_mean}, {mean}");
    let unbiased = square / (count - 1.0);
    assert!((got_variance - unbiased).abs() < 0.02, "{got_variance}, {unbiased}");
    Ok(())
}

/// The image is read by something else than a convolution.
fn beginnings() -> Result<Vec<(Vec<Layer>, [usize; 3])>> {
    Ok(vec![
        (vec![max_pool(2, 2), linear(75, 3)], [3, 9, 9]),
        (vec![relu(), max_pool(3, 2), linear(48, 3)], [3, 9, 9]),
        (vec![average_pool(3, 2), linear(48, 3)], [3, 9, 9]),
        (vec![lrn(), linear(75, 3)], [3, 5, 5]),
        (vec![batch_norm(3), gelu(), linear(75, 3)], [3, 5, 5]),
        (vec![gelu(), max_pool(2, 2), linear(12, 3)], [3, 4, 4]),
        (vec![scale(0.5), relu(), linear(75, 3)], [3, 5, 5]),
        (vec![residual([conv(3, 3, 3, 1)]), linear(75, 3)], [3, 5, 5]),
        (vec![residual([batch_norm(3)]), linear(75, 3)], [3, 5, 5]),
        (vec![residual([conv(3, 8, 3, 1).stride(2)?]), linear(72, 3)], [3, 5, 5]),
        (vec![branch([max_pool(2, 2), linear(27, 3)]), conv(3, 4, 3, 1), linear(100, 3)], [3, 5, 5]),
    ])
}

/// Layers that a plan treats in its own way: what it folds, what it must not fold, and the sizes at which
/// tiles, registers and borders do not come out even.
fn plans() -> Result<Vec<(Vec<Layer>, [usize; 3])>> {
    let twice =
        |inner: Vec<Layer>| vec![conv(3, 16, 3, 1), residual(inner), conv(16, 5, 3, 1), linear(605, 3)];
    let deep =
        |layers: Vec<Layer>, end: usize| [vec![conv(3, 20, 3, 1)], layers, vec![linear(end, 3)]].concat();
    let lists = vec![
        (all_kinds(), [3, 8, 8]),
        (b_lenet(), [1, 28, 28]),
        (b_alexnet(), [3, 32, 32]),
        (b_resnet110(), [3, 32, 32]),
        (skips()?, [3, 9, 8]),
        // The block's input is read again: neither rectifier nor normalisation may change it.
        (twice(vec![relu(), conv(16, 16, 3, 1), batch_norm(16)]), [3, 11, 11]),
        (twice(vec![batch_norm(16), relu(), conv(16, 16, 3, 1)]), [3, 11, 11]),
        // An input without a border.
        (twice(vec![conv(16, 16, 1, 0), relu(), conv(16, 16, 3, 1)]), [3, 11, 11]),
        // Rectified before it is normalised, or pooled.
        (deep(vec![relu(), batch_norm(20), lrn(), relu(), average_pool(3, 2)], 720), [3, 13, 13]),
        (deep(vec![batch_norm(20), relu(), relu(), max_pool(2, 2), lrn()], 20 * 49), [3, 13, 13]),
        // Two readers that want other borders, wide kernels, strides, channels that fill no register.
        (
            deep(
                vec![branch([conv(20, 18, 5, 2), linear(18 * 169, 3)]), conv(20, 33, 3, 0), relu()],
                33 * 121,
            ),
            [3, 13, 13],
        ),
        (deep(vec![conv(20, 40, 5, 0).stride(2)?, conv(40, 17, 2, 1), max_pool(3, 2)], 17 * 9), [3, 13, 13]),
        (deep(vec![conv(20, 16, 5, 4), conv(16, 16, 3, 1)], 16 * 17 * 9), [3, 13, 5]),
        // Paddings that are as wide as the kernel, and wider.
        (
            deep(vec![conv(20, 24, 1, 1), relu(), conv(24, 17, 3, 4).stride(2)?, relu()], 17 * 121),
            [3, 13, 13],
        ),
        (vec![linear(75, 40), relu(), branch([linear(40, 3)]), linear(40, 37), linear(37, 3)], [3, 5, 5]),
    ];
    Ok([lists, beginnings()?].concat())
}

/// A plan folds batch normalisations into the convolutions before them, and has an order of its own for
/// sums and products: it rounds differently.
#[test]
fn a_plan_agrees_with_its_network() -> Result<()> {
    for (number, (layers, image)) in plans()?.into_iter().enumerate() {
        let network = build(layers, image)?;
        let size: usize = image.iter().product();
        let values: Vec<f32> = (0..7 * size).map(|i| (1.3 * i as f32).sin()).collect();
        println!("network {number}");
        compare_plans(&network, &Tensor::from_vec(values, (7, image[0], image[1], image[2]), &Device::Cpu)?)?;
    }
    Ok(())
}

/// A maximum drops what is no number, or keeps it, by the instructions and the order of what it compares.
#[test]
fn what_is_no_number_reaches_the_logits_of_a_plan() -> Result<()> {
    for (number, (layers, image)) in plans()?.into_iter().enumerate() {
        let network = build(layers, image)?;
        let values = vec![f32::NAN; 2 * image.iter().product::<usize>()];
        for mut plan in [Plan::new(&network)?, Plan::for_batches(&network)?, Plan::by_definition(&network)?] {
            let logits = plan.logits(&values)?;
            assert!(logits.iter().flatten().all(|z| z.is_nan()), "network {number}: {logits:?}");
        }
    }
    for kernel in [2, 3, 4] {
        let network = build(vec![max_pool(kernel, kernel), relu(), linear(2, 2)], [2, kernel, kernel])?;
        for at in 0..2 * kernel * kernel {
            let mut values = vec![1.0; 2 * kernel * kernel];
            values[at] = f32::NAN;
            let logits = Plan::new(&network)?.logits(&values)?;
            assert!(logits[0].iter().all(|z| z.is_nan()), "{kernel} x {kernel}, element {at}: {logits:?}");
        }
    }
    Ok(())
}

/// More images than go through the steps together, some of which leave early: each gets what it gets alone, bit for bit.
#[test]
fn a_plan_for_batches_treats_images_as_it_does_alone() -> Result<()> {
    for (layers, image) in [(b_alexnet(), [3, 32, 32]), (b_resnet(1), [3, 32, 32]), (b_lenet(), [1, 28, 28])]
    {
        let network = build(layers, image)?;
        let (size, count) = (image.iter().product::<usize>(), 50);
        let values: Vec<f32> = (0..count * size).map(|i| (1.3 * i as f32).sin()).collect();
        let mut plan = Plan::for_batches(&network)?;
        let all = plan.logits(&values)?;
        // Half of the images leave at exit 1.
        let everybody = ExitPolicy::entropy(vec![f64::INFINITY; network.exits() - 1]);
        let mut unsure: Vec<f64> =
            plan.classify_all(&values, &everybody)?.iter().map(|answer| answer.uncertainty).collect();
        unsure.sort_by(f64::total_cmp);
        let policy = ExitPolicy::entropy(vec![unsure[count / 2]; network.exits() - 1]);
        let answers = plan.classify_all(&values, &policy)?;
        for (i, image) in values.chunks(size).enumerate() {
            let alone = plan.classify(image, &policy)?;
            assert_eq!((alone.label, alone.exit), (answers[i].label, answers[i].exit), "image {i}");
            let logits = plan.logits_at(alone.exit);
            assert_eq!(logits, &all[alone.exit][i * logits.len()..][..logits.len()], "image {i}");
        }
        let left = |exit| answers.iter().filter(|answer| answer.exit == exit).count();
        assert!((1..count).contains(&left(0)), "{} of {count} leave at exit 1", left(0));
    }
    Ok(())
}

#[test]
fn blocks_that_do_not_fit_are_refused_in_one_line() {
    let refused = |layers: Vec<Layer>, part: &str| {
        let error = build(layers, [3, 8, 8]).expect_err(part).to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(vec![batch_norm(4), linear(192, 2)], "an image of 4 channels");
    refused(vec![residual([conv(3, 2, 3, 1)]), linear(128, 2)], "cannot add its input of 3x8x8 to 2x8x8");
    refused(vec![residual([linear(192, 5)])], "its layers to give an image");
    refused(vec![residual([branch([linear(192, 2)])])], "a branch inside a branch or a residual block");
    refused(vec![residual([residual([conv(3, 3, 3, 1)])])], "no residual block inside it");
    refused(vec![average_pool(9, 1), linear(3, 2)], "its window fits");
    let block = residual([strided(3, 6)]).skip(Skip::Layers(vec![conv(3, 6, 1, 0)])).expect("a block");
    refused(vec![block, linear(96, 2)], "its skip to give 6x4x4 as its layers do, not 6x8x8");
    assert!(relu().skip(Skip::default()).is_err(), "only a residual block has a skip");
}

#[test]
fn a_block_as_json_is_its_layers_unless_its_skip_is_another() -> Result<()> {
    let plain = residual([relu()]);
    let json = serde_json::to_string(&plain)?;
    assert_eq!(json, r#"{"residual":["relu"]}"#);
    assert_eq!(serde_json::from_str::<Layer>(&json)?, plain);
    for layer in skips()? {
        assert_eq!(serde_json::from_str::<Layer>(&serde_json::to_string(&layer)?)?, layer);
    }
    Ok(())
}
