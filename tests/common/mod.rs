//! Shared by the tests.

// Each test program uses a part of this.
#![allow(dead_code)]

use branchynet::candle_core::{DType, Device, Tensor};
use branchynet::data::{Dataset, Role, Split, Test, Train, Validation};
use branchynet::exits::{ExitPolicy, Plan};
use branchynet::networks::Pass;
use branchynet::training::{Config, Keep, Progress, Run, train_with};
use branchynet::{Network, Result, Rng};
use rand::{Rng as _, SeedableRng};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Where operations are tested: on the CPU, and on the GPU if there is one. Says once, past the test
/// harness, that there is none.
pub fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut devices = vec![Device::Cpu];
        match branchynet::device("cuda") {
            Ok(device) => devices.push(device),
            Err(why) => {
                let _ = writeln!(std::io::stderr(), "SKIPPED on the GPU: {why}");
            }
        }
        devices
    })
}

/// Images of channels×8×8 whose class is the quadrant that is bright: so many to train on, and so many
/// each to validate and to test on.
pub fn quadrants(channels: usize, train: usize, held_out: usize) -> Dataset {
    fn split<R: Role>(channels: usize, count: usize, seed: u64) -> Split<R> {
        let mut rng = Rng::seed_from_u64(seed);
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let class: u32 = rng.random_range(0..4);
            labels.push(class);
            for pixel in 0..channels * 64 {
                let (y, x) = (pixel / 8 % 8, pixel % 8);
                let bright = y / 4 * 2 + x / 4 == class as usize;
                images.push(rng.random_range(0..120) + if bright { 100 } else { 0 });
            }
        }
        Split::new(images, labels, [channels, 8, 8]).expect("sizes fit")
    }
    Dataset {
        name: "quadrants".to_string(),
        classes: (0..4).map(|class| class.to_string()).collect(),
        train: split::<Train>(channels, train, 1),
        validation: split::<Validation>(channels, held_out, 2),
        test: split::<Test>(channels, held_out, 3),
        checksum: 7,
    }
}

/// Trains with a checkpoint at `path`.
pub fn train_at(
    network: &Network,
    data: &Dataset,
    config: &Config,
    path: &Path,
    mut say: impl FnMut(Progress<'_>),
) -> Result<Run> {
    branchynet::prepare_process();
    let keep = Keep { checkpoint: Some(path.to_path_buf()), anew: false };
    train_with(network, data, config, &keep, &mut say)
}

/// The logits and gradients of the tape are those of candle's autograd.
pub fn compare_gradients(network: &Network, images: &Tensor) -> Result<()> {
    let (times, what) = apart(network, images)?;
    assert!(times < 1.0, "{what}");
    Ok(())
}

/// How far the tape is from candle's autograd, for a loss that reads every exit: the furthest of logits and gradients, as a
/// multiple of what rounding is allowed there, and which that is.
pub fn apart(network: &Network, images: &Tensor) -> Result<(f32, String)> {
    let weights = |i: usize| 1.0 - 0.3 * i as f64;
    let loss = |logits: &[Tensor]| -> Result<Tensor> {
        let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        for (i, logits) in logits.iter().enumerate() {
            loss = (loss + (logits.sqr()?.mean_all()? * weights(i))?)?;
        }
        Ok(loss)
    };
    let mut rng = Rng::seed_from_u64(0);
    let expected = network.forward(images, &mut Pass::Train(&mut rng))?;
    let graph = loss(&expected)?.backward()?;
    let (logits, tape) = network.forward_with_tape(images, &mut rng)?;
    let (mut of_logits, mut furthest) = (Vec::new(), (0f32, String::new()));
    // `max` would pass over NaN.
    let mut look = |times: f32, what: String| {
        if times > furthest.0 || times.is_nan() {
            furthest = (if times.is_nan() { f32::INFINITY } else { times }, what);
        }
    };
    for (i, (logits, expected)) in logits.iter().zip(&expected).enumerate() {
        let apart = (logits - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let largest = expected.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        if apart != 0.0 {
            look(apart / (3e-6 * largest), format!("exit {i}: {apart} apart"));
        }
        // d/dz of the mean of z².
        of_logits.push((logits * (2.0 * weights(i) / logits.elem_count() as f64))?);
    }
    let gradients = tape.backward(of_logits)?;
    for (name, var) in network.parameters() {
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let want = flat(graph.get(&var).expect("every parameter has a gradient"))?;
        let got = flat(&gradients[&name])?;
        // A bias before a batch normalisation has no gradient: what is left of it is rounding, of a sum over all pixels.
        let least = if name.ends_with("bias") { 0.3f32 } else { 3e-2 };
        let scale = want.iter().fold(least, |max, x| max.max(x.abs()));
        for (got, want) in got.iter().zip(&want) {
            look((got - want).abs() / (1e-5 * scale), format!("{name}: {got}, {want}"));
        }
    }
    Ok(furthest)
}

/// Plans give the logits of their network, all images at once and each alone, bit for bit, on one thread and on two.
pub fn compare_plans(network: &Network, images: &Tensor) -> Result<()> {
    // Statistics that are not those of the start.
    network.forward_with_tape(images, &mut Rng::seed_from_u64(1))?;
    let want = network.forward(images, &mut Pass::Evaluate)?;
    let values = images.flatten_all()?.to_vec1::<f32>()?;
    let plans = [Plan::new(network)?, Plan::for_batches(network)?, Plan::by_definition(network)?];
    for (threads, plan) in [2, 1, 2].into_iter().zip(plans) {
        let all = plan.clone().logits(&values)?;
        for (exit, want) in want.iter().enumerate() {
            let want = want.flatten_all()?.to_vec1::<f32>()?;
            let scale = want.iter().fold(1f32, |max, x| max.max(x.abs()));
            for (got, want) in all[exit].iter().zip(&want) {
                assert!((got - want).abs() < 2e-5 * scale, "exit {exit}: {got}, {want}");
            }
        }
        // Also where it does not pay.
        let mut plan = plan.share(threads, 0);
        for (i, image) in values.chunks(values.len() / images.dim(0)?).enumerate() {
            plan.classify(image, &ExitPolicy::entropy(vec![0.0; network.exits() - 1]))?;
            for (exit, all) in all.iter().enumerate() {
                let alone = plan.logits_at(exit);
                assert_eq!(alone, &all[i * alone.len()..][..alone.len()], "exit {exit}");
            }
        }
    }
    Ok(())
}
