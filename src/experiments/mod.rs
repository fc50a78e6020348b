//! Experiments: a network, its data, its settings, what they gave, and the paper's numbers beside it.
//!
//! Notebooks and program share what is here, so that each finds what the other has trained. This folder
//! uses networks, training, exits and data; figures and the program use it. Begin with `experiment.rs`,
//! whose fields are the settings, then `results.rs`.

mod arrays;
mod cache;
mod choices;
mod contender;
mod coverage;
mod experiment;
mod paper;
mod promise;
mod results;
mod search;
mod seeds;
mod session;
mod settings;
mod shifted;
mod speedup;
mod summary;
mod table1;
mod variant;
mod ways;
mod weights;

pub use crate::exits::percentile;
pub use cache::{Cache, CacheMisses, Misses, caches};
pub use choices::Choice;
pub use contender::{Contender, Kind, Standing};
pub use coverage::Coverage;
pub use experiment::{Experiment, NAMES, Trained};
pub use paper::{Paper, Point, Times, paper};
pub use promise::Promise;
pub use results::{Baseline, Results, Training};
pub use search::ExitSet;
pub use seeds::{Seeds, Spread};
pub use session::{Session, one_line};
pub use settings::Settings;
pub use shifted::Shifted;
pub use speedup::Speedup;
pub use summary::{Accuracy, Chosen, Summary};
pub use table1::TableOne;
pub use variant::Variant;
pub use ways::Way;
pub use weights::{AboutWeights, Pretrained};
