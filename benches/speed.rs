//! Times joint training and batch-1 inference of B-LeNet and prints one line of JSON. `benches/speed.py` runs it in turn with
//! PyTorch and ONNX Runtime; alone: `cargo bench --bench speed`.

use branchynet::data::load_mnist;
use branchynet::network::without_branches;
use branchynet::train::{Config, train_at};
use branchynet::{Network, Result, b_lenet, candle_core::Device, latency};

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
    println!(
        r#"{{"training_images_per_second": {:.0}, "baseline_ms": {:.5}, "exit_1_ms": {:.5}, "exit_2_ms": {:.5}, "exit_1_trunk_ms": {:.5}, "exit_2_trunk_ms": {:.5}}}"#,
        speeds[speeds.len() / 2],
        timing.baseline.median,
        timing.exits[0].median,
        timing.exits[1].median,
        timing.trunk_only[0].median,
        timing.trunk_only[1].median,
    );
    Ok(())
}
