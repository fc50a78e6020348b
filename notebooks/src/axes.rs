//! Notebooks 12 and 13: what other work on early exits reports, from the committed records.

use crate::criteria::calibration_error;
use crate::figures::style::{GREY, axis, bars, colour, dot, framed, line, log_axis, points, stroke};
use crate::session;
use crate::tables::{add, known};
use branchynet::data::Test;
use branchynet::exits::{Criterion, ExitRecord, Timing};
use branchynet::{Result, bail};
use branchynet_runs::{Experiment, Results, Seeds, Session, Spread};
use plotly::common::{DashType, LineShape, Marker, MarkerSymbol};
use plotly::layout::BarMode;
use plotly::{Bar, Plot};
use polars::prelude::DataFrame;

pub use branchynet::exits::for_cost;

/// A preset with its committed records, and what it takes to leave at each of its exits.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// `B-LeNet`.
    pub name: String,
    /// The runs of all its seeds, read by its criterion.
    pub seeds: Seeds,
    /// Multiply-accumulates to leave at each exit, in shares of the trunk's.
    pub macs: Vec<f64>,
    /// The time to leave at each exit, measured now, one image at a time on one thread.
    pub timing: Timing,
    /// What the times were measured on.
    pub images: String,
}

impl Recorded {
    /// The preset called `name`; the environment's settings decide by which criterion it is read, and how it is timed. Fails
    /// where nothing is recorded.
    pub fn of(name: &str) -> Result<Self> {
        Self::found(name, session::from_environment(name)?, Experiment::named(name)?)
    }

    /// [`Self::of`] on this data set, after which it is called too: `MNIST, B-LeNet`.
    pub fn on(name: &str, data: &str) -> Result<Self> {
        let (mut session, mut preset) = (session::from_environment(name)?, Experiment::named(name)?);
        (session.experiment.data, preset.data) = (data.into(), data.into());
        let found = Self::found(name, session, preset)?;
        Ok(Self { name: format!("{}, {}", found.seeds.runs()[0].run.data, found.name), ..found })
    }

    fn found(name: &str, session: Session, preset: Experiment) -> Result<Self> {
        let mut found = Results::recorded(|settings| {
            let mut wanted = preset.settings();
            wanted.config.seed = settings.config.seed;
            *settings == wanted
        })?;
        found.retain(|results| results.origin.starts_with("record datasets/reference/"));
        if found.is_empty() {
            bail!(
                Missing,
                "there is no record of {name} in datasets/reference/: `make reference RUNS={name}` makes it"
            )
        }
        let (timer, images) = session.timer()?;
        let network = timer.network();
        let trunk = network.costs()[network.exits() - 1].trunk_macs as f64;
        Ok(Self {
            name: preset.name,
            seeds: Seeds::new(found.iter().map(|run| run.by(&session.experiment.criterion)).collect()),
            macs: network.macs().iter().map(|macs| macs / trunk).collect(),
            timing: timer.exits()?,
            images,
        })
    }

    /// The spreads over the seeds of the numbers that `of` finds in each run.
    pub fn spreads(&self, of: impl Fn(&Results) -> Result<Vec<f64>>) -> Result<Vec<Spread>> {
        let runs = self.seeds.runs().iter().map(of).collect::<Result<Vec<_>>>()?;
        let of_runs = |i: usize| Spread::of(&runs.iter().map(|run| run[i]).collect::<Vec<_>>());
        Ok((0..runs[0].len()).map(of_runs).collect())
    }
}

/// A row of a table: a network, something of it, and what was found over its seeds.
#[derive(Debug, Clone)]
pub struct Found {
    /// `B-LeNet`.
    pub network: String,
    /// `exit 1`.
    pub of: String,
    /// As many for each row.
    pub spreads: Vec<Spread>,
}

impl Found {
    /// A row.
    pub fn new(network: &Recorded, of: impl ToString, spreads: Vec<Spread>) -> Self {
        Self { network: network.name.clone(), of: of.to_string(), spreads }
    }

    /// A table of means over the seeds under these names; where a name ends in ` ±`, with half of the 95 % interval behind it.
    pub fn table(rows: &[Self], of: &str, names: &[&str]) -> Result<DataFrame> {
        let mut table = rows!(rows, row => "network" => row.network.clone(), of => row.of.clone())?;
        for (i, name) in names.iter().enumerate() {
            let column =
                |of: fn(&Spread) -> f64| rows.iter().map(|row| known(of(row.spreads.get(i)?))).collect();
            let plain = name.trim_end_matches(" ±");
            add(&mut table, [(plain.to_string(), column(|spread| spread.mean))])?;
            if plain != *name {
                add(&mut table, [(format!("{plain}, 95 % ±"), column(|spread| spread.half_width))])?;
            }
        }
        Ok(table)
    }

    fn mean(&self, i: usize) -> f64 {
        self.spreads.get(i).map_or(f64::NAN, |spread| spread.mean)
    }
}

