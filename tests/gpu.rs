//! What runs on a GPU against the CPU: batches, early exit, training. Without a GPU each test says that
//! it was skipped.

mod common;

use branchynet::candle_core::{Device, Tensor};
use branchynet::data::{Augmentation, Dataset, Preprocessing};
use branchynet::exits::{Criterion, ExitRecord, Readout, Seen};
use branchynet::kernels::{Precision, cross_entropy};
use branchynet::networks::Pass;
use branchynet::networks::{
    Layer, average_pool, batch_norm, branch, conv, dropout, gelu, linear, lrn, max_pool, max_pool_inside,
    plain_norm, relu, residual, scale,
};
use branchynet::training::{Config, Objective, OptimizerName, Progress, Sgd, evaluate};
use branchynet::{Network, Result, Rng};
use common::train_at;
use rand::SeedableRng;
use std::sync::{Mutex, MutexGuard};

/// The GPU, if there is one. The precision of products is the process's, so that tests take turns.
fn gpu() -> Option<(&'static Device, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    let device = common::devices().get(1)?;
    Some((device, TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())))
}

fn quadrants() -> Dataset {
    common::quadrants(3, 200, 60)
}

/// Every kind of layer. Dropout only where something is dropped: GPU and CPU draw other masks.
fn layers(dropped: f32) -> Vec<Layer> {
    let mut layers = vec![
        conv(3, 6, 3, 1),
        lrn(),
        branch([max_pool(4, 4), relu(), linear(24, 4)]),
        max_pool(3, 2),
        batch_norm(6),
        relu(),
        residual([conv(6, 6, 3, 1), batch_norm(6)]),
        branch([average_pool(2, 2), linear(24, 4)]),
        plain_norm(6),
        max_pool_inside(1, 1),
        linear(96, 16),
        gelu(),
        scale(0.5),
        linear(16, 4),
    ];
    if dropped > 0.0 {
        layers.insert(layers.len() - 1, dropout(dropped));
    }
    layers
}

fn build(dropped: f32, device: &Device) -> Result<Network> {
    Network::new("quadrants", [3, 8, 8], layers(dropped), 0, device)
}

/// The last batch of an epoch is a smaller one.
fn config(epochs: usize) -> Config {
    Config { epochs, batch_size: 45, learning_rate: 3e-3, augment: true, ..Config::default() }
}

fn scratch(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("branchynet-gpu-{}-{name}.safetensors", std::process::id()))
}

