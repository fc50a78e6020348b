//! What a kernel on a GPU is told: numbers, and what its threads compute.

/// A number that a kernel takes on a GPU.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    Int(i32),
    Real(f64),
}

impl From<f64> for Number {
    fn from(x: f64) -> Self {
        Self::Real(x)
    }
}

impl From<usize> for Number {
    fn from(n: usize) -> Self {
        // Sizes beyond are refused by `cuda::launch`, which sees the number of results.
        Self::Int(i32::try_from(n).unwrap_or(i32::MAX))
    }
}

/// What one thread of a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Thread {
    /// One result.
    Result,
    /// Several results, elements of images.
    Results,
    /// The results of one row of the first input.
    Row,
    /// A share of the sums of one channel of images (batch, channels, height, width).
    Channel,
}
