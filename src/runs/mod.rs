//! Runs: a network with its data and settings, what training gave, and where that is kept.
//!
//! Notebooks and program share what is here, so that each finds what the other has trained. This folder
//! uses networks, training, exits and data. Begin with `experiment.rs`, whose fields are the settings, then
//! `results.rs`.

mod arrays;
mod choices;
mod experiment;
mod foreign;
mod given;
mod onnx;
mod presets;
mod results;
mod run_info;
mod seeds;
mod session;
mod settings;
mod summary;
mod weights;

pub use choices::Choice;
pub use experiment::{Experiment, Trained};
pub use given::{OnnxFile, OnnxNetwork, Recording};
pub use onnx::{Form, OnnxOptions};
pub use presets::names;
pub use results::{Baseline, Results};
pub use run_info::RunInfo;
pub use seeds::{Quantity, Seeds, Spread};
pub use session::{Reporter, Session, Training, one_line};
pub use settings::Settings;
pub use summary::{Accuracy, Summary};
pub use weights::{Pretrained, WeightsHeader, policy_for};
