//! Early exit: who is sure enough to leave, what that gives at every threshold, and what it costs in time.
//!
//! A [`ExitPolicy`] is a [`Readout`] (a [`Criterion`], "how unsure is this exit?", with temperatures, and whether exits
//! answer together) and a threshold for each exit but the last. The same policy serves [`crate::Network::classify`] for batches, [`Plan`] for single images, and
//! [`ExitRecord`], which replays both from one pass. This folder uses networks, data and kernels; begin
//! with `criterion.rs`, then `policy.rs`, which is the paper's figure 2.

mod anytime;
mod budget;
mod calibration;
mod classify;
mod criterion;
mod failure;
mod front;
mod guarantee;
mod latency;
mod logistic;
mod operating_point;
mod plan;
mod policy;
mod promise;
mod readout;
mod record;
mod shares;
mod watch;

pub use anytime::{Expert, Overthinking};
pub use budget::Budget;
pub use criterion::{Criterion, Gate, Own, Prediction, Seen};
pub use failure::FailurePrediction;
pub use front::{for_accuracy, for_cost, knee, pareto_optimal};
pub use latency::{BatchTime, Latency, Mix, Timer, Timing, percentile};
pub use operating_point::OperatingPoint;
pub use plan::Plan;
pub use policy::{Answer, ExitPolicy};
pub use promise::{Loss, Promise};
pub use readout::Readout;
pub use record::ExitRecord;
pub use watch::Watch;
