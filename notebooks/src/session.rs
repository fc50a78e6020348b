//! Sessions of notebooks: what begins one sets up the kernel's process for speed, and has progress printed below the cell.

use branchynet::Result;
use branchynet::training::plain;
use branchynet_runs::{Experiment, Session};

/// The experiment called `name` with the settings that the environment gives (`EPOCHS=100`).
pub fn from_environment(name: &str) -> Result<Session> {
    with(name, |_| ())
}

/// [`from_environment`] for experiments with defaults of their own, which the environment may change like all others.
pub fn with(name: &str, defaults: impl FnOnce(&mut Experiment)) -> Result<Session> {
    branchynet::prepare_process();
    let mut session = Session::new(name, defaults)?;
    session.reporter = || Box::new(plain(|line| println!("{line}")));
    Ok(session)
}
