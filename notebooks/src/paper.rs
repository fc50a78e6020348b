//! Numbers that others published, to stand beside ours: the files in `notebooks/paper/`.

use branchynet::exits::{Criterion, OperatingPoint, knee, pareto_optimal};
use branchynet::files::project_dir;
use branchynet::runs::{Choice, Results};
use branchynet::{Error, ErrorKind, Result};

/// A point of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Time per sample.
    pub milliseconds: f64,
    /// In 0..=1.
    pub accuracy: f64,
}

impl From<&OperatingPoint> for Point {
    /// Of an outcome whose costs are in milliseconds.
    fn from(outcome: &OperatingPoint) -> Self {
        Self { milliseconds: outcome.cost, accuracy: outcome.accuracy() }
    }
}

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
    /// Figure 3, GPU: points of the sweep over thresholds.
    pub curve: Vec<Point>,
    /// Its baseline.
    pub baseline: Point,
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

/// The cells of comma-separated values, the heading first.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut cell)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
            }
            c => cell.push(c),
        }
    }
    rows
}

/// The cells of a network's rows in a file, without the first, which names it; fails, naming the file, where it cannot be
/// read, or a row has not as many cells as the heading.
fn rows(file: &str, network: &str) -> Result<Vec<Vec<String>>> {
    let path = project_dir().join("notebooks/paper").join(format!("{file}.csv"));
    let wrong = |what: String| Error::new(ErrorKind::File, format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|cause| wrong(cause.to_string()).because(cause))?;
    let mut rows = csv_rows(&text);
    let columns = rows.first().map_or(0, Vec::len);
    if let Some(row) = rows.iter().find(|row| row.len() != columns) {
        return Err(wrong(format!("{row:?} has not {columns} cells, as the heading has")));
    }
    rows.retain(|row| row[0] == network);
    Ok(rows.into_iter().map(|row| row[1..].to_vec()).collect())
}

/// Numbers between spaces.
fn numbers(text: &str) -> Result<Vec<f64>> {
    let number = |word: &str| {
        word.parse()
            .map_err(|_| Error::new(ErrorKind::File, format!("notebooks/paper: {word:?} is no number")))
    };
    text.split_whitespace().map(number).collect()
}

fn number(text: &str) -> Result<f64> {
    numbers(text)?
        .first()
        .copied()
        .ok_or_else(|| Error::new(ErrorKind::File, "notebooks/paper: a number is missing"))
}

/// Two columns of the rows whose first cell is `of`.
fn pairs(rows: &[Vec<String>], of: &str) -> Result<Vec<(f64, f64)>> {
    let wanted = rows.iter().filter(|row| row[0] == of);
    wanted.map(|row| Ok((number(&row[1])?, number(&row[2])?))).collect()
}

impl Paper {
    /// What the paper says of a network: `B-LeNet`, `B-AlexNet` or `B-ResNet-110`. Fails for others.
    pub fn of(network: &str) -> Result<Self> {
        let table1 = rows("table1", network)?.into_iter().map(|row| {
            Ok(Row {
                device: row[0].clone(),
                baseline_accuracy: number(&row[1])?,
                accuracy: number(&row[2])?,
                thresholds: numbers(&row[3])?,
                shares: numbers(&row[4])?,
                baseline_ms: number(&row[5])?,
                ms: number(&row[6])?,
                gain: number(&row[7])?,
            })
        });
        let table1 = table1.collect::<Result<Vec<_>>>()?;
        if table1.is_empty() {
            let message =
                format!("the paper has no {network:?}: notebooks/paper/table1.csv lists its networks");
            return Err(Error::new(ErrorKind::Missing, message));
        }
        let (figure3, figure4, figure6) =
            (rows("figure3", network)?, rows("figure4", network)?, rows("figure6", network)?);
        let points = |of: &str| -> Result<Vec<Point>> {
            let point = |(milliseconds, percent)| Point { milliseconds, accuracy: percent / 100.0 };
            Ok(pairs(&figure3, of)?.into_iter().map(point).collect())
        };
        let by_convolutions = rows("figure5", network)?.into_iter();
        let baseline_misses = pairs(&figure6, "baseline")?;
        let relative = |(ms, rate): (f64, f64)| {
            let (baseline_ms, baseline_rate) = baseline_misses.first().copied().unwrap_or((1.0, 1.0));
            (ms / baseline_ms, rate / baseline_rate)
        };
        let none = Point { milliseconds: f64::NAN, accuracy: f64::NAN };
        Ok(Self {
            network: network.to_string(),
            table1,
            curve: points("early exit")?,
            baseline: points("baseline")?.first().copied().unwrap_or(none),
            accuracy_by_share: pairs(&figure4, "accuracy")?,
            entropy_by_share: pairs(&figure4, "largest entropy")?,
            accuracy_by_convolutions: by_convolutions
                .map(|row| Ok((row[0].clone(), number(&row[1])?)))
                .collect::<Result<_>>()?,
            misses_by_time: pairs(&figure6, "early exit")?.into_iter().map(relative).collect(),
            grid: rows("grids", network)?.first().map_or(Ok(Vec::new()), |row| numbers(&row[0]))?,
            others: rows("others", network)?
                .into_iter()
                .map(|row| [row[0].clone(), row[1].clone()])
                .collect(),
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
            choices.push(Choice { origin: "", ..results.choice("the paper's T", thresholds, costs)? });
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
        let rows = csv_rows("a,b c\n\"x, \"\"y\"\"\",1.5\n,2\n");
        assert_eq!(rows, [["a", "b c"], ["x, \"y\"", "1.5"], ["", "2"]]);
    }

    #[test]
    fn every_network_of_the_paper_is_read_whole() -> Result<()> {
        for (network, exits) in [("B-LeNet", 2), ("B-AlexNet", 3), ("B-ResNet-110", 3)] {
            let paper = Paper::of(network)?;
            assert_eq!(paper.table1.len(), 2, "a CPU and a GPU");
            assert!(
                paper.table1.iter().all(|row| (row.thresholds.len(), row.shares.len()) == (exits - 1, exits))
            );
            assert!(paper.curve.len() > 5 && paper.baseline.accuracy > 0.5 && paper.grid.len() > 10);
            assert!(!paper.others.is_empty());
        }
        let alexnet = Paper::of("B-AlexNet")?;
        assert_eq!(alexnet.accuracy_by_convolutions[2], ("2".to_string(), 0.78));
        assert_eq!(alexnet.misses_by_time.last(), Some(&(9.8 / 9.56, 0.225 / 0.221)));
        assert!(Paper::of("B-VGG").is_err());
        Ok(())
    }
}
