//! BranchyNet on candle: deep networks with early exits, after Teerapittayanon, McDanel and Kung,
//! "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks", ICPR 2016.
//!
//! A [`Network`] is a flat list of layers with a [`network::branch`] where it forks.
//! [`train::train`] trains all its exits jointly; [`Network::classify`] lets each sample leave at
//! the first exit that is sure; a [`record::ExitRecord`] answers from one pass what happens
//! at every threshold; [`latency::measure`] says what it costs in time. `notebooks/` put these
//! together, one experiment each.
//!
//! ```
//! use branchynet::prelude::*;
//!
//! let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
//! let images = Tensor::zeros((3, 1, 28, 28), DType::F32, &Device::Cpu)?;
//! let answers = network.classify(&images, &[0.025])?;
//! assert_eq!(answers.len(), 3);
//! # Ok::<(), branchynet::Error>(())
//! ```

mod alexnet;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod early_exit;
mod error;
pub mod experiment;
pub mod figures;
pub mod latency;
mod lenet;
pub mod network;
pub mod notebook;
pub mod ops;
pub mod paper;
pub mod plan;
pub mod precision;
pub mod record;
mod resnet;
pub mod results;
mod simd;
pub mod table1;
pub mod tape;
pub mod train;

pub use candle_core;
pub use candle_nn;
pub use plotly;
pub use polars;

pub use alexnet::b_alexnet;
pub use error::{Error, Result};
pub use lenet::b_lenet;
pub use network::{Network, Pass};
pub use resnet::{b_resnet110, b_resnet110_standard};

/// What a notebook needs, in one `use`.
pub mod prelude {
    pub use crate::data::cifar10::{CIFAR10_CLASSES, load_cifar10};
    pub use crate::data::mnist::load_mnist;
    pub use crate::data::{Dataset, Preprocessing, Split, Test, Train, Validation};
    pub use crate::device;
    pub use crate::device_name;
    pub use crate::early_exit::Answer;
    pub use crate::experiment::Experiment;
    pub use crate::figures;
    pub use crate::latency::{self, Timing};
    pub use crate::network::{
        Layer, Network, Pass, average_pool, batch_norm, branch, conv, dropout, linear, lrn,
        max_pool, relu, residual, without_branches,
    };
    pub use crate::notebook::{self, save_table, setting, switch, table};
    pub use crate::paper::paper;
    pub use crate::plan::Plan;
    pub use crate::precision::Precision;
    pub use crate::record::{ExitRecord, Outcome, knee, undominated};
    pub use crate::results::Results;
    pub use crate::table1::TableOne;
    pub use crate::train::{Config, Run, evaluate, load_checkpoint, train};
    pub use crate::{Error, Result, b_alexnet, b_lenet, b_resnet110, b_resnet110_standard};
    pub use candle_core::{DType, Device, Tensor, Var};
    pub use plotly::Plot;
    pub use polars::prelude::{DataFrame, df};
}

/// The generator of every random number here: seeded, so that runs can be repeated.
pub type Rng = rand::rngs::StdRng;

/// The device called `cpu` or `cuda`. Fails, saying why, where there is no such device or this was
/// built without support for it.
pub fn device(name: &str) -> Result<candle_core::Device> {
    match name {
        "cpu" => Ok(candle_core::Device::Cpu),
        #[cfg(not(feature = "cuda"))]
        "cuda" => error::bail!(
            "this was built for the CPU only; build with `--features cuda`, or use cpu"
        ),
        #[cfg(feature = "cuda")]
        "cuda" => cuda::device().map_err(|error| {
            let error = Error::from(error);
            Error::new(format!("no CUDA device answers ({error}); use cpu"))
        }),
        _ => error::bail!("there is no device {name:?}: use cpu or cuda"),
    }
}

/// What a device is called in tables: `CPU`, or what the GPU's driver calls it.
pub fn device_name(device: &candle_core::Device) -> String {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        let name = device.cuda_stream().context().name();
        return name.unwrap_or_else(|_| "NVIDIA GPU".to_string());
    }
    debug_assert!(device.is_cpu());
    "CPU".to_string()
}

/// Settings of the process that training and evaluation profit from; called by both.
fn settle() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .to_string();
        // candle reads the number of processors from the system anew for every matrix product,
        // unless told, and keeps a pool of its own whose threads spin for work and so take
        // the cores from rayon's.
        for (name, value) in [
            ("RAYON_NUM_THREADS", threads.as_str()),
            ("CANDLE_NUM_THREADS", "1"),
        ] {
            if std::env::var_os(name).is_none() {
                // Safety: nothing here reads the environment from another thread without std's
                // lock.
                unsafe { std::env::set_var(name, value) };
            }
        }
        // Training frees and allocates the same large tensors at every step. By default glibc
        // returns them to the system each time, and fetching the pages again costs as much
        // as a small convolution.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // Safety: mallopt only sets numbers of the allocator. 32 MiB is the largest threshold it
        // accepts.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    });
}
