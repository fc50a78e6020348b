//! Times one network: each line of standard input names a cell of `benches/speed.py`, which runs it in turn with other
//! libraries; alone: `echo "1 1" | cargo bench --profile dev --bench speed -- alexnet`. Cells are `BATCH THREADS` for
//! milliseconds a batch of inference without branches, `training` for images a second, `macs`, `peak` for the GFLOP/s
//! that a thread reaches, and `front EXITS` for milliseconds for the exact Pareto front of a record. With DEVICE=cuda in
//! the environment, and BATCH_SIZE and PRECISION, it times training there at once, and inference in batches of one to
//! 4096: `benches/gpu.py` runs that beside PyTorch.

use branchynet::candle_core::Device;
use branchynet::data::{Dataset, Split, Validation};
use branchynet::exits::{ExitPolicy, ExitRecord, Plan, Timer};
use branchynet::networks::{Network, average_pool, conv, linear, relu};
use branchynet::training::{Config, Keep, train_with};
use branchynet::{Result, Rng};
use branchynet_runs::Session;
use rand::{Rng as _, SeedableRng};
use serve::{Measure, median_ms};

#[path = "runtimes/src/serve.rs"]
mod serve;

/// What most networks spend their time in, and no more: 24 convolutions of 64 channels.
fn stack() -> Result<Network> {
    let mut layers: Vec<_> = (0..24).flat_map(|_| [conv(64, 64, 3, 1), relu()]).collect();
    layers.extend([average_pool(32, 1), linear(64, 10)]);
    Network::new("stack", [64, 32, 32], layers, 0, &Device::Cpu)
}

/// Median milliseconds for the exact Pareto front of a record of 10,000 samples with entropies of
/// all sizes.
fn record(exits: usize) -> Result<Measure> {
    let mut rng = Rng::seed_from_u64(1);
    let labels: Vec<u32> = (0..10_000).map(|_| rng.random_range(0..10)).collect();
    let logits = (0..exits)
        .map(|exit| {
            let mut row = |label: u32| {
                let sure = rng.random_range(0.0..12f32);
                let answer = if rng.random_range(0.0..14f32) < sure + exit as f32 + 4.0 {
                    label
                } else {
                    (label + 1) % 10
                };
                (0..10).map(move |class| if class == answer { sure } else { 0.0 }).collect::<Vec<f32>>()
            };
            labels.iter().flat_map(|&label| row(label)).collect()
        })
        .collect();
    let record = ExitRecord::<Validation>::from_logits(logits, labels)?;
    let costs: Vec<f64> = (1..=exits).map(|exit| exit as f64).collect();
    Ok(Box::new(move || {
        median_ms(|| {
            std::hint::black_box(record.pareto_front(&costs)?);
            Ok(())
        })
    }))
}

/// Trains for some steps on random images; the second of two epochs counts, in images a second.
fn training(session: &Session, network: Network, steps: usize) -> Result<Measure> {
    let experiment = &session.experiment;
    let batch_size = match std::env::var_os("BATCH_SIZE") {
        Some(_) => experiment.config.batch_size,
        None if session.name == "airbench" => 1024,
        None => 128,
    };
    let mut rng = Rng::seed_from_u64(0);
    let image = experiment.data.image()?;
    let mut part = |count: usize| {
        let images = (0..count * network.input().len()).map(|_| rng.random()).collect();
        (images, (0..count).map(|_| rng.random_range(0..10)).collect::<Vec<u32>>())
    };
    let (train, held_out, test) =
        (part(experiment.train_images.unwrap_or(batch_size * steps)), part(100), part(100));
    let data = Dataset {
        name: "noise".to_string(),
        classes: (0..10).map(|class| class.to_string()).collect(),
        train: Split::new(train.0, train.1, image)?,
        validation: Split::new(held_out.0, held_out.1, image)?,
        test: Split::new(test.0, test.1, image)?,
        checksum: 0,
    };
    let config =
        Config { epochs: 2, batch_size, precision: experiment.config.precision, ..Config::default() };
    let folder = std::env::temp_dir().join(format!("branchynet-speed-{}", std::process::id()));
    let keep = Keep { checkpoint: Some(folder.join("run.safetensors")), anew: true };
    Ok(Box::new(move || {
        let run = train_with(&network, &data, &config, &keep, &mut |_| ());
        let _ = std::fs::remove_dir_all(&folder);
        Ok(run?.history[1].images_per_second)
    }))
}

/// A batch of random images through a network without branches.
fn inference(network: &Network, batch: usize, threads: usize) -> Result<Measure> {
    let plan = if batch == 1 { Plan::new(network)?.threads(threads) } else { Plan::for_batches(network)? };
    let (mut plan, all) = (plan, ExitPolicy::entropy([]));
    let mut rng = Rng::seed_from_u64(0);
    let images: Vec<f32> = (0..batch * network.input().len()).map(|_| rng.random()).collect();
    Ok(Box::new(move || {
        median_ms(|| {
            match batch {
                1 => drop(plan.classify(&images, &all)?),
                _ => drop(plan.classify_all(&images, &all)?),
            }
            Ok(())
        })
    }))
}

/// What is timed on a GPU: training, and batches of which as many leave at each exit.
fn on_device(device: &str, timer: &Timer, exits: usize, speed: f64) -> Result<()> {
    let shares = vec![1.0 / exits as f64; exits];
    let sizes = [1, 16, 256, 1024, 4096];
    let times = timer.batches(&shares, &sizes)?;
    let batches: Vec<String> = times
        .iter()
        .map(|t| {
            let batch = t.batch as f64;
            format!("[{}, {:.5}, {:.5}]", t.batch, t.baseline * batch, t.early_exit * batch)
        })
        .collect();
    println!(r#"{{"device": {device:?}, "value": {speed:.1}, "batches_ms": [{}]}}"#, batches.join(", "));
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    branchynet::prepare_process();
    let name = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let name = name.unwrap_or("lenet".to_string());
    let (session, baseline, network) = match name.as_str() {
        "stack" => (None, stack()?, stack()?),
        _ => {
            let session = Session::new(&name, |_| ())?;
            let (baseline, network) = session.networks()?;
            (Some(session), baseline, network)
        }
    };
    let steps = match name.as_str() {
        "lenet" => 100,
        "alexnet" => 20,
        "airbench" => 1,
        _ => 3,
    };
    if let Some(session) = session.as_ref().filter(|session| !session.device.is_cpu()) {
        let speed = training(session, network.clone(), 45_000 / 128)?()?;
        let timer = Timer::new(&network, &baseline, session.experiment.random_images(100)?, 3)?;
        let device = branchynet::device_name(&session.device);
        return Ok(on_device(&device, &timer, network.exits(), speed)?);
    }
    let of = |number: f64| -> Measure { Box::new(move || Ok(number)) };
    serve::serve(|cell| {
        let numbers: Vec<usize> = cell.split(' ').filter_map(|word| word.parse().ok()).collect();
        Ok(match (cell, session.as_ref(), numbers.as_slice()) {
            ("training", Some(session), _) => training(session, network.clone(), steps)?,
            ("macs", ..) => of(baseline.costs()[0].macs as f64),
            ("peak", ..) => of(branchynet::kernels::inference::peak()),
            (_, _, &[batch, threads]) => inference(&baseline, batch, threads)?,
            (_, _, &[exits]) => record(exits)?,
            _ => return Err(format!("there is no cell {cell:?}").into()),
        })
    })
}
