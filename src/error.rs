//! One error for the whole crate: a line that names the thing, what was expected, and the way out.

use std::fmt;

/// What went wrong, in one line.
pub struct Error(String);

/// A result with this crate's [`enum@Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// The same as Display: a notebook cell that ends in an error shows its Debug form.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        use candle_core::Error as Candle;
        // candle appends a backtrace to the message where RUST_BACKTRACE is set.
        match error {
            Candle::WithBacktrace { inner, .. } => Self::from(*inner),
            Candle::WithPath { inner, path } => {
                Self(format!("{}: {}", path.display(), Self::from(*inner)))
            }
            other => Self(other.to_string()),
        }
    }
}

macro_rules! from {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}
from!(
    std::io::Error,
    serde_json::Error,
    safetensors::SafeTensorError,
    polars::error::PolarsError
);

/// Returns an [`enum@Error`] with a formatted message.
macro_rules! bail {
    ($($message:tt)*) => { return Err($crate::Error::new(format!($($message)*))) };
}
pub(crate) use bail;