/// The rows of each network, in its colour.
fn by_network(rows: &[Found]) -> impl Iterator<Item = (&'static str, &[Found])> {
    rows.chunk_by(|a, b| a.network == b.network).enumerate().map(|(i, rows)| (colour(i), rows))
}

/// Wrong answers at a deadline: rows with milliseconds and accuracy for each exit, and last for the trunk alone, which is a diamond.
pub fn by_deadline(rows: &[Found]) -> Plot {
    let mut plot = Plot::new();
    let longest = rows.iter().map(|row| row.mean(0)).fold(0.0, f64::max) * 1.5;
    let wrong = |row: &Found| (1.0 - row.mean(1)) * 100.0;
    for (colour, rows) in by_network(rows) {
        let (trunk, exits) = rows.split_last().unwrap_or((&rows[0], rows));
        let (mut x, mut y): (Vec<f64>, Vec<f64>) = exits.iter().map(|row| (row.mean(0), wrong(row))).unzip();
        x.push(longest);
        y.extend(y.last().copied());
        plot.add_trace(line(&trunk.network, x, y, stroke(colour, 2.0).shape(LineShape::Hv)));
        let diamond = dot(colour, 10, MarkerSymbol::DiamondOpen);
        plot.add_trace(points("trunk", vec![trunk.mean(0)], vec![wrong(trunk)], diamond).show_legend(false));
    }
    plot.add_trace(points(
        "trunk alone",
        vec![f64::NAN],
        vec![f64::NAN],
        dot(GREY, 10, MarkerSymbol::DiamondOpen),
    ));
    let x = log_axis("deadline, ms (logarithmic)", rows.iter().map(|row| row.mean(0)).chain([longest]));
    plot.set_layout(framed(x, log_axis("wrong answers on test, % (logarithmic)", rows.iter().map(wrong))));
    plot
}

/// Wrong answers against the mean cost: rows with cost and accuracy of budgeted batches, dashed, and of the front.
pub fn by_budget(rows: &[Found]) -> Plot {
    let mut plot = Plot::new();
    let wrong = |row: &Found, at: usize| (1.0 - row.mean(at)) * 100.0;
    for (colour, rows) in by_network(rows) {
        for (at, dash) in [(0, DashType::Dash), (2, DashType::Solid)] {
            let (x, y) = rows.iter().map(|row| (row.mean(at) * 100.0, wrong(row, at + 1))).unzip();
            let trace = line::<f64, f64>(&rows[0].network, x, y, stroke(colour, 2.0).dash(dash));
            plot.add_trace(trace.legend_group(&rows[0].network).show_legend(at == 2));
        }
    }
    let dashed = stroke(GREY, 2.0).dash(DashType::Dash);
    plot.add_trace(line("shares as p, p², p³, …", vec![f64::NAN], vec![f64::NAN], dashed));
    let y = log_axis("wrong answers on test, % (logarithmic)", rows.iter().map(|row| wrong(row, 1)));
    plot.set_layout(framed(axis("mean multiply-accumulates, % of the trunk's"), y));
    plot
}

/// Accuracy against the mean cost: rows with the cost, and the accuracy less that of the last exit.
pub fn by_cost(rows: &[Found]) -> Plot {
    let mut plot = Plot::new();
    for (colour, rows) in by_network(rows) {
        let (x, y) = rows.iter().map(|row| (row.mean(0) * 100.0, row.mean(1) * 100.0)).unzip();
        let half = rows.iter().map(|row| (row.spreads[1].half_width * 100.0).max(0.0)).collect();
        let trace = line::<f64, f64>(&rows[0].network, x, y, stroke(colour, 2.0));
        plot.add_trace(trace.error_y(bars(half)));
    }
    let y = axis("accuracy less the last exit's, points");
    plot.set_layout(framed(axis("mean multiply-accumulates, % of the trunk's"), y));
    plot
}

/// Shares of the test images, in %, one column of the rows after another, with 95 % intervals where there are several seeds.
pub fn by_share(rows: &[Found], names: &[&str]) -> Plot {
    let mut plot = Plot::new();
    let symbols = [MarkerSymbol::Circle, MarkerSymbol::Diamond, MarkerSymbol::Square, MarkerSymbol::X];
    let percent = |row: &Found, i: usize| row.mean(i) * 100.0;
    for (i, (name, symbol)) in names.iter().zip(symbols).enumerate() {
        let half = rows.iter().map(|row| (row.spreads[i].half_width * 100.0).max(0.0)).collect();
        let networks: Vec<String> = rows.iter().map(|row| row.network.clone()).collect();
        let y = rows.iter().map(|row| percent(row, i)).collect();
        plot.add_trace(points(name, networks, y, dot(colour(i), 11, symbol)).error_y(bars(half)));
    }
    let all = rows.iter().flat_map(|row| (0..names.len()).map(move |i| percent(row, i)));
    plot.set_layout(framed(axis(""), log_axis("test images, % (logarithmic)", all)));
    plot
}

