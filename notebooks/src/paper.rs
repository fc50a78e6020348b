//! Numbers that others published, to stand beside ours: the files in `notebooks/paper/`.

use branchynet::exits::{Criterion, knee, pareto_optimal};
use branchynet::files::project_dir;
use branchynet::{Error, Result, bail, error};
use branchynet_runs::{Choice, Results};
use std::path::PathBuf;

/// A row of Table I, for one device. Accuracies and shares are in 0..=1.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// `CPU`.
    pub device: String,
    /// Accuracy of the baseline.
    pub baseline_accuracy: f64,
    /// Accuracy with early exits.
    pub accuracy: f64,
    /// On the entropy.
    pub thresholds: Vec<f64>,
    /// The share that leaves at each exit.
    pub shares: Vec<f64>,
    /// Milliseconds per sample of the trunk alone.
    pub baseline_ms: f64,
    /// With early exits, by the paper's timer.
    pub ms: f64,
    /// As the paper states it.
    pub gain: f64,
}

/// What the paper says of one network.
#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    /// `B-LeNet`.
    pub network: String,
    /// Table I, a row for each device.
    pub table1: Vec<Row>,
    /// Figure 3, GPU: points of the sweep over thresholds, each milliseconds per sample and accuracy.
    pub curve: Vec<(f64, f64)>,
    /// Its baseline, likewise; not a number where the figure has none.
    pub baseline: (f64, f64),
    /// Figure 4, where samples leave at exit 1 or at the last exit: the share that leaves at exit 1, and the
    /// accuracy.
    pub accuracy_by_share: Vec<(f64, f64)>,
    /// There too: the share that leaves at exit 1, and the largest entropy that does.
    pub entropy_by_share: Vec<(f64, f64)>,
    /// Figure 5, with the first branch only: the number of convolutions in it, and the accuracy of the last
    /// exit.
    pub accuracy_by_convolutions: Vec<(String, f64)>,
    /// Figure 6, CPU, as the threshold varies: time per sample and cache-miss rate, each relative to its own
    /// baseline's.
    pub misses_by_time: Vec<(f64, f64)>,
    /// The thresholds that the authors' script tries at every exit.
    pub grid: Vec<f64>,
    /// What others report for the same network: who, and what.
    pub others: Vec<[String; 2]>,
}

/// The cells of a line of comma-separated values; between quotes a comma is text.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    for (i, part) in line.split('"').enumerate() {
        // Every second part stands between quotes.
        let mut pieces = if i % 2 == 1 { vec![part] } else { part.split(',').collect() }.into_iter();
        cells.last_mut().expect("at least one").extend(pieces.next());
        cells.extend(pieces.map(str::to_string));
    }
    cells
}

/// The rows of a network in a file of `notebooks/paper/`.
struct Rows {
    path: PathBuf,
    /// The cells of each without the first, which names the network.
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// Fails, naming the file, where it cannot be read, or a row has not as many cells as the heading.
    fn of(file: &str, network: &str) -> Result<Self> {
        let path = project_dir().join("notebooks/paper").join(format!("{file}.csv"));
        let text = std::fs::read_to_string(&path)
            .map_err(|cause| error!(File, "{}: {cause}", path.display()).because(cause))?;
        let mut rows = Self { path, rows: text.lines().map(cells).collect() };
        let columns = rows.rows.first().map_or(0, Vec::len);
        if let Some(row) = rows.rows.iter().find(|row| row.len() != columns) {
            return Err(rows.wrong(format!("{row:?} has not {columns} cells, as the heading has")));
        }
        rows.rows.retain(|row| row[0] == network);
        rows.rows.iter_mut().for_each(|row| drop(row.remove(0)));
        Ok(rows)
    }

    fn wrong(&self, what: String) -> Error {
        error!(File, "{}: {what}", self.path.display())
    }

    /// The numbers in a cell, with spaces between them.
    fn numbers(&self, cell: &str) -> Result<Vec<f64>> {
        let number = |word: &str| word.parse().map_err(|_| self.wrong(format!("{word:?} is no number")));
        cell.split_whitespace().map(number).collect()
    }

    fn number(&self, cell: &str) -> Result<f64> {
        self.numbers(cell)?.first().copied().ok_or_else(|| self.wrong("a number is missing".to_string()))
    }

    /// Two columns of the rows whose first cell is `of`.
    fn pairs(&self, of: &str) -> Result<Vec<(f64, f64)>> {
        let wanted = self.rows.iter().filter(|row| row[0] == of);
        wanted.map(|row| Ok((self.number(&row[1])?, self.number(&row[2])?))).collect()
    }
}

