//! Figures and tables: functions from results to plots, and where they go.
//!
//! A figure is a function that returns a plotly [`Plot`]; [`Report`] gives it title and subtitle, writes it
//! below `figures/` and shows it in a notebook. This folder uses everything but the program. Begin with
//! `training.rs`, the simplest; `style.rs` is how all of them look.

mod accuracy;
mod cache;
mod card;
mod costs;
mod criteria;
mod notebook;
mod samples;
mod shifted;
mod style;
mod tables;
mod thresholds;
mod training;
mod variants;
mod worth;

pub use accuracy::{accuracy_against_time, certainty, exit_shares};
pub use cache::{misses_against_time, misses_by_threshold, working_sets};
pub use card::model_card;
pub use costs::{costs, speedup, time_by_batch};
pub use criteria::{coverage, reliability, ways};
pub use samples::{confusion, gallery};
pub use shifted::by_severity;
pub use tables::{percent, table, table_of_everything, table_of_records};
pub use thresholds::{accuracy_against_share, promises};
pub use training::training_curves;
pub use variants::{cost_against_accuracy, variants};
pub use worth::worth;

use crate::Result;
use crate::experiments::Session;
use crate::files::{project_dir, write_atomically};
use plotly::Plot;
use polars::prelude::DataFrame;

/// Where the figures and tables of one notebook go, and what stands above them.
#[derive(Debug, Clone)]
pub struct Report {
    folder: String,
    network: String,
    source: String,
}

impl Report {
    /// A report in `figures/<name>/`, or in `figures/<folder>/<name>/` where the session was given a
    /// folder (FIGURES=folder). `source` says where the numbers come from: it becomes the subtitle.
    pub fn new(session: &Session, name: &str, source: &str) -> Self {
        Self {
            folder: match &session.figures {
                Some(folder) => format!("{folder}/{name}"),
                None => name.to_string(),
            },
            network: session.experiment.name.clone(),
            source: source.to_string(),
        }
    }

    /// The same place with another subtitle.
    pub fn from(&self, source: &str) -> Self {
        Self { source: source.to_string(), ..self.clone() }
    }

    /// Shows a plot in the notebook under the title `<network>: <what>`, and writes it to
    /// `figures/<folder>/<file>.json` (plotly) and `.html` (opens without a network). `make figures`
    /// makes a PNG beside them where a Chromium is installed.
    pub fn show(&self, file: &str, what: &str, plot: Plot) -> Result<()> {
        let mut figure = serde_json::to_value(&plot)?;
        style::entitle(&mut figure["layout"], &format!("{}: {what}", self.network), &self.source);
        let (json, name) = (figure.to_string(), format!("{}/{file}", self.folder));
        let path = |extension: &str| {
            let figures = project_dir().join("figures");
            figures.join(format!("{name}.{extension}"))
        };
        write_atomically(&path("json"), json.as_bytes())?;
        let up = "../".repeat(name.matches('/').count());
        // "</" would end the script element; in JSON "<\/" is the same string.
        let safe = json.replace("</", "<\\/");
        let html = format!(
            "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<script src=\"{up}plotly.min.js\"></script>\n<div id=\"plot\"></div>\n<script>const plot = {safe};\nPlotly.newPlot(\"plot\", plot.data, plot.layout, {{responsive: true}});</script>\n"
        );
        write_atomically(&path("html"), html.as_bytes())?;
        notebook::content(&[
            ("application/vnd.plotly.v1+json", &json),
            ("text/plain", &format!("figures/{name}.html")),
        ]);
        Ok(())
    }

    /// Shows a table in the notebook, and writes it to `figures/<folder>/<file>.csv` and `.md`.
    pub fn save(&self, file: &str, frame: &DataFrame) -> Result<()> {
        tables::write(frame, &format!("{}/{file}", self.folder))?;
        table(frame)
    }
}
