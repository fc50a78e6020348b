//! Training: all exits jointly, or a network with its last exit only, which is the baseline.
//!
//! The loss is `L = Σ_n w_n · CE(softmax(z_n), y)` over the exits (paper, equation 1), or what `loss.rs` makes of
//! it, minimised by Adam or SGD. After every epoch a checkpoint is written atomically; a run that was killed continues from
//! the last one and ends with the weights, bit for bit, that it would have had. For that every
//! epoch has a random generator of its own, derived from the seed and the epoch's number: nothing
//! but the number needs to be stored. This folder uses networks, data and kernels; begin with
//! `config.rs`, the settings, then `run.rs`, the loop.

mod average;
mod cascade;
mod checkpoint;
mod config;
mod loss;
mod objective;
mod optimizer;
mod progress;
#[cfg(feature = "cuda")]
mod replay;
mod run;
mod scores;

pub use checkpoint::load_checkpoint;
pub use config::{Config, OptimizerName, Schedule};
pub use objective::Objective;
pub use optimizer::{Adam, Optimizer, Sgd};
pub use progress::{Progress, plain};
pub use run::{Epoch, Keep, Run, any_of, find, train, train_with};
pub use scores::{Scores, evaluate};

/// Images per pass when nothing is trained.
pub const EVALUATION_BATCH: usize = 250;
