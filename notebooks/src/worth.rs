//! Notebook 9: whether early exit pays: networks of all kinds side by side, and which exits a network should have.

use crate::figures::style::{
    GREY, axis, bar, bars, beaten, colour, dot, framed, line, log_axis, note, points, stroke,
};
use crate::tables::{add, known};
use branchynet::exits::{Criterion, OperatingPoint};
use branchynet::networks::Placement;
use branchynet::{Network, Result};
use branchynet_runs::{Results, Seeds, Session, Spread};
use plotly::Plot;
use plotly::common::{Anchor, DashType, Marker, MarkerSymbol};
use polars::prelude::DataFrame;

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
        let share = |set: &Self, branch: usize| {
            Some(set.point.shares()[branch]).filter(|_| branch < set.branches.len())
        };
        rows!(sets, set =>
            "branches" => names(set),
            "gain" => set.gain,
            "mean ms" => set.point.cost,
            "leave at the first" => share(set, 0),
            "leave at the second" => share(set, 1),
        )
    }
}

/// The choice with a guarantee.
pub const GUARANTEED: &str = "1 % may differ, guaranteed";

/// A network in the comparison, or a cascade of two.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its layers and its name; what the weights are makes no difference for time.
    pub network: Network,
    /// For each seed what it says about the validation images, which choose thresholds, and about the test images.
    pub seeds: Seeds,
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
        let (seeds, (_, network)) = (Seeds::of(&session.results()?)?, session.networks()?);
        Ok(Self { network, seeds, costs: Vec::new() })
    }

    /// The cascade of two static networks: this one answers where it is sure. Seeds in pairs.
    pub fn followed_by(&self, then: &Self) -> Result<Self> {
        let pair = |(first, then): (&Results, &Results)| {
            Ok(Results {
                validation: first.validation.followed_by(&then.validation)?,
                test: first.test.followed_by(&then.test)?,
                origin: format!("{}; {}", first.origin, then.origin),
                ..then.clone()
            })
        };
        let seeds = self.seeds.runs().iter().zip(then.seeds.runs()).map(pair).collect::<Result<_>>()?;
        let network = self.network.followed_by(&then.network)?;
        Ok(Self { network, seeds: Seeds::new(seeds), costs: Vec::new() })
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
        let front =
            |of: &Results| of.test.operating_points(&of.validation.pareto_front(&self.costs)?, &self.costs);
        self.seeds.runs().iter().map(front).collect()
    }

    /// A table of what no criterion can beat, for the models with exits: means over the seeds, on Test, of the last
    /// exit's accuracy and the oracle's ([`branchynet::exits::ExitRecord::oracle`]); of the share of images on which the last exit is
    /// wrong and an earlier one right; of the oracle's gain over leaving at the last exit; and of that of each named
    /// criterion at thresholds at which no accuracy is lost on Validation.
    pub fn oracles(models: &[Self]) -> Result<DataFrame> {
        let models: Vec<&Self> = models.iter().filter(|model| model.kind() != Kind::Static).collect();
        let mut table = rows!(models, model => "network" => model.network.name())?;
        type Of<'a> = &'a dyn Fn(&Results, &[f64]) -> Result<f64>;
        let mut mean = |name: &str, of: Of<'_>| {
            let mean = |model: &&Self| {
                let values = model.seeds.runs().iter().map(|run| of(run, &model.costs));
                Ok(Some(Spread::of(&values.collect::<Result<Vec<f64>>>()?).mean))
            };
            add(&mut table, [(name.to_string(), models.iter().map(mean).collect::<Result<_>>()?)])
        };
        let right = |run: &Results, costs: &[f64]| Ok(run.test.oracle(costs)?.accuracy());
        let last = |run: &Results| run.test.last_accuracy();
        mean("accuracy", &|run, _| Ok(last(run)))?;
        mean("oracle's accuracy", &right)?;
        mean("right early, wrong at last", &|run, costs| Ok(right(run, costs)? - last(run)))?;
        mean("oracle's gain", &|run, costs| Ok(costs[costs.len() - 1] / run.test.oracle(costs)?.cost))?;
        for criterion in Criterion::NAMED {
            mean(&format!("gain by {criterion}"), &|run, costs| {
                let run = run.by(&criterion);
                let chosen = run.validation.choose_for_accuracy(run.validation.last_accuracy(), costs)?;
                Ok(costs[costs.len() - 1] / run.test.operating_point(&chosen.thresholds, costs)?.cost)
            })?;
        }
        Ok(table)
    }
}

