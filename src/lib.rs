//! BranchyNet on candle.
mod error;
mod lenet;
pub mod network;
pub mod ops;
mod simd;

pub use candle_core;
pub use candle_nn;
pub use plotly;
pub use polars;

pub use error::{Error, Result};
pub use lenet::b_lenet;
pub use network::{Network, Pass};

/// The generator of every random number here: seeded, so that runs can be repeated.
pub type Rng = rand::rngs::StdRng;
