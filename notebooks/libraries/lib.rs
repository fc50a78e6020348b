//! What notebooks use of others, linked once.

pub use {candle_core, candle_nn, plotly, polars};
