//! What the program says: results on the standard output, all else on the standard error.

use branchynet::{Result, error};
use std::fmt::Display;
use std::io::{ErrorKind, Write as _};

/// Prints a result. `false`: the reader has seen enough, as in `… | head`, which is no failure.
pub fn result(text: impl Display) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(cause) => {
            let message = error!(File, "cannot write what this prints: {cause}");
            Err(message.because(cause))
        }
    }
}

/// Says something beside the results. That nobody can read it ends no work.
pub fn aside(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "branchynet: {line}");
}

/// [`aside`], of something that works but may not be what was meant.
pub fn warning(line: impl Display) {
    aside(format_args!("warning: {line}"));
}