/// All weights and running statistics, one after another.
fn weights(network: &Network) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for var in network.state().values() {
        all.extend(var.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok(all)
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn batches_are_those_of_the_cpu() -> Result<()> {
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let samples = [3, 0, 199, 17, 17];
    for preprocessing in [Preprocessing::Unit, Preprocessing::Channels] {
        let data = quadrants().preprocessed(preprocessing)?;
        let pixels = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
        let batch = |device: &Device| -> Result<_> { Ok(pixels(data.train.batch(&samples, device)?)?) };
        assert_eq!(batch(device)?, batch(&Device::Cpu)?);
        // Shifted and flipped alike: the same draws of the same generator.
        for augmentation in [Augmentation::Random, Augmentation::Alternating] {
            let augmented = |device: &Device| -> Result<_> {
                let rng = &mut Rng::seed_from_u64(5);
                Ok(pixels(data.train.augmented_batch(&samples, augmentation, 1, rng, device)?)?)
            };
            assert_eq!(augmented(device)?, augmented(&Device::Cpu)?);
            assert_ne!(augmented(device)?, batch(device)?);
        }
    }
    Ok(())
}

#[test]
fn samples_leave_as_on_the_cpu_and_as_in_a_replay() -> Result<()> {
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let data = quadrants().preprocessed(Preprocessing::Channels)?;
    let (here, there) = (build(0.0, &Device::Cpu)?, build(0.0, device)?);
    // A class that a logit of minus infinity rules out at exit 1.
    for network in [&here, &there] {
        let bias = &network.state()["branch1.linear1.bias"];
        bias.set(&Tensor::new(&[0.0, 0.0, f32::NEG_INFINITY, 0.0], network.device())?)?;
    }
    let samples: Vec<usize> = (0..data.test.len()).collect();
    let collected = ExitRecord::collect(&there, &data.test)?;
    // What is not plain is read from logits that come back.
    let others = [(vec![0.5, 2.0, 1.5], false), (Vec::new(), true), (vec![0.5, 2.0, 1.5], true)];
    let others =
        others.map(|(temperatures, ensemble)| Readout { temperatures, ensemble, ..Readout::default() });
    for readout in Criterion::NAMED.map(Readout::from).into_iter().chain(others) {
        let (record, criterion) = (collected.read_by(&readout)?, readout.criterion);
        // Thresholds in the middle of a gap, so that rounding decides nothing.
        let middle = |exit: usize, rank: usize| {
            let mut all: Vec<f64> = record.predictions(exit).iter().map(|r| r.uncertainty).collect();
            all.sort_by(f64::total_cmp);
            (all[rank] + all[rank + 1]) / 2.0
        };
        for thresholds in
            [[middle(0, 20), middle(1, 40)], [0.0, middle(1, 10)], [f64::INFINITY, 0.0], [0.0, 0.0]]
        {
            let policy = record.policy(&thresholds);
            let classify = |network: &Network, device| -> Result<_> {
                network.classify(&data.test.batch(&samples, device)?, &policy)
            };
            let (cpu, gpu) = (classify(&here, &Device::Cpu)?, classify(&there, device)?);
            let replay = record.answers(&thresholds)?;
            let with_logits = there.classify_with_logits(&data.test.batch(&samples, device)?, &policy)?;
            for ((answer, logits), gpu) in with_logits.iter().zip(&gpu) {
                assert_eq!((answer.label, answer.exit), (gpu.label, gpu.exit));
                let here = criterion.read(Seen::new(logits, there.classes()));
                assert_eq!(here.label, answer.label);
                // Patience looks at other exits as well.
                let apart = (here.uncertainty - answer.uncertainty).abs();
                assert!(criterion == Criterion::Patience || apart < 1e-5);
            }
            for ((cpu, gpu), replay) in cpu.iter().zip(&gpu).zip(&replay) {
                assert_eq!((cpu.label, cpu.exit), (gpu.label, gpu.exit));
                assert_eq!((replay.label, replay.exit), (gpu.label, gpu.exit));
                // Other batch sizes may have other orders of summation.
                assert!((cpu.uncertainty - gpu.uncertainty).abs() < 1e-5);
                assert!((replay.uncertainty - gpu.uncertainty).abs() < 1e-5);
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_those_of_the_cpu() -> Result<()> {
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let data = quadrants();
    let gradients = |device: &Device| -> Result<_> {
        let network = build(0.0, device)?;
        let samples: Vec<usize> = (0..40).collect();
        let images = data.train.batch(&samples, device)?;
        let labels: Vec<u32> = data.train.labels()[..40].to_vec();
        let labels = Tensor::new(labels, device)?;
        let (logits, tape) = network.forward_with_tape(&images, &mut Rng::seed_from_u64(0))?;
        let of_logits = logits
            .iter()
            .map(|logits| Ok(cross_entropy(logits, &labels, 1.0 / 40.0, 0.0)?.gradient))
            .collect::<Result<_>>()?;
        Ok((tape.backward(of_logits)?, weights(&network)?))
    };
    let (cpu, gpu) = (gradients(&Device::Cpu)?, gradients(device)?);
    for (name, cpu) in &cpu.0 {
        let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (cpu, gpu) = (flat(cpu)?, flat(&gpu.0[name])?);
        let largest = cpu.iter().fold(1e-2f32, |max, x| max.max(x.abs()));
        let apart = furthest(&cpu, &gpu);
        assert!(apart < 1e-5 * largest.max(1.0), "{name}: {apart} apart, up to {largest}");
    }
    // The running statistics moved alike.
    assert!(furthest(&cpu.1, &gpu.1) < 1e-6);
    Ok(())
}

#[test]
fn training_follows_the_cpu_repeats_itself_and_resumes() -> Result<()> {
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let data = quadrants();
    // The same five steps up to rounding.
    let train = |device: &Device, dropped: f32, epochs: usize, name: &str| -> Result<_> {
        let network = build(dropped, device)?;
        train_at(&network, &data, &config(epochs), &scratch(name), |_| ())?;
        Ok((weights(&network)?, evaluate(&network, &data.test)?))
    };
    let (cpu, gpu) = (train(&Device::Cpu, 0.0, 1, "cpu")?, train(device, 0.0, 1, "gpu")?);
    let start = weights(&build(0.0, &Device::Cpu)?)?;
    // Where a gradient is zero but for rounding (a bias before a batch normalisation), Adam still makes
    // whole steps of it: not all weights, but nearly all.
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
    let near = cpu.0.iter().zip(&gpu.0).filter(|&pair| close(pair)).count();
    assert!(furthest(&cpu.0, &start) > 0.01, "nothing was trained");
    assert!(near * 20 > cpu.0.len() * 19, "{near} of {} weights agree", cpu.0.len());
    // Such a bias is in the running means of these steps, and so in the losses.
    for (cpu, gpu) in cpu.1.loss.iter().zip(&gpu.1.loss) {
        assert!((cpu - gpu).abs() < 5e-3, "losses of {cpu} and {gpu}");
    }
    // SGD has no such steps: all weights agree.
    let train_sgd = |device: &Device, name: &str| -> Result<_> {
        let network = build(0.0, device)?;
        let sgd = Config {
            optimizer: OptimizerName::Sgd,
            sgd: Sgd { nesterov: true, norm_rate: 2.0, weight_decay: 0.01, ..Sgd::default() },
            label_smoothing: 0.1,
            objective: Objective {
                distillation: 0.3,
                gating: 0.5,
                equilibrium: true,
                ..Objective::default()
            },
            lookahead: true,
            augment: true,
            augmentation: Augmentation::Alternating,
            ..config(1)
        };
        train_at(&network, &data, &sgd, &scratch(name), |_| ())?;
        weights(&network)
    };
    let (cpu, gpu) = (train_sgd(&Device::Cpu, "cpu-sgd")?, train_sgd(device, "gpu-sgd")?);
    assert!(furthest(&cpu, &start) > 0.01 && furthest(&cpu, &gpu) < 1e-4, "{}", furthest(&cpu, &gpu));
    // Twice the same, bit for bit, dropout included; also in two parts. Without dropout steps are replayed, but for the
    // first of each part and the smaller batches.
    let emulated = std::env::var_os("EMULATED_KERNELS").is_some();
    for dropped in [0.3, 0.0] {
        // The emulator replays nothing, and is slow.
        if emulated && dropped == 0.0 {
            continue;
        }
        let (first, second) = (train(device, dropped, 2, "a")?, train(device, dropped, 2, "b")?);
        assert_eq!(first.0, second.0);
        let resumed = build(dropped, device)?;
        let stop = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            train_at(&resumed, &data, &config(2), &scratch("c"), |progress| {
                let end_of_first = matches!(progress, Progress::Line(_));
                assert!(!end_of_first, "stopped on purpose");
            })
        }));
        assert!(stop.is_err());
        let resumed = build(dropped, device)?;
        train_at(&resumed, &data, &config(2), &scratch("c"), |_| ())?;
        assert_eq!(weights(&resumed)?, first.0);
        for name in ["a", "b", "c"] {
            let _ = std::fs::remove_file(scratch(name));
        }
    }
    for name in ["cpu", "gpu", "cpu-sgd", "gpu-sgd"] {
        let _ = std::fs::remove_file(scratch(name));
    }
    Ok(())
}

/// A training step is recorded where nothing keeps it from that: its convolutions, sums and all.
#[cfg(feature = "cuda")]
#[test]
fn a_recording_does_its_work_again() -> Result<()> {
    use branchynet::kernels::cuda::replay::{Recording, rehearse};
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let network = build(0.0, device)?;
    let data = quadrants();
    let images = data.test.batch(&[0, 1, 2, 3, 4, 5], device)?;
    let forward = |images: &Tensor| -> branchynet::candle_core::Result<Tensor> {
        let logits =
            network.forward(images, &mut Pass::Evaluate).map_err(branchynet::candle_core::Error::wrap)?;
        Tensor::cat(&logits, 1)
    };
    let kept = rehearse(device, || forward(&images))?;
    let work = || kept.slice_set(&forward(&images)?, 0, 0);
    let recording = Recording::of(device, work);
    if std::env::var_os("EMULATED_KERNELS").is_some() {
        assert!(recording.is_err(), "the emulator records nothing");
        return Ok(());
    }
    let mut recording = recording?;
    for samples in [[6, 7, 8, 9, 10, 11], [5, 4, 3, 2, 1, 0]] {
        let others = data.test.batch(&samples, device)?;
        let expected = forward(&others)?.to_vec2::<f32>()?;
        images.slice_set(&others, 0, 0)?;
        recording.replay()?;
        assert_eq!(kept.to_vec2::<f32>()?, expected);
    }
    // What waits for the GPU cannot be recorded; the GPU goes on as if it had not been tried.
    let waits = Recording::of(device, || kept.to_vec2::<f32>().map(|_| ()));
    assert!(waits.is_err());
    assert!(kept.to_vec2::<f32>()?.iter().flatten().all(|logit| logit.is_finite()));
    Ok(())
}

#[test]
fn products_are_as_precise_as_was_asked() -> Result<()> {
    let Some((device, _turn)) = gpu() else {
        return Ok(());
    };
    let data = quadrants();
    let (here, there) = (build(0.0, &Device::Cpu)?, build(0.0, device)?);
    let logits = |network: &Network, device: &Device| -> Result<Vec<f32>> {
        let images = data.test.batch(&[0, 1, 2, 3, 4, 5], device)?;
        let mut all = Vec::new();
        for logits in network.forward(&images, &mut Pass::Evaluate)? {
            all.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    };
    let exact = logits(&here, &Device::Cpu)?;
    let distance = |precision: Precision| -> Result<f32> {
        Ok(furthest(&logits(&there.with_precision(precision)?, device)?, &exact))
    };
    let (f32, tf32) = (distance(Precision::F32)?, distance(Precision::Tf32)?);
    let bf16 = distance(Precision::Bf16)?;
    assert!(f32 < 1e-5, "f32: {f32}");
    assert!(tf32 > 2.0 * f32 && tf32 < 1e-2, "tf32: {tf32}, f32: {f32}");
    assert!(bf16 > 2.0 * tf32 && bf16 < 1e-1, "bf16: {bf16}, tf32: {tf32}");
    assert!(here.with_precision(Precision::Tf32).is_err());
    Ok(())
}

/// Needs the toolkit's run-time compiler and no GPU.
#[cfg(feature = "cuda")]
#[test]
fn kernels_compile_for_gpus_from_turing_to_blackwell() -> Result<()> {
    use branchynet::candle_core::DType;
    for architecture in ["compute_75", "compute_80", "compute_90", "compute_100"] {
        for dtype in [DType::F32, DType::F64] {
            let started = std::time::Instant::now();
            let ptx = branchynet::kernels::cuda::compile(architecture, dtype)?;
            assert_eq!(ptx.matches(".entry branchynet_").count(), 27, "{architecture}");
            println!("{architecture}, {dtype:?}: {:.2} s", started.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
