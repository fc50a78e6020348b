//! Table I of the paper: its own rows, and ours beside them.

use crate::Result;
use crate::data::{project_dir, write_atomically};
use crate::error::bail;
use crate::latency::{BatchTime, Mix};
use crate::paper::paper;
use crate::record::Outcome;
use polars::prelude::{DataFrame, df};

/// One row; what does not apply is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    source: String,
    network: String,
    choice: String,
    thresholds: Vec<f64>,
    accuracy: f64,
    shares: Vec<f64>,
    milliseconds: f64,
    gain: Option<f64>,
    gain_trunk_only: Option<f64>,
}

/// Rows for one network, with and without branches.
#[derive(Debug, Clone, Default)]
pub struct TableOne(Vec<Row>);

impl TableOne {
    /// The paper's rows for `network`. Its gain is that of its timer, which covered the trunk alone.
    pub fn of(network: &str) -> Result<Self> {
        let paper = paper(network)?;
        let baseline = paper.network.trim_start_matches("B-");
        let mut table = Self::default();
        for (source, times) in [("paper, CPU", paper.cpu), ("paper, GPU", paper.gpu)] {
            let row = |network: &str| Row {
                source: source.to_string(),
                network: network.to_string(),
                ..Row::default()
            };
            table.0.push(Row {
                accuracy: paper.accuracy.0,
                milliseconds: times.0,
                ..row(baseline)
            });
            table.0.push(Row {
                choice: "screened on test".to_string(),
                thresholds: paper.thresholds.to_vec(),
                accuracy: paper.accuracy.1,
                shares: paper.shares.to_vec(),
                milliseconds: times.1,
                gain_trunk_only: Some(times.2),
                ..row(paper.network)
            });
        }
        Ok(table)
    }

    /// Adds our baseline: its test accuracy (0..=1) and its time.
    pub fn baseline(&mut self, network: &str, accuracy: f64, mix: &Mix) {
        self.0.push(Row {
            source: "ours, CPU".to_string(),
            network: network.to_string(),
            accuracy: accuracy * 100.0,
            milliseconds: mix.baseline.mean,
            ..Row::default()
        });
    }

    /// Adds our network with early exits: how its thresholds were chosen, what they give, and the
    /// times measured at them.
    pub fn branchy(&mut self, network: &str, choice: &str, outcome: &Outcome, mix: &Mix) {
        self.0.push(Row {
            source: "ours, CPU".to_string(),
            network: network.to_string(),
            choice: choice.to_string(),
            thresholds: outcome.thresholds.clone(),
            accuracy: outcome.accuracy() * 100.0,
            shares: outcome.shares().iter().map(|share| share * 100.0).collect(),
            milliseconds: mix.mix.mean,
            gain: Some(mix.gain()),
            gain_trunk_only: Some(mix.gain_trunk_only()),
        });
    }

    /// Adds baseline and early exits on a GPU, in batches of one: the network with its branches, the
    /// baseline's test accuracy (0..=1), and how the thresholds were chosen, at whose shares `time` was
    /// measured.
    pub fn on_gpu(
        &mut self,
        network: &str,
        baseline_accuracy: f64,
        choice: &str,
        outcome: &Outcome,
        time: &BatchTime,
    ) {
        let [baseline, early_exit] = time.per_image().map(|microseconds| microseconds / 1e3);
        self.0.push(Row {
            source: "ours, GPU".to_string(),
            network: network.trim_start_matches("B-").to_string(),
            accuracy: baseline_accuracy * 100.0,
            milliseconds: baseline,
            ..Row::default()
        });
        self.0.push(Row {
            source: "ours, GPU".to_string(),
            network: network.to_string(),
            choice: choice.to_string(),
            thresholds: outcome.thresholds.clone(),
            accuracy: outcome.accuracy() * 100.0,
            shares: outcome.shares().iter().map(|share| share * 100.0).collect(),
            milliseconds: early_exit,
            gain: Some(time.gain()),
            gain_trunk_only: None,
        });
    }

    /// The table as a data frame. Times are means over the mix of exits, batch 1.
    pub fn frame(&self) -> Result<DataFrame> {
        let text = |column: &dyn Fn(&Row) -> String| self.0.iter().map(column).collect::<Vec<_>>();
        let list = |values: &[f64], digits: usize| {
            values
                .iter()
                .map(|x| format!("{x:.digits$}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let gain = |gain: Option<f64>| gain.map(|gain| format!("{gain:.2}x")).unwrap_or_default();
        Ok(df!(
            "source" => text(&|row| row.source.clone()),
            "network" => text(&|row| row.network.clone()),
            "threshold" => text(&|row| row.choice.clone()),
            "T" => text(&|row| list(&row.thresholds, 4)),
            "accuracy, %" => text(&|row| format!("{:.2}", row.accuracy)),
            "leave at each exit, %" => text(&|row| list(&row.shares, 1)),
            "ms/sample" => text(&|row| format!("{:.4}", row.milliseconds)),
            "gain, end to end" => text(&|row| gain(row.gain)),
            "gain, trunk only" => text(&|row| gain(row.gain_trunk_only)),
        )?)
    }
}

/// One table of everything, from the tables that the notebooks wrote below `figures/`: all rows of
/// Table I, and beneath what others report. Writes `figures/table1.md` and `figures/table1.csv` and
/// returns the text. Fails where no notebook has been run.
pub fn everything() -> Result<String> {
    let figures = project_dir().join("figures");
    let networks = [
        ("lenet_mnist", "B-LeNet"),
        ("alexnet_cifar10", "B-AlexNet"),
        ("resnet110_cifar10", "B-ResNet-110"),
    ];
    let (mut text, mut values) = (String::new(), String::new());
    let mut others = "\n| who | network | reports |\n|---|---|---|\n".to_string();
    for (folder, network) in networks {
        let read = |extension| {
            std::fs::read_to_string(figures.join(folder).join(format!("table1.{extension}")))
        };
        // A network whose notebook has not been run has no rows.
        let (Ok(rows), Ok(lines)) = (read("md"), read("csv")) else {
            continue;
        };
        // The first has the heading for all.
        let skip = if text.is_empty() { 0 } else { 2 };
        text.extend(rows.split_inclusive('\n').skip(skip));
        values.extend(lines.split_inclusive('\n').skip(skip / 2));
        for (who, what) in paper(network)?.others {
            others += &format!("| {who} | {network} | {what} |\n");
        }
    }
    if text.is_empty() {
        bail!("there are no tables in figures/ yet; `make figures` makes them")
    }
    text += &others;
    write_atomically(&figures.join("table1.md"), text.as_bytes())?;
    write_atomically(&figures.join("table1.csv"), values.as_bytes())?;
    Ok(text)
}
