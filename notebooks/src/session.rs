//! Sessions of notebooks.

use branchynet::Result;
use branchynet::runs::{Experiment, Session};
use branchynet::training::plain;

/// What notebooks begin with: it sets up the kernel's process for speed, and has progress printed below the cell.
pub trait NotebookSession: Sized {
    /// The experiment called `name` with the settings that the environment gives (`EPOCHS=100`).
    fn from_environment(name: &str) -> Result<Self> {
        Self::with(name, |_| ())
    }

    /// [`Self::from_environment`] for experiments with defaults of their own, which the environment may change like all
    /// others.
    fn with(name: &str, defaults: impl FnOnce(&mut Experiment)) -> Result<Self>;
}

impl NotebookSession for Session {
    fn with(name: &str, defaults: impl FnOnce(&mut Experiment)) -> Result<Self> {
        branchynet::prepare_process();
        let mut session = Self::new(name, defaults)?;
        session.reporter = || Box::new(plain(|line| println!("{line}")));
        Ok(session)
    }
}