/// What an exit's temperature, fitted on Validation, changes by a criterion on Test: the temperature; before and with it, the
/// calibration error, then AUROC, AURC and FPR at 95 % TPR of wrong answers; then the AUROC of answers that are not the last exit's.
pub fn calibrated(
    test: &ExitRecord<Test>,
    scaled: &ExitRecord<Test>,
    exit: usize,
    by: &Criterion,
) -> Result<Vec<f64>> {
    let both = [test.by(by), scaled.by(by)];
    let last = test.exits() - 1;
    let label = |exit: usize, sample: usize| test.predictions(exit)[sample].label;
    let mut found = vec![scaled.readout().temperatures[exit]];
    found.extend(both.each_ref().map(|record| calibration_error(record, exit)));
    let wrong =
        |record: &ExitRecord<Test>| record.failure_prediction(exit, |sample| !test.right(exit, sample));
    let [before, with] = [wrong(&both[0])?, wrong(&both[1])?];
    found.extend([before.auroc, with.auroc, before.aurc, with.aurc, before.fpr95, with.fpr95]);
    for record in &both {
        let differs = record.failure_prediction(exit, |sample| label(exit, sample) != label(last, sample));
        found.push(differs?.auroc);
    }
    Ok(found)
}

/// The AUROC of wrong answers against the calibration error, of each exit as it was trained (open) and with its temperature: rows of
/// [`calibrated`] for one criterion.
pub fn calibration_and_failures(rows: &[Found]) -> Plot {
    let mut plot = Plot::new();
    let symbols = [
        (MarkerSymbol::CircleOpen, MarkerSymbol::Circle),
        (MarkerSymbol::SquareOpen, MarkerSymbol::Square),
        (MarkerSymbol::DiamondOpen, MarkerSymbol::Diamond),
    ];
    for (colour, rows) in by_network(rows) {
        for (exit, (row, (open, filled))) in rows.iter().zip(symbols.clone()).enumerate() {
            let [before, with] = [(1, 3), (2, 4)].map(|(x, y)| (row.mean(x) * 100.0, row.mean(y)));
            let arrow = line("", vec![before.0, with.0], vec![before.1, with.1], stroke(colour, 1.5));
            plot.add_trace(arrow.show_legend(false));
            for ((x, y), symbol, named) in [(before, open, false), (with, filled, exit == 0)] {
                let point = points(&row.network, vec![x], vec![y], dot(colour, 10, symbol));
                plot.add_trace(point.show_legend(named));
            }
        }
    }
    let errors = rows.iter().flat_map(|row| [row.mean(1) * 100.0, row.mean(2) * 100.0]);
    let x = log_axis("calibration error on test, points (logarithmic)", errors);
    plot.set_layout(framed(x, axis("AUROC of wrong answers")));
    plot
}

/// The share of images, column `i` of the rows, by network, a bar for each way to read the exits.
pub fn by_way(rows: &[Found], i: usize, title: &str) -> Plot {
    let mut plot = Plot::new();
    let ways: Vec<&str> =
        by_network(rows).next().map_or(&[][..], |(_, rows)| rows).iter().map(|row| &*row.of).collect();
    for (place, way) in ways.into_iter().enumerate() {
        let of_way = || rows.iter().filter(|row| row.of == way);
        let (x, y) = of_way().map(|row| (row.network.clone(), row.mean(i) * 100.0)).unzip();
        let half = of_way().map(|row| (row.spreads[i].half_width * 100.0).max(0.0)).collect();
        let marker = Marker::new().color(colour(place));
        plot.add_trace(Bar::<String, f64>::new(x, y).name(way).marker(marker).error_y(bars(half)));
    }
    plot.set_layout(framed(axis(""), axis(title)).bar_mode(BarMode::Group));
    plot
}

/// Images that take longer, in %, against the time over the trunk's, when they leave at the exits in these shares; the trunk alone
/// is dotted.
pub fn by_latency(networks: &[Recorded], shares: &[Vec<f64>]) -> Result<Plot> {
    let mut plot = Plot::new();
    let within: Vec<f64> = (0..=200).map(|i| 1.0 - 10f64.powf(-f64::from(i) / 80.0)).collect();
    let longer: Vec<f64> = within.iter().map(|within| (1.0 - within) * 100.0).collect();
    for (i, (network, shares)) in networks.iter().zip(shares).enumerate() {
        let over =
            |&within: &f64| Ok(network.timing.percentile(shares, within)? / network.timing.baseline.median);
        let times = within.iter().map(over).collect::<Result<_>>()?;
        plot.add_trace(line(&network.name, times, longer.clone(), stroke(colour(i), 2.0)));
    }
    let dotted = stroke(GREY, 2.0).dash(DashType::Dot);
    plot.add_trace(line("trunk alone", vec![1.0; 2], vec![longer[0], longer[200]], dotted));
    let y = log_axis("images that take longer, % (logarithmic)", longer.into_iter());
    plot.set_layout(framed(axis("time over the trunk's"), y));
    Ok(plot)
}
