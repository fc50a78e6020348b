//! Times joint training and batch-1 inference of one network and prints a line of JSON.
//! `benches/speed.py` runs it in turn with PyTorch and ONNX Runtime; alone: `cargo bench --profile dev
//! --bench speed -- alexnet`. With DEVICE=cuda in the environment, and BATCH_SIZE and PRECISION, it times
//! training there, and inference in batches of one to 4096: `benches/gpu.py` runs that beside PyTorch.

use branchynet::data::Validation;
use branchynet::experiment::Experiment;
use branchynet::notebook::setting;
use branchynet::plan::Plan;
use branchynet::precision::Precision;
use branchynet::record::ExitRecord;
use branchynet::train::{Config, train_at};
use branchynet::{Network, Result, Rng, latency};
use rand::{Rng as _, SeedableRng};
use std::time::Instant;

/// Median milliseconds for the exact Pareto front of a record of 10,000 samples with entropies of
/// all sizes.
fn record_ms(exits: usize) -> Result<f64> {
    let mut rng = Rng::seed_from_u64(1);
    let labels: Vec<u8> = (0..10_000).map(|_| rng.random_range(0..10)).collect();
    let logits = (0..exits)
        .map(|exit| {
            let mut row = |label: u8| {
                let sure = rng.random_range(0.0..12f32);
                let answer = if rng.random_range(0.0..14f32) < sure + exit as f32 + 4.0 {
                    label
                } else {
                    (label + 1) % 10
                };
                (0..10)
                    .map(move |class| if class == answer { sure } else { 0.0 })
                    .collect::<Vec<f32>>()
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
fn on_device(baseline: &Network, network: &Network, images: &[Vec<f32>], speed: f64) -> Result<()> {
    let exits = network.exits();
    let shares = vec![1.0 / exits as f64; exits];
    let sizes = [1, 16, 256, 1024, 4096];
    let times = latency::measure_batches(network, baseline, images, &shares, &sizes, 3)?;
    let batches: Vec<String> = times
        .iter()
        .map(|t| format!("[{}, {:.5}, {:.5}]", t.batch, t.baseline, t.early_exit))
        .collect();
    println!(
        r#"{{"device": {:?}, "training_images_per_second": {speed:.1}, "batches_ms": [{}]}}"#,
        branchynet::device_name(network.device()),
        batches.join(", ")
    );
    Ok(())
}

fn main() -> Result<()> {
    let name = std::env::args()
        .nth(1)
        .filter(|name| !name.starts_with('-'));
    let name = name.unwrap_or("lenet".to_string());
    let experiment = Experiment::named(&name)?;
    // Training steps an epoch, images timed one by one, rounds over them.
    let (steps, count, rounds) = match name.as_str() {
        "lenet" => (100, 2000, 3),
        "alexnet" => (20, 200, 3),
        _ => (3, 30, 2),
    };
    let device = branchynet::device(&setting("DEVICE", "cpu".to_string())?)?;
    let batch_size = setting("BATCH_SIZE", 128)?;
    // A GPU takes some seconds for all images.
    let images = if device.is_cuda() {
        usize::MAX
    } else {
        batch_size * steps
    };
    let images = setting("IMAGES", images)?;
    let mut data = experiment.load()?;
    data.train = data.train.take(images);
    data.validation = data.validation.take(100);
    let (baseline, network) = experiment.networks(&device)?;
    let folder = std::env::temp_dir().join(format!("branchynet-speed-{}", std::process::id()));
    let config = Config {
        epochs: 4,
        batch_size,
        precision: setting("PRECISION", Precision::F32)?,
        ..Config::default()
    };
    let run = train_at(
        &network,
        &data,
        &config,
        &folder.join("run.safetensors"),
        |_| (),
    )?;
    let _ = std::fs::remove_dir_all(&folder);
    // The first epoch warms up.
    let mut speeds: Vec<f64> = run.history[1..]
        .iter()
        .map(|epoch| epoch.images_per_second)
        .collect();
    speeds.sort_by(f64::total_cmp);
    let speed = speeds[speeds.len() / 2];
    let (images, _) = latency::images(&experiment, count)?;
    if !device.is_cpu() {
        return on_device(&baseline, &network, &images, speed);
    }
    let timing = latency::measure(&network, &baseline, &images, rounds)?;
    // The baseline alone, as the peers are timed: a little faster than in turn with the others, which
    // take its weights out of the cache.
    let mut plan = Plan::new(&baseline)?;
    let mut alone = Vec::new();
    for i in 0..images.len() * (rounds + 1) {
        let start = Instant::now();
        plan.classify(&images[i % images.len()], &[])?;
        if i >= images.len() {
            alone.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    alone.sort_by(f64::total_cmp);
    let mut fields = vec![
        format!(r#""training_images_per_second": {speed:.1}"#),
        format!(r#""alone_ms": {:.5}"#, alone[alone.len() / 2]),
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
