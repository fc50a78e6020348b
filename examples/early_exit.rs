//! Trains B-LeNet on images that are tensors, chooses a threshold without loss, and classifies with early exit:
//! `cargo run --example early_exit`.

use branchynet::prelude::*;
use branchynet::training::{Keep, train_with};

/// Images (n, 1, 28, 28) in 0..=1 with a bright column that tells the class of ten, and their labels.
fn images(n: usize) -> Result<(Tensor, Tensor)> {
    let labels: Vec<u32> = (0..n as u32).map(|i| i * 7 % 10).collect();
    let pixels = Tensor::rand(0f32, 0.6, (n, 1, 28, 28), &Device::Cpu)?;
    let columns =
        labels.iter().flat_map(|label| (0..28).map(move |x| if x / 2 == label + 2 { 0.4f32 } else { 0.0 }));
    let columns = Tensor::from_iter(columns, &Device::Cpu)?.reshape((n, 1, 1, 28))?;
    Ok((pixels.broadcast_add(&columns)?, Tensor::new(labels, &Device::Cpu)?))
}

fn main() -> Result<()> {
    branchynet::prepare_process();
    let ((train, train_labels), (test, test_labels)) = (images(2000)?, images(200)?);
    // One training image in ten is held out for validation.
    let data = Dataset::from_tensors("columns", (&train, &train_labels), (&test, &test_labels), 10, &[])?;
    let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
    let keep = Keep { checkpoint: Some(std::env::temp_dir().join("early_exit.safetensors")), anew: true };
    let config = Config { epochs: 3, batch_size: 50, ..Config::default() };
    train_with(&network, &data, &config, &keep, &mut |progress| println!("{}", progress.text()))?;

    // Chosen on Validation: the cheapest threshold that is as accurate there as the last exit.
    let record = ExitRecord::collect(&network, &data.validation)?;
    let chosen = record.choose_for_accuracy(record.last_accuracy(), &network.macs())?;
    let answers = network.classify(&test, &record.policy(&chosen.thresholds))?;
    let early = answers.iter().filter(|answer| answer.exit == 0).count();
    println!("T = {:?}: {early} of {} test images leave at exit 1", chosen.thresholds, answers.len());
    Ok(())
}
