//! Notebook 9: whether early exit pays: networks of all kinds side by side, and which exits a network should have.

use crate::figures::style::{GREY, axis, bar, beaten, colour, layout, legend, log_axis};
use crate::tables::known;
use branchynet::data::{Test, Validation};
use branchynet::exits::{Criterion, ExitRecord, OperatingPoint};
use branchynet::networks::Placement;
use branchynet::runs::{Seeds, Session, Spread};
use branchynet::{Error, Network, Result};
use plotly::common::{Anchor, DashType, ErrorData, ErrorType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::Annotation;
use plotly::{Plot, Scatter};
use polars::prelude::{Column, DataFrame};

pub use branchynet::exits::for_accuracy;

/// Some of the exits of a network, and what they give without the others.
#[derive(Debug, Clone)]
pub struct ExitSet {
    /// The branches, from 0.
    pub branches: Vec<usize>,
    /// On Validation, at the cheapest thresholds at which no more than the given share of the answers there is another
    /// than the last exit's. Costs in milliseconds.
    pub point: OperatingPoint,
    /// The trunk's time over the mean cost.
    pub gain: f64,
}

impl ExitSet {
    /// A table of the first `rows` of these sets for the branches of `network`: gain, mean cost, and shares that leave
    /// at each (0..=1).
    pub fn table(sets: &[Self], network: &Network, rows: usize) -> Result<DataFrame> {
        let sets = &sets[..rows.min(sets.len())];
        let names = |set: &Self| -> String {
            let each = set.branches.iter().map(|&i| Placement::of(network, i).to_string());
            each.collect::<Vec<_>>().join(", ")
        };
        let share = |exit: usize| -> Vec<Option<f64>> {
            sets.iter()
                .map(|set| set.point.shares().get(exit).copied().filter(|_| exit < set.branches.len()))
                .collect()
        };
        df!(
            "branches" => sets.iter().map(names).collect::<Vec<_>>(),
            "gain" => sets.iter().map(|set| set.gain).collect::<Vec<_>>(),
            "mean ms" => sets.iter().map(|set| set.point.cost).collect::<Vec<_>>(),
            "leave at the first" => share(0),
            "leave at the second" => share(1),
        )
    }
}

/// The choice with a guarantee.
pub const GUARANTEED: &str = "1 % may differ, guaranteed";

/// A network in the comparison, or a cascade of two.
#[derive(Debug, Clone)]
pub struct Model {
    /// `Airbench-32`.
    pub name: String,
    /// How it was trained, and where the records are, for the subtitle of a figure.
    pub caption: String,
    /// Its layers; what the weights are makes no difference for time.
    pub network: Network,
    /// For each seed what it says about the validation images, which choose thresholds.
    pub validation: Vec<ExitRecord<Validation>>,
    /// For each seed what it says about the test images.
    pub test: Vec<ExitRecord<Test>>,
    /// Milliseconds to leave at each exit, one image at a time on one thread; none before they are measured.
    pub costs: Vec<f64>,
}

/// How a model comes to its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every image passes the whole network.
    Static,
    /// Images leave at branches of one network.
    EarlyExit,
    /// A small network answers where it is sure, else a large one.
    Cascade,
}

/// What a model gives with one choice of thresholds, on the test images.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The model's name.
    pub name: String,
    /// How it comes to its answers.
    pub kind: Kind,
    /// `no loss`; nothing for a static network.
    pub choice: String,
    /// For each seed its accuracy (0..=1).
    pub accuracy: Vec<f64>,
    /// For each seed the mean milliseconds for one image, one at a time on one thread.
    pub alone: Vec<f64>,
    /// The mean milliseconds for one image in batches on all threads, at the mean of the seeds' mixes.
    pub batch: f64,
    /// Those of the first model in turn with these.
    pub first_batch: f64,
}

impl Model {
    /// The network of an experiment with the recorded runs of all its seeds.
    pub fn of(session: &Session) -> Result<Self> {
        let seeds = Seeds::of(&session.results()?)?;
        let network = session.networks()?.1;
        Ok(Self {
            name: network.name().to_string(),
            caption: seeds.caption(),
            network,
            validation: seeds.results().iter().map(|results| results.validation.clone()).collect(),
            test: seeds.results().iter().map(|results| results.test.clone()).collect(),
            costs: Vec::new(),
        })
    }