impl Paper {
    /// What the paper says of a network: `B-LeNet`, `B-AlexNet` or `B-ResNet-110`. Fails for others.
    pub fn of(network: &str) -> Result<Self> {
        let rows = |file| Rows::of(file, network);
        let table1 = rows("table1")?;
        if table1.rows.is_empty() {
            bail!(Missing, "the paper has no {network:?}: notebooks/paper/table1.csv lists its networks")
        }
        let row = |row: &Vec<String>| {
            Ok(Row {
                device: row[0].clone(),
                baseline_accuracy: table1.number(&row[1])?,
                accuracy: table1.number(&row[2])?,
                thresholds: table1.numbers(&row[3])?,
                shares: table1.numbers(&row[4])?,
                baseline_ms: table1.number(&row[5])?,
                ms: table1.number(&row[6])?,
                gain: table1.number(&row[7])?,
            })
        };
        let (figure3, figure4, figure5) = (rows("figure3")?, rows("figure4")?, rows("figure5")?);
        let (figure6, grids) = (rows("figure6")?, rows("grids")?);
        let shares = |points: Vec<(f64, f64)>| points.into_iter().map(|(ms, percent)| (ms, percent / 100.0));
        let (ms, rate) = figure6.pairs("baseline")?.first().copied().unwrap_or((1.0, 1.0));
        let misses = figure6.pairs("early exit")?.into_iter();
        let convolutions = figure5.rows.iter().map(|row| Ok((row[0].clone(), figure5.number(&row[1])?)));
        Ok(Self {
            network: network.to_string(),
            table1: table1.rows.iter().map(row).collect::<Result<_>>()?,
            curve: shares(figure3.pairs("early exit")?).collect(),
            baseline: shares(figure3.pairs("baseline")?).next().unwrap_or((f64::NAN, f64::NAN)),
            accuracy_by_share: figure4.pairs("accuracy")?,
            entropy_by_share: figure4.pairs("largest entropy")?,
            accuracy_by_convolutions: convolutions.collect::<Result<_>>()?,
            misses_by_time: misses.map(|point| (point.0 / ms, point.1 / rate)).collect(),
            grid: grids.rows.first().map_or(Ok(Vec::new()), |row| grids.numbers(&row[0]))?,
            others: rows("others")?.rows.into_iter().map(|row| [row[0].clone(), row[1].clone()]).collect(),
        })
    }

    /// The choices that the paper asks for, given what it costs to leave at each exit: the knee of the authors' grid,
    /// screened on Test itself, which flatters (*knee, screened on test*), and *the paper's T*, where the network has as
    /// many exits. None for another criterion than the paper's, the entropy.
    pub fn choices(&self, results: &Results, costs: &[f64]) -> Result<Vec<Choice>> {
        let (test, thresholds) = (&results.test, &self.table1[0].thresholds);
        let mut choices = Vec::new();
        if *test.criterion() != Criterion::Entropy {
            return Ok(choices);
        }
        // More exits than the paper's may have too many combinations.
        if let Ok(grid) = test.grid(&self.grid, costs)
            && let Some(screened) = knee(&pareto_optimal(grid))
        {
            let origin = "screened on test";
            choices.push(Choice { origin, ..results.choice("knee", &screened.thresholds, costs)? });
        }
        if thresholds.len() + 1 == test.exits() {
            let choice = results.choice("the paper's T", thresholds, costs)?;
            choices.push(Choice { origin: "", thresholds: thresholds.clone(), ..choice });
        }
        Ok(choices)
    }
}

/// [`Results::choices`], and those of the paper where it has the network.
pub fn choices(results: &Results, costs: &[f64], paper: Option<&Paper>) -> Result<Vec<Choice>> {
    let mut all = results.choices(costs)?;
    if let Some(paper) = paper {
        all.extend(paper.choices(results, costs)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_cells_are_read() {
        assert_eq!(cells("a,\"x, y\",,1.5,\"z\""), ["a", "x, y", "", "1.5", "z"]);
    }

    #[test]
    fn every_network_of_the_paper_is_read_whole() -> Result<()> {
        for (network, exits) in [("B-LeNet", 2), ("B-AlexNet", 3), ("B-ResNet-110", 3)] {
            let paper = Paper::of(network)?;
            assert_eq!(paper.table1.len(), 2, "a CPU and a GPU");
            assert!(
                paper.table1.iter().all(|row| (row.thresholds.len(), row.shares.len()) == (exits - 1, exits))
            );
            assert!(paper.curve.len() > 5 && paper.baseline.1 > 0.5 && paper.grid.len() > 10);
            assert!(!paper.others.is_empty());
        }
        let alexnet = Paper::of("B-AlexNet")?;
        assert_eq!(alexnet.accuracy_by_convolutions[2], ("2".to_string(), 0.78));
        assert_eq!(alexnet.misses_by_time.last(), Some(&(9.8 / 9.56, 0.225 / 0.221)));
        assert!(Paper::of("B-VGG").is_err());
        Ok(())
    }
}