impl Comparison {
    /// A table of such comparisons: accuracy on Test (0..=1) and milliseconds, with standard deviations over the seeds;
    /// the gain over the first; and how many times longer a static network of the same accuracy takes, with half the
    /// width of its 95 % interval: interpolated between the static networks of the same seed, times by their
    /// logarithms, and missing where none is as accurate.
    pub fn table(comparisons: &[Self]) -> Result<DataFrame> {
        let first = &comparisons[0];
        let against = |s: &Self, in_batches: bool| -> Vec<f64> {
            let of_seed = |seed: usize| s.against_static(comparisons, seed, in_batches);
            (0..s.accuracy.len()).filter_map(of_seed).collect()
        };
        let spreads = |s: &Self| {
            let gains: Vec<f64> = s.alone.iter().zip(&first.alone).map(|(ms, first)| first / ms).collect();
            [&s.accuracy, &s.alone, &gains, &against(s, false), &against(s, true)]
                .map(|values| Spread::of(values))
        };
        let rows: Vec<_> = comparisons.iter().map(|s| (s, spreads(s))).collect();
        rows!(rows, (s, [accuracy, alone, gain, ratio, in_batches]) =>
            "network" => s.name.clone(),
            "choice" => s.choice.clone(),
            "seeds" => s.accuracy.len() as u64,
            "accuracy" => known(accuracy.mean),
            "± accuracy" => known(accuracy.deviation),
            "ms alone" => known(alone.mean),
            "± ms" => known(alone.deviation),
            "ms in batches" => s.batch_ms(first),
            "gain" => known(gain.mean),
            "in batches" => s.first_batch / s.batch,
            "static at this accuracy" => known(ratio.mean),
            "± 95 %" => known(ratio.half_width),
            "in batches, static" => known(in_batches.mean),
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
    let star = |colour: &str| dot(colour, 12, MarkerSymbol::Star);
    let percent = |accuracies: &[f64]| accuracies.iter().map(|a| a * 100.0).collect::<Vec<_>>();
    // What can leave early: (milliseconds, accuracy in percent).
    let mut reached = Vec::new();
    for (i, model) in models.iter().filter(|model| model.kind() != Kind::Static).enumerate() {
        let name = model.network.name();
        let dash = if model.kind() == Kind::Cascade { DashType::Dash } else { DashType::Solid };
        for (seed, front) in model.fronts()?.into_iter().enumerate() {
            let front = front.iter().map(|outcome| (outcome.cost, outcome.accuracy() * 100.0));
            let (x, y) = front.clone().unzip();
            reached.extend(front);
            let trace = line::<f64, f64>(name, x, y, stroke(colour(i), 1.5).dash(dash.clone()));
            plot.add_trace(trace.legend_group(name).show_legend(seed == 0));
        }
        for chosen in comparisons.iter().filter(|of| of.name == name && of.choice == GUARANTEED) {
            let stars = points(GUARANTEED, chosen.alone.clone(), percent(&chosen.accuracy), star(colour(i)));
            plot.add_trace(stars.show_legend(false));
        }
    }
    let mut of_static: Vec<&Comparison> = comparisons.iter().filter(|of| of.kind == Kind::Static).collect();
    of_static.sort_by(|a, b| a.alone[0].total_cmp(&b.alone[0]));
    let spreads: Vec<Spread> = of_static.iter().map(|of| Spread::of(&percent(&of.accuracy))).collect();
    let alone: Vec<f64> = of_static.iter().map(|of| Spread::of(&of.alone).mean).collect();
    let means = spreads.iter().map(|spread| spread.mean).collect();
    let trace = points("static networks", alone.clone(), means, Marker::new().color(GREY).size(9));
    plot.add_trace(trace.error_y(bars(spreads.iter().map(bar).collect())));
    // No point of its own: what a star means, in no model's colour.
    plot.add_trace(points(GUARANTEED, vec![f64::NAN], vec![f64::NAN], star("#000000")));
    // A name stands above its point and deviation, away from the lines, where nothing that leaves early beats it, and
    // below them elsewhere. A logarithmic axis wants the exponent.
    let names = of_static.iter().zip(&alone).zip(&spreads).map(|((of, ms), spread)| {
        let below = beaten(&reached, (*ms, spread.mean));
        let side = if below { -1.0 } else { 1.0 };
        note(&of.name, ms.log10(), spread.mean + side * bar(spread))
            .y_anchor(if below { Anchor::Top } else { Anchor::Bottom })
            .y_shift(side * 7.0)
            .background_color("rgba(255, 255, 255, 0.8)")
    });
    let times = reached.iter().map(|(ms, _)| *ms).chain(alone.iter().copied());
    let x_axis = log_axis("milliseconds for one image, one thread", times);
    plot.set_layout(framed(x_axis, axis("accuracy on test, %")).annotations(names.collect()));
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
