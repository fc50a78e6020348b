//! Data sets: images and labels in memory, their splits, and how they are prepared.
//!
//! Thresholds may be chosen on [`Validation`] only, so splits are types. This folder uses the kernels
//! (to keep a split on a GPU) and nothing else; begin with [`Dataset`].

mod dataset;
pub mod labels;
mod patches;
mod preprocess;
#[cfg(feature = "cuda")]
mod resident;
mod split;

pub use dataset::{Dataset, Raw, to_bytes};
pub use preprocess::Preprocessing;
pub use split::{Augmentation, Split};

/// Samples that weights are trained on.
#[derive(Debug, Clone, Copy)]
pub enum Train {}
/// Samples held out of the training files, on which thresholds are chosen.
#[derive(Debug, Clone, Copy)]
pub enum Validation {}
/// Samples that results are reported on.
#[derive(Debug, Clone, Copy)]
pub enum Test {}

/// The part that a split plays.
pub trait Role: Clone + Copy + std::fmt::Debug + 'static {
    /// For tables and figures.
    const NAME: &'static str;
}
impl Role for Train {
    const NAME: &'static str = "train";
}
impl Role for Validation {
    const NAME: &'static str = "validation";
}
impl Role for Test {
    const NAME: &'static str = "test";
}

/// Pixels that a shifted image may lose at each side ([`Split::augmented_batch`]).
const SHIFT: usize = 4;