    /// The cascade of two static networks: this one answers where it is sure. Seeds in pairs.
    pub fn followed_by(&self, then: &Self) -> Result<Self> {
        let network = self.network.followed_by(&then.network)?;
        let validation = self.validation.iter().zip(&then.validation).map(|(a, b)| a.followed_by(b));
        let test = self.test.iter().zip(&then.test).map(|(a, b)| a.followed_by(b));
        Ok(Self {
            name: network.name().to_string(),
            caption: format!("{}; {}", self.caption, then.caption),
            validation: validation.collect::<Result<_>>()?,
            test: test.collect::<Result<_>>()?,
            network,
            costs: Vec::new(),
        })
    }

    /// How it comes to its answers.
    pub fn kind(&self) -> Kind {
        match &self.network.costs()[..] {
            [_] => Kind::Static,
            // All of the first network is a branch at the pixels.
            [first, ..] if first.trunk_macs == 0 => Kind::Cascade,
            _ => Kind::EarlyExit,
        }
    }

    /// For each seed what thresholds on the exact front of Validation give on Test.
    pub fn fronts(&self) -> Result<Vec<Vec<OperatingPoint>>> {
        let of_seed = |(validation, test): (&ExitRecord<Validation>, &ExitRecord<Test>)| {
            test.operating_points(&validation.pareto_front(&self.costs)?, &self.costs)
        };
        self.validation.iter().zip(&self.test).map(of_seed).collect()
    }

    /// A table of what no criterion can beat, for the models with exits: means over the seeds, on Test, of the last
    /// exit's accuracy and the oracle's ([`ExitRecord::oracle`]); of the share of images on which the last exit is
    /// wrong and an earlier one right; of the oracle's gain over leaving at the last exit; and of that of each named
    /// criterion at thresholds at which no accuracy is lost on Validation.
    pub fn oracles(models: &[Self]) -> Result<DataFrame> {
        let with_exits = || models.iter().filter(|model| model.kind() != Kind::Static);
        let mut frame = df!("network" => with_exits().map(|model| model.name.clone()).collect::<Vec<_>>())?;
        let mut add = |name: String, of: &dyn Fn(&Self, usize) -> Result<f64>| -> Result<()> {
            let mean = |model: &Self| -> Result<f64> {
                let seeds = 0..model.test.len();
                let values = seeds.map(|seed| of(model, seed)).collect::<Result<Vec<f64>>>()?;
                Ok(Spread::of(&values).mean)
            };
            let means = with_exits().map(mean).collect::<Result<Vec<f64>>>()?;
            frame.with_column(Column::new(name.into(), means)).map_err(Error::other)?;
            Ok(())
        };
        let last = |of: &Self, seed: usize| of.test[seed].last_accuracy();
        let whole = |of: &Self| *of.costs.last().expect("measured");
        add("accuracy".into(), &|of, seed| Ok(last(of, seed)))?;
        add("oracle's accuracy".into(), &|of, seed| Ok(of.test[seed].oracle(&of.costs)?.accuracy()))?;
        add("right early, wrong at last".into(), &|of, seed| {
            Ok(of.test[seed].oracle(&of.costs)?.accuracy() - last(of, seed))
        })?;
        add("oracle's gain".into(), &|of, seed| Ok(whole(of) / of.test[seed].oracle(&of.costs)?.cost))?;
        for criterion in Criterion::NAMED {
            add(format!("gain by {criterion}"), &|of, seed| {
                let validation = of.validation[seed].by(&criterion);
                let floor = validation.last_accuracy();
                let chosen = validation.choose_for_accuracy(floor, &of.costs)?;
                let test = of.test[seed].by(&criterion);
                Ok(whole(of) / test.operating_point(&chosen.thresholds, &of.costs)?.cost)
            })?;
        }
        Ok(frame)
    }
}

