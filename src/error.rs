//! One error for the whole crate: a line that names the thing, what was expected, and the way out.

use std::fmt;

/// What went wrong: one line to read, a kind to match, and the error underneath where there is one.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What sort of thing went wrong, for callers that react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting or an argument that makes no sense, or does not fit the others.
    Setting,
    /// Layers, images or logits whose shapes do not fit.
    Shape,
    /// A file that is missing, damaged, of another kind, or cannot be written.
    File,
    /// There is no run, record or data set of this description.
    Missing,
    /// No choice of thresholds meets the bound.
    Unreachable,
    /// The loss is no longer finite.
    Diverged,
    /// There is no such device, or it does not do what is asked.
    Device,
    /// What candle, another library or the operating system refused.
    Other,
}

/// A result with this crate's [`Error`](struct@Error).
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this kind with this message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with the error that caused it, which the message should not repeat in full.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What another library refused, with its own message.
    pub fn other(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(ErrorKind::Other, source.to_string()).because(source)
    }

    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// The same as Display: a notebook cell that ends in an error shows its Debug form.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        let message = message(&error);
        Self::new(ErrorKind::Other, message).because(error)
    }
}

/// candle's message without the backtrace that it appends where RUST_BACKTRACE is set.
fn message(error: &candle_core::Error) -> String {
    use candle_core::Error as Candle;
    match error {
        Candle::WithBacktrace { inner, .. } => message(inner),
        Candle::WithPath { inner, path } => format!("{}: {}", path.display(), message(inner)),
        other => other.to_string(),
    }
}

macro_rules! from {
    ($($source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self::other(error)
            }
        }
    )*};
}
from!(std::io::Error, serde_json::Error, safetensors::SafeTensorError);

/// Returns an [`struct@Error`] of a kind with a formatted message: `bail!(Setting, "expected {a}, got {b}")`.
#[macro_export]
macro_rules! bail {
    ($kind:ident, $($message:tt)*) => { return Err($crate::error!($kind, $($message)*)) };
}

/// An [`struct@Error`] of a kind with a formatted message: `error!(Setting, "expected {a}, got {b}")`.
#[macro_export]
macro_rules! error {
    ($kind:ident, $($message:tt)*) => {
        $crate::Error::new($crate::ErrorKind::$kind, format!($($message)*))
    };
}
