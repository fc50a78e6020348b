//! BranchyNet on candle: deep networks with early exits, after Teerapittayanon, McDanel and Kung,
//! "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks", ICPR 2016
//! (<https://arxiv.org/abs/1709.01686>).
//!
//! A [`Network`] is a flat list of layers with a [`networks::branch`] where it forks.
//! [`training::train`] trains all its exits jointly; [`Network::classify`] lets each sample leave at
//! the first exit that is sure; an [`exits::ExitRecord`] answers from one pass what happens
//! at every threshold; an [`exits::Timer`] says what it costs in time; [`runs`] keeps what was trained.
//!
//! Folders use those before them, never those behind ([`design`]): [`kernels`], [`data`], [`networks`],
//! [`training`], [`exits`], [`runs`]. Beside the library stand the program and the notebooks, packages of their own.
//!
//! ```
//! use branchynet::prelude::*;
//!
//! let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
//! let images = Tensor::zeros((3, 1, 28, 28), DType::F32, &Device::Cpu)?;
//! let answers = network.classify(&images, &ExitPolicy::entropy([0.025]))?;
//! assert_eq!(answers.len(), 3);
//! # Ok::<(), branchynet::Error>(())
//! ```

mod checked_file;
pub mod data;
#[doc = include_str!("../docs/design.md")]
pub mod design {}
mod device;
mod error;
pub mod exits;
pub mod files;
mod layers;
pub mod networks;
pub mod runs;
pub mod text;
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
    pub use crate::data::{Dataset, Preprocessing, Raw, Source, Split, Test, Train, Validation};
    pub use crate::exits::{
        Answer, BatchTime, Criterion, ExitPolicy, ExitRecord, Loss, OperatingPoint, Plan, Seen, Timer,
        Timing, knee, pareto_optimal,
    };
    pub use crate::files::commit;
    pub use crate::kernels::{Precision, cross_entropy};
    pub use crate::networks::{
        BranchStyle, Layer, Network, Pass, Placement, Start, average_pool, b_airbench, b_alexnet, b_lenet,
        b_resnet110, b_resnet110_standard, batch_norm, branch, conv, dropout, gelu, linear, lrn, max_pool,
        max_pool_inside, plain_norm, relu, residual, resnet, scale, with_branches, without_branches,
    };
    pub use crate::runs::{
        Choice, Experiment, Pretrained, Results, Seeds, Session, Spread, Summary, Trained, Training,
    };
    pub use crate::text::percent;
    pub use crate::training::{self, Config, Run, evaluate, load_checkpoint, train};
    pub use crate::{Error, ErrorKind, Result, Rng, device, device_name};
    pub use candle_core::{DType, Device, Tensor, Var};
    pub use rand::SeedableRng;
}

/// The generator of every random number here: seeded, so that runs can be repeated.
pub type Rng = rand::rngs::StdRng;
