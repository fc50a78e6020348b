//! What a training run reports while it runs.

use super::Epoch;
use std::time::Instant;

/// News from a training run.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A line for the log: an epoch's result, or a run that was found.
    Line(&'a str),
    /// Somewhere inside an epoch.
    Step {
        /// From 1.
        epoch: usize,
        /// Of how many.
        epochs: usize,
        /// Images of this epoch trained on so far, and of how many.
        images: (usize, usize),
        /// Mean loss of the last exit in this epoch.
        loss: f64,
        /// Since the epoch began.
        images_per_second: f64,
    },
}

impl Progress<'_> {
    /// A step as text.
    pub fn text(&self) -> String {
        match self {
            Self::Line(line) => line.to_string(),
            Self::Step { epoch, epochs, images: (done, all), loss, images_per_second } => format!(
                "epoch {epoch:>3}/{epochs}  {:>3} %  loss of the last exit {loss:.4}  {images_per_second:.0} images/s  epoch done in {:.0} s",
                100 * done / all,
                (all - done) as f64 / images_per_second
            ),
        }
    }
}

/// Gives `print` all lines, and a step every half minute: for notebooks and logs, which cannot redraw a bar.
pub fn plain(mut print: impl FnMut(&str)) -> impl FnMut(Progress<'_>) {
    let mut last = Instant::now();
    move |progress| {
        if matches!(progress, Progress::Line(_)) || last.elapsed().as_secs() >= 30 {
            print(&progress.text());
            last = Instant::now();
        }
    }
}

/// The progress line of one epoch.
pub(super) fn line(name: &str, epoch: &Epoch, epochs: usize, seconds_per_epoch: f64) -> String {
    let list = |values: &[f64], scale: f64, digits: usize| {
        let values: Vec<String> = values.iter().map(|x| format!("{:.digits$}", x * scale)).collect();
        values.join(" / ")
    };
    format!(
        "{name}, epoch {:>3}/{epochs}  train loss {} acc {} %  validation loss {} acc {} %  {:.0} images/s  {:.0} s left",
        epoch.epoch,
        list(&epoch.train.loss, 1.0, 4),
        list(&epoch.train.accuracy, 100.0, 2),
        list(&epoch.validation.loss, 1.0, 4),
        list(&epoch.validation.accuracy, 100.0, 2),
        epoch.images_per_second,
        seconds_per_epoch * (epochs - epoch.epoch) as f64,
    )
}
