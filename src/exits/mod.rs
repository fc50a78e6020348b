//! Early exit: who is sure enough to leave, what that gives at every threshold, and what it costs in time.
//!
//! A [`Rule`] is a [`Criterion`] ("how unsure is this exit?") with a threshold for each exit but the
//! last. The same rule serves [`crate::Network::classify`] for batches, [`Plan`] for single images, and
//! [`ExitRecord`], which replays both from one pass. This folder uses networks, data and kernels; begin
//! with `criterion.rs`, then `classify.rs`, which is the paper's figure 2.

mod calibration;
mod classify;
mod criterion;
mod front;
mod guarantee;
mod latency;
mod outcome;
mod plan;
mod record;

pub use calibration::Bin;
pub use classify::{Answer, Rule};
pub use criterion::{Criterion, Own, Reading, Seen};
pub(crate) use front::for_accuracy;
pub use front::{knee, undominated};
pub use guarantee::Loss;
pub use latency::{BatchTime, Latency, Mix, Timer, Timing, percentile};
pub use outcome::Outcome;
pub use plan::Plan;
pub use record::ExitRecord;