impl Comparison {
    /// A table of such comparisons: accuracy on Test (0..=1) and milliseconds, with standard deviations over the seeds;
    /// the gain over the first; and how many times longer a static network of the same accuracy takes, with half the
    /// width of its 95 % interval: interpolated between the static networks of the same seed, times by their
    /// logarithms, and missing where none is as accurate.
    pub fn table(comparisons: &[Self]) -> Result<DataFrame> {
        let spreads = |of: &dyn Fn(&Self) -> Vec<f64>| -> Vec<Spread> {
            comparisons.iter().map(|comparison| Spread::of(&of(comparison))).collect()
        };
        let mean = |spreads: &[Spread]| spreads.iter().map(|spread| known(spread.mean)).collect::<Vec<_>>();
        let deviation = |of: &[Spread]| of.iter().map(|spread| known(spread.deviation)).collect::<Vec<_>>();
        let half_width = |of: &[Spread]| of.iter().map(|spread| known(spread.half_width)).collect::<Vec<_>>();
        let accuracy = spreads(&|s| s.accuracy.clone());
        let alone = spreads(&|s| s.alone.clone());
        let gain = |s: &Self| -> Vec<f64> {
            s.alone.iter().zip(&comparisons[0].alone).map(|(ms, first)| first / ms).collect()
        };
        let against = |s: &Self, in_batches: bool| -> Vec<f64> {
            let of_seed = |seed: usize| s.against_static(comparisons, seed, in_batches);
            (0..s.accuracy.len()).filter_map(of_seed).collect()
        };
        let gains = spreads(&gain);
        let ratios = spreads(&|s| against(s, false));
        let in_batches = spreads(&|s| against(s, true));
        df!(
            "network" => comparisons.iter().map(|s| s.name.clone()).collect::<Vec<_>>(),
            "choice" => comparisons.iter().map(|s| s.choice.clone()).collect::<Vec<_>>(),
            "seeds" => comparisons.iter().map(|s| s.accuracy.len() as u64).collect::<Vec<_>>(),
            "accuracy" => mean(&accuracy),
            "± accuracy" => deviation(&accuracy),
            "ms alone" => mean(&alone),
            "± ms" => deviation(&alone),
            "ms in batches" => comparisons.iter().map(|s| s.batch_ms(&comparisons[0])).collect::<Vec<_>>(),
            "gain" => mean(&gains),
            "in batches" => comparisons.iter().map(|s| s.first_batch / s.batch).collect::<Vec<_>>(),
            "static at this accuracy" => mean(&ratios),
            "± 95 %" => half_width(&ratios),
            "in batches, static" => mean(&in_batches),
        )
    }

    /// Milliseconds in batches where the first model takes what it took beside itself, so that a machine that slows down
    /// changes nothing.
    fn batch_ms(&self, first: &Self) -> f64 {
        self.batch * first.first_batch / self.first_batch
    }

    /// How many times longer a static network of this seed's accuracy takes.
    fn against_static(&self, comparisons: &[Self], seed: usize, in_batches: bool) -> Option<f64> {
        let time = |of: &Self| {
            if in_batches { Some(of.batch_ms(&comparisons[0])) } else { of.alone.get(seed).copied() }
        };
        let of_static = comparisons.iter().filter(|comparison| comparison.kind == Kind::Static);
        let points = of_static.filter_map(|of| Some((*of.accuracy.get(seed)?, time(of)?))).collect();
        Some(time_at(points, self.accuracy[seed])? / time(self)?)
    }
}

/// The time at an accuracy between these (accuracy, time) points, of which the beaten do not count.
fn time_at(mut points: Vec<(f64, f64)>, accuracy: f64) -> Option<f64> {
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut front: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if front.last().is_none_or(|last| point.0 > last.0) {
            front.push(point);
        }
    }
    let above = front.iter().position(|point| point.0 >= accuracy)?;
    let (high, low) = (front[above], *front.get(above.checked_sub(1)?)?);
    let share = (accuracy - low.0) / (high.0 - low.0);
    Some((low.1.ln() + share * (high.1 / low.1).ln()).exp())
}

