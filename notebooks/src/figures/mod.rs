//! Figures that several notebooks share: functions from results to plots.
//!
//! A figure is a function that returns a plotly plot; [`crate::report::Report`] gives it title and subtitle, writes it
//! below `figures/` and shows it. Begin with `training.rs`, the simplest; `style.rs` is how all of them look.

mod accuracy;
mod costs;
mod samples;
pub(crate) mod style;
mod training;

pub use accuracy::{accuracy_against_time, certainty, exit_shares};
pub use costs::{costs, time_by_batch};
pub use samples::{confusion, gallery};
pub use training::training_curves;
