//! Networks with early exits, each a flat list of layers with a [`branch`] where it forks.
//!
//! The list is the trunk, from the input to the last exit. A branch leaves the trunk where it stands in
//! the list and ends in a classifier of its own. From the list follow the trunk's segments, the exits,
//! the names of the parameters (which are the keys of a checkpoint), and what each exit costs. What
//! a layer does is said in the folder `layers/`. This folder uses that one and the kernels; begin with `lenet.rs`, a
//! network on one screen.

mod airbench;
mod alexnet;
mod build;
mod cascade;
mod lenet;
mod network;
mod placement;
mod quantized;
mod resnet;
mod state_dict;
mod summary;
mod tape;

pub use crate::layers::*;
pub use airbench::b_airbench;
pub use alexnet::b_alexnet;
pub use lenet::b_lenet;
pub use network::{ExitCost, Network, WorkingSet};
pub use placement::{BranchStyle, Placement, with_branches};
pub use resnet::{b_resnet, b_resnet110, b_resnet110_standard, resnet, zero_started};
pub use state_dict::StateDict;
pub use tape::Tape;
