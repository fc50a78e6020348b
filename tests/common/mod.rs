//! Shared by the tests.

// Each test program uses a part of this.
#![allow(dead_code)]

use branchynet::candle_core::Device;
use branchynet::data::{Dataset, Role, Split, Test, Train, Validation};
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