/// Accuracy on Test against milliseconds for one image alone: static networks as grey points with their names (mean
/// and standard deviation over the seeds), early exits and cascades as lines, one for each seed, of the thresholds on
/// the front of Validation; the star is the choice with a guarantee.
pub fn plane(models: &[Model], comparisons: &[Comparison]) -> Result<Plot> {
    let mut plot = Plot::new();
    let star = |colour: &'static str| Marker::new().color(colour).size(12).symbol(MarkerSymbol::Star);
    let percent = |accuracies: &[f64]| accuracies.iter().map(|a| a * 100.0).collect::<Vec<_>>();
    // What can leave early: (milliseconds, accuracy in percent).
    let mut reached = Vec::new();
    for (i, model) in models.iter().filter(|model| model.kind() != Kind::Static).enumerate() {
        let dash = if model.kind() == Kind::Cascade { DashType::Dash } else { DashType::Solid };
        for (seed, front) in model.fronts()?.into_iter().enumerate() {
            let points = front.iter().map(|outcome| (outcome.cost, outcome.accuracy() * 100.0));
            let (x, y) = points.clone().unzip();
            reached.extend(points);
            plot.add_trace(
                Scatter::new(x, y)
                    .name(&model.name)
                    .legend_group(&model.name)
                    .show_legend(seed == 0)
                    .mode(Mode::Lines)
                    .line(Line::new().color(colour(i)).width(1.5).dash(dash.clone())),
            );
        }
        let chosen = comparisons.iter().filter(|of| of.name == model.name && of.choice == GUARANTEED);
        for comparison in chosen {
            plot.add_trace(
                Scatter::new(comparison.alone.clone(), percent(&comparison.accuracy))
                    .show_legend(false)
                    .mode(Mode::Markers)
                    .marker(star(colour(i))),
            );
        }
    }
    let mut of_static: Vec<&Comparison> = comparisons.iter().filter(|of| of.kind == Kind::Static).collect();
    of_static.sort_by(|a, b| a.alone[0].total_cmp(&b.alone[0]));
    let spreads: Vec<Spread> = of_static.iter().map(|of| Spread::of(&percent(&of.accuracy))).collect();
    let alone: Vec<f64> = of_static.iter().map(|of| Spread::of(&of.alone).mean).collect();
    plot.add_trace(
        Scatter::new(alone.clone(), spreads.iter().map(|spread| spread.mean).collect())
            .name("static networks")
            .mode(Mode::Markers)
            .marker(Marker::new().color(GREY).size(9))
            .error_y(ErrorData::new(ErrorType::Data).array(spreads.iter().map(bar).collect())),
    );
    // No point of its own: what a star means, in no model's colour.
    plot.add_trace(
        Scatter::new(vec![f64::NAN], vec![f64::NAN])
            .name(GUARANTEED)
            .mode(Mode::Markers)
            .marker(star("#000000")),
    );
    // A name stands above its point and deviation, away from the lines, where nothing that leaves early beats it, and
    // below them elsewhere. A logarithmic axis wants the exponent.
    let names = of_static.iter().zip(&alone).zip(&spreads).map(|((of, ms), spread)| {
        let beaten = beaten(&reached, (*ms, spread.mean));
        let side = if beaten { -1.0 } else { 1.0 };
        Annotation::new()
            .text(&of.name)
            .x(ms.log10())
            .y(spread.mean + side * bar(spread))
            .y_anchor(if beaten { Anchor::Top } else { Anchor::Bottom })
            .y_shift(side * 7.0)
            .show_arrow(false)
            .background_color("rgba(255, 255, 255, 0.8)")
    });
    let times = reached.iter().map(|(ms, _)| *ms).chain(alone.iter().copied());
    plot.set_layout(
        layout()
            .annotations(names.collect())
            .x_axis(log_axis("milliseconds for one image, one thread", times))
            .y_axis(axis("accuracy on test, %"))
            .legend(legend()),
    );
    Ok(plot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_between_those_of_networks_that_nothing_beats() {
        let points = vec![(0.94, 4.0), (0.90, 1.0), (0.91, 5.0)];
        assert!((time_at(points.clone(), 0.92).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(time_at(points.clone(), 0.94), Some(4.0));
        assert_eq!((time_at(points.clone(), 0.95), time_at(points, 0.89)), (None, None));
    }
}
