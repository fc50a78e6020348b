//! Deep networks with early exits on candle, after Teerapittayanon, McDanel and Kung, "BranchyNet: Fast Inference via Early
//! Exiting from Deep Neural Networks", ICPR 2016 (<https://arxiv.org/abs/1709.01686>).
//!
//! A *trunk* is a deep network; a *branch* leaves it half-way and ends in a classifier of its own. Every classifier is an
//! *exit*, the trunk's own is the last. A sample leaves at the first exit that is sure of it: whose *uncertainty*, by a
//! *criterion* such as the entropy of the softmax, is below that exit's *threshold*. Criterion and thresholds are an
//! *exit policy*.
//!
//! ```
//! use branchynet::prelude::*;
//! use branchynet::training::{Keep, train_with};
//!
//! // Data: images in tensors, arrays or files; one training image in ten is held out for validation. Here: dark or bright.
//! let part = |n: usize| {
//!     let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
//!     (labels.iter().flat_map(|&label| [40 + 120 * label as u8; 64]).collect(), labels)
//! };
//! let raw = Raw { image: [1, 8, 8], train: part(200), test: part(20) };
//! let data = Dataset::from_arrays("brightness", raw, 10, &["dark", "bright"])?;
//!
//! // A network is a flat list, with a branch where it forks. Layers that do not fit are named with both shapes.
//! let layers = [conv(1, 4, 3, 1), branch([relu(), linear(256, 2)]), relu(), max_pool(2, 2), linear(64, 2)];
//! let network = Network::new("small", [1, 8, 8], layers, 0, &Device::Cpu)?;
//!
//! // All exits are trained jointly. A run that is interrupted goes on from its last epoch, bit for bit.
//! let config = Config { epochs: 2, batch_size: 20, ..Config::default() };
//! let checkpoint = std::env::temp_dir().join(format!("guide-{}.safetensors", std::process::id()));
//! let keep = Keep { checkpoint: Some(checkpoint.clone()), anew: true };
//! train_with(&network, &data, &config, &keep, &mut |progress| println!("{}", progress.text()))?;
//!
//! // One pass says what happens at every threshold; costs are multiply-accumulates, milliseconds, or what you pay.
//! let record = ExitRecord::collect(&network, &data.validation)?;
//! let chosen = record.choose_for_accuracy(record.last_accuracy(), &network.macs())?;
//!
//! // Images that leave early are not computed any further.
//! let images = data.test.batch(&[0, 1, 2], &Device::Cpu)?;
//! for answer in network.classify(&images, &record.policy(&chosen.thresholds))? {
//!     println!("{} at exit {}", data.classes[answer.label], answer.exit + 1);
//! }
//! # std::fs::remove_file(&checkpoint)?;
//! # Ok::<(), branchynet::Error>(())
//! ```
//!
//! - [`data`]: data sets, splits, preprocessing; thresholds are chosen on [`data::Validation`] only, and splits are types.
//! - [`networks`]: the lists, B-LeNet, B-AlexNet, B-ResNet-110 and B-Airbench among them.
//! - [`training`]: the settings and the loop.
//! - [`exits`]: criteria, policies, records with exact Pareto fronts, thresholds with a guarantee, what watches it while
//!   images shift, and honest time.
//! - [`kernels`]: the operations beneath. [`design`] says why things are as they are.
//!
//! The package `branchynet-runs` has what programs and notebooks need besides: data sets by name and files of data, presets,
//! records of runs, trained weights, ONNX.
//!
//! Call [`prepare_process`] first in a program that trains on the CPU: it is faster then.

pub mod checked_file;
pub mod data;
#[doc = include_str!("../docs/design.md")]
pub mod design {}
mod device;
mod error;
pub mod exits;
pub mod files;
mod layers;
pub mod networks;
pub mod training;

pub use branchynet_kernels as kernels;
pub use candle_core;
pub use candle_nn;
pub use clap;

pub use device::{device, device_name, prepare_process};
pub use error::{Error, ErrorKind, Result};
pub use networks::Network;

/// What most programs and notebooks need, in one `use`.
pub mod prelude {
    pub use crate::data::{Dataset, Preprocessing, Raw, Split, Test, Train, Validation};
    pub use crate::exits::{
        Answer, BatchTime, Budget, Criterion, ExitPolicy, ExitRecord, Expert, Gate, Loss, OperatingPoint,
        Plan, Readout, Seen, Timer, Timing, Watch, knee, pareto_optimal,
    };
    pub use crate::files::commit;
    pub use crate::kernels::{Precision, Zeros, cross_entropy};
    pub use crate::networks::*;
    pub use crate::training::{self, Config, Run, evaluate, load_checkpoint, train};
    pub use crate::{Error, ErrorKind, Result, Rng, device, device_name};
    pub use candle_core::{DType, Device, Tensor, Var};
    pub use rand::SeedableRng;
}

/// The generator of every random number here: seeded, so that runs can be repeated.
pub type Rng = rand::rngs::StdRng;
