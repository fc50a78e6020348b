//! Where figures and tables go: into the notebook, and to files below `figures/`.

use crate::figures::style;
use crate::tables::{csv, html, names, shown};
use branchynet::files::{project_dir, write_atomically};
use branchynet::{Error, Result, bail, device_name};
use branchynet_runs::Session;
use branchynet_runs::text::markdown;
use plotly::Plot;
use polars::prelude::DataFrame;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Where the figures and tables of one notebook go, and what stands above them.
#[derive(Debug, Clone)]
pub struct Report {
    folder: String,
    network: String,
    source: String,
}

impl Report {
    /// A report in `figures/<name>/`, or in `figures/<folder>/<name>/` where the environment names a folder
    /// (FIGURES=folder). `source` says where the numbers come from: it becomes the subtitle.
    pub fn new(session: &Session, name: &str, source: &str) -> Self {
        Self {
            folder: match std::env::var("FIGURES") {
                Ok(folder) if !folder.is_empty() => format!("{folder}/{name}"),
                _ => name.to_string(),
            },
            network: session.experiment.name.clone(),
            source: source.to_string(),
        }
    }

    /// The same place with another subtitle.
    pub fn from(&self, source: &str) -> Self {
        Self { source: source.to_string(), ..self.clone() }
    }

    /// The same place for what is not about the session's network alone, with the title `<subject>: <what>`.
    pub fn about(&self, subject: &str, source: &str) -> Self {
        Self { network: subject.to_string(), ..self.from(source) }
    }

    /// The same place for times of whole batches of these images, on the session's device.
    pub fn on_device(&self, session: &Session, images: &str) -> Self {
        let (device, precision) = (device_name(&session.device), session.experiment.config.precision);
        self.from(&format!("{device} of this machine, products in {precision}; {images}"))
    }

    /// Shows a plot in the notebook under the title `<network>: <what>`, and writes it to
    /// `figures/<folder>/<file>.json` (plotly) and `.html` (opens without a network). `make figures`
    /// makes a PNG beside them where a Chromium is installed. Fails in a cell that has shown something already: a
    /// notebook would lose one of them.
    pub fn show(&self, file: &str, what: &str, plot: Plot) -> Result<()> {
        shown_with(true, Default::default())?;
        let mut figure = serde_json::to_value(&plot).map_err(Error::other)?;
        style::entitle(&mut figure["layout"], &format!("{}: {what}", self.network), &self.source);
        let (json, name) = (figure.to_string(), format!("{}/{file}", self.folder));
        self.write(file, "json", &json)?;
        let up = "../".repeat(name.matches('/').count());
        // "</" would end the script element; in JSON "<\/" is the same string.
        let safe = json.replace("</", "<\\/");
        let html = format!(
            "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<script src=\"{up}plotly.min.js\"></script>\n<div id=\"plot\"></div>\n<script>const plot = {safe};\nPlotly.newPlot(\"plot\", plot.data, plot.layout, {{responsive: true, modeBarButtonsToRemove: [\"sendChartToCloud\"]}});</script>\n"
        );
        self.write(file, "html", &html)?;
        content(&[
            ("application/vnd.plotly.v1+json", &json),
            ("text/plain", &format!("figures/{name}.html")),
        ]);
        Ok(())
    }

    /// Shows a table in the notebook, and writes it to `figures/<folder>/<file>.csv` and `.md`.
    pub fn save(&self, file: &str, frame: &DataFrame) -> Result<()> {
        self.write(file, "csv", &csv(frame)?)?;
        self.write(file, "md", &markdown(&names(frame), &shown(frame)?))?;
        table(frame)
    }

    fn write(&self, file: &str, extension: &str, text: &str) -> Result<()> {
        let folder = project_dir().join("figures").join(&self.folder);
        write_atomically(&folder.join(format!("{file}.{extension}")), text.as_bytes())
    }
}

/// Prints representations of one output, best first, in the form that the evcxr kernel turns into a
/// MIME bundle. Outside a notebook the plain text alone.
fn content(representations: &[(&str, &str)]) {
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        let bundle: String = representations
            .iter()
            .map(|(mime, text)| format!("EVCXR_BEGIN_CONTENT {mime}\n{text}\nEVCXR_END_CONTENT\n"))
            .collect();
        print!("{bundle}");
    } else if let Some((_, text)) = representations.iter().find(|(mime, _)| *mime == "text/plain") {
        println!("{text}");
    }
}

/// Shows a table in a notebook, below those that its cell has shown. Fails in a cell that has shown a figure.
pub fn table(table: &DataFrame) -> Result<()> {
    let (names, rows) = (names(table), shown(table)?);
    let [html, text] = shown_with(false, [html(&names, &rows), markdown(&names, &rows)])?;
    content(&[("text/html", &html), ("text/plain", &text)]);
    Ok(())
}

/// What a cell has shown: whether a figure, and its tables as HTML and as plain text.
#[derive(Default)]
struct Shown {
    cell: usize,
    figure: bool,
    tables: [String; 2],
}

/// The tables that this cell has shown, with this one, or none where it shows a figure. Of several outputs of a cell a
/// notebook would show the last table, or the figure (evcxr 0.22 keeps one text for each type).
fn shown_with(figure: bool, table: [String; 2]) -> Result<[String; 2]> {
    static SHOWN: Mutex<Option<Shown>> = Mutex::new(None);
    let Some(cell) = cell() else { return Ok(table) };
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let here = match shown.take() {
        Some(here) if here.cell == cell => shown.insert(here),
        _ => shown.insert(Shown { cell, ..Shown::default() }),
    };
    if here.figure || figure && !here.tables[0].is_empty() {
        bail!(
            Setting,
            "this cell has shown something already, and a notebook would lose it: give each figure a cell of its own"
        )
    }
    here.figure = figure;
    for (all, table) in here.tables.iter_mut().zip(&table) {
        if !all.is_empty() {
            all.push('\n');
        }
        all.push_str(table);
    }
    Ok(here.tables.clone())
}

/// The cell that runs, told by how many libraries are loaded: evcxr makes one of each. `None` outside of notebooks, and
/// where the system does not say.
fn cell() -> Option<usize> {
    std::env::var_os("EVCXR_IS_RUNTIME")?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    Some(maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect::<HashSet<_>>().len())
}
