//! Times joint training and batch-1 inference of one network and prints a line of JSON.
//! `benches/speed.py` runs it in turn with PyTorch and ONNX Runtime; alone: `cargo bench --profile dev
//! --bench speed -- alexnet`. With DEVICE=cuda in the environment, and BATCH_SIZE and PRECISION, it times
//! training there, and inference in batches of one to 4096: `benches/gpu.py` runs that beside PyTorch.

use branchynet::data::Validation;
use branchynet::exits::{ExitPolicy, ExitRecord, Plan, Timer};
use branchynet::runs::Session;
use branchynet::training::{Config, Keep, train_with};
use branchynet::{Result, Rng};
use rand::{Rng as _, SeedableRng};
use std::time::Instant;

/// Images in a batch of inference.
const BATCH: usize = 64;

/// Median milliseconds for the exact Pareto front of a record of 10,000 samples with entropies of
/// all sizes.
fn record_ms(exits: usize) -> Result<f64> {
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
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(record.pareto_front(&costs)?);
            Ok(start.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<Result<_>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[2])
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
    println!(
        r#"{{"device": {device:?}, "training_images_per_second": {speed:.1}, "batches_ms": [{}]}}"#,
        batches.join(", ")
    );
    Ok(())
}

fn main() -> Result<()> {
    branchynet::prepare_process();
    let name = std::env::args().nth(1).filter(|name| !name.starts_with('-'));
    let name = name.unwrap_or("lenet".to_string());
    let session = Session::new(&name, |_| ())?;
    let (experiment, device) = (&session.experiment, &session.device);
    // Training steps per epoch, images timed one by one, rounds over them.
    let (steps, count, rounds) = match name.as_str() {
        "lenet" => (100, 2000, 3),
        "alexnet" => (20, 200, 3),
        "airbench" => (2, 100, 3),
        _ => (3, 30, 2),
    };
    let batch_size = match std::env::var_os("BATCH_SIZE") {
        Some(_) => experiment.config.batch_size,
        None if name == "airbench" => 1024,
        None => 128,
    };
    // A GPU takes some seconds for all images.
    let images = if device.is_cuda() { usize::MAX } else { batch_size * steps };
    let mut data = experiment.load()?;
    data.train = data.train.take(experiment.train_images.unwrap_or(images));
    data.validation = data.validation.take(100);
    let (baseline, network) = session.networks()?;
    let folder = std::env::temp_dir().join(format!("branchynet-speed-{}", std::process::id()));
    let config =
        Config { epochs: 4, batch_size, precision: experiment.config.precision, ..Config::default() };
    let keep = Keep { checkpoint: Some(folder.join("run.safetensors")), anew: false };
    let run = train_with(&network, &data, &config, &keep, &mut |_| ())?;
    let _ = std::fs::remove_dir_all(&folder);
    // The first epoch warms up.
    let mut speeds: Vec<f64> = run.history[1..].iter().map(|epoch| epoch.images_per_second).collect();
    speeds.sort_by(f64::total_cmp);
    let speed = speeds[speeds.len() / 2];
    let (images, _) = experiment.images(count)?;
    if !device.is_cpu() {
        let timer = Timer::new(&network, &baseline, images, 3)?;
        let device = branchynet::device_name(device);
        return on_device(&device, &timer, network.exits(), speed);
    }
    let timer = Timer::new(&network, &baseline, images.clone(), rounds)?;
    let timing = timer.exits()?;
    // The baseline alone, as the peers are timed: a little faster than in turn with the others, which
    // take its weights out of the cache.
    let (plan, all) = (Plan::new(&baseline)?, ExitPolicy::entropy([]));
    let alone = |threads: usize| -> Result<f64> {
        let (mut plan, mut times) = (plan.clone().threads(threads), Vec::new());
        for i in 0..images.len() * (rounds + 1) {
            let start = Instant::now();
            plan.classify(&images[i % images.len()], &all)?;
            if i >= images.len() {
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    };
    // Batches, on all threads.
    let batch: Vec<f32> = images.iter().cycle().take(BATCH).flatten().copied().collect();
    let mut whole = plan.clone();
    let mut batches: Vec<f64> = Vec::new();
    for i in 0..4 + 40 * rounds * images.len() / (20 * BATCH) {
        let start = Instant::now();
        whole.classify_all(&batch, &all)?;
        if i > 0 {
            batches.push(BATCH as f64 / start.elapsed().as_secs_f64());
        }
    }
    batches.sort_by(f64::total_cmp);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut fields = vec![
        format!(r#""training_images_per_second": {speed:.1}"#),
        format!(r#""alone_1_ms": {:.5}"#, alone(1)?),
        format!(r#""alone_{threads}_ms": {:.5}"#, alone(threads)?),
        format!(r#""batch_images_per_second": {:.1}"#, batches[batches.len() / 2]),
        format!(r#""macs": {}"#, baseline.costs()[0].macs),
        format!(r#""peak_gflops": {:.1}"#, branchynet::kernels::inference::peak()),
        format!(r#""baseline_ms": {:.5}"#, timing.baseline.median),
    ];
    for (i, (exit, trunk)) in timing.exits.iter().zip(&timing.trunk_only).enumerate() {
        let i = i + 1;
        fields.push(format!(r#""exit_{i}_ms": {:.5}"#, exit.median));
        fields.push(format!(r#""exit_{i}_trunk_ms": {:.5}"#, trunk.median));
    }
    if name == "lenet" {
        fields.push(format!(r#""curve_ms": {:.2}"#, record_ms(2)?));
        fields.push(format!(r#""front_ms": {:.1}"#, record_ms(3)?));
    }
    println!("{{{}}}", fields.join(", "));
    Ok(())
}
