//! Times joint training and batch-1 inference of B-LeNet and prints one line of JSON.
//! `benches/speed.py` runs it in turn with PyTorch and ONNX Runtime; alone: `cargo bench --bench
//! speed`.

use branchynet::data::Validation;
use branchynet::data::mnist::load_mnist;
use branchynet::network::without_branches;
use branchynet::record::ExitRecord;
use branchynet::train::{Config, train_at};
use branchynet::{Network, Result, Rng, b_lenet, candle_core::Device, latency};
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

fn main() -> Result<()> {
    let mut data = load_mnist()?;
    data.train = data.train.take(128 * 100);
    data.validation = data.validation.take(100);
    let network = |layers| Network::new("B-LeNet", [1, 28, 28], layers, 0, &Device::Cpu);
    let (branchy, baseline) = (network(b_lenet())?, network(without_branches(&b_lenet()))?);
    let folder = std::env::temp_dir().join(format!("branchynet-speed-{}", std::process::id()));
    let config = Config {
        epochs: 6,
        batch_size: 128,
        ..Config::default()
    };
    let run = train_at(
        &branchy,
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
    let timing = latency::measure(&branchy, &baseline, &data.test, &[0.025], 3)?;
    let (curve, front) = (record_ms(2)?, record_ms(3)?);
    println!(
        r#"{{"training_images_per_second": {:.0}, "baseline_ms": {:.5}, "exit_1_ms": {:.5}, "exit_2_ms": {:.5}, "exit_1_trunk_ms": {:.5}, "exit_2_trunk_ms": {:.5}, "curve_ms": {curve:.2}, "front_ms": {front:.1}}}"#,
        speeds[speeds.len() / 2],
        timing.baseline.median,
        timing.exits[0].median,
        timing.exits[1].median,
        timing.trunk_only[0].median,
        timing.trunk_only[1].median,
    );
    Ok(())
}
