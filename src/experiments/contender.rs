//! Networks side by side: at one accuracy, which is the fastest?

use super::seeds::{Seeds, Spread, known};
use super::session::Session;
use crate::data::{Test, Validation};
use crate::exits::{Criterion, ExitRecord, Loss, Outcome, Timer, for_accuracy};
use crate::{Network, Result};
use polars::prelude::{Column, DataFrame, df};

/// A network in the comparison, or a cascade of two.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Contender {
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
    /// Milliseconds to leave at each exit, one image at a time on one thread; none before [`Self::measure`].
    pub costs: Vec<f64>,
}

/// How a contender comes to its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every image passes the whole network.
    Static,
    /// Images leave at branches of one network.
    EarlyExit,
    /// A small network answers where it is sure, else a large one.
    Cascade,
}

/// What a contender gives with one choice of thresholds, on the test images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// The contender's name.
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
}

impl Contender {
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

    /// Times all contenders on these images, going over them `rounds` times: each against the first, in turn, and in
    /// the first's milliseconds of the first measurement, so that a machine that slows down changes nothing.
    pub fn measure(contenders: &mut [Self], images: &[Vec<f32>], rounds: usize) -> Result<()> {
        let Some(first) = contenders.first().map(|first| first.network.clone()) else {
            return Ok(());
        };
        let mut unit = None;
        for contender in contenders {
            let timing = Timer::new(&contender.network, &first, images.to_vec(), rounds)?.exits()?;
            let unit = *unit.get_or_insert(timing.baseline.median);
            contender.costs = timing.costs().iter().map(|ms| ms * unit / timing.baseline.median).collect();
        }
        Ok(())
    }

    /// For each seed what thresholds on the exact front of Validation give on Test.
    pub fn fronts(&self) -> Result<Vec<Vec<Outcome>>> {
        let of_seed = |(validation, test): (&ExitRecord<Validation>, &ExitRecord<Test>)| {
            test.outcomes(&validation.pareto_front(&self.costs)?, &self.costs)
        };
        self.validation.iter().zip(&self.test).map(of_seed).collect()
    }

    /// What each choice of thresholds gives on Test, for each seed: at most one percent of the answers is another than
    /// the last exit's, with probability 0.95; no loss on Validation; one point less there.
    fn choices(&self) -> Result<Vec<(&'static str, Vec<Outcome>)>> {
        if self.kind() == Kind::Static {
            let alone = self.test.iter().map(|test| test.outcome(&[], &self.costs));
            return Ok(vec![("", alone.collect::<Result<_>>()?)]);
        }
        let mut choices = [Self::GUARANTEED, "no loss", "1 point less"].map(|name| (name, Vec::new()));
        for (validation, test) in self.validation.iter().zip(&self.test) {
            let front = validation.pareto_front(&self.costs)?;
            let last = validation.last_accuracy();
            let chosen = [
                validation.choose_with_guarantee(Loss::Different, 0.01, 0.05, &self.costs)?,
                for_accuracy(&front, last)?.clone(),
                for_accuracy(&front, last - 0.01)?.clone(),
            ];
            for ((_, outcomes), chosen) in choices.iter_mut().zip(chosen) {
                outcomes.push(test.outcome(&chosen.thresholds, &self.costs)?);
            }
        }
        Ok(choices.into())
    }

    /// A table of what no criterion can beat, for the contenders with exits: means over the seeds, on Test, of the last
    /// exit's accuracy and the oracle's ([`ExitRecord::oracle`]); of the share of images on which the last exit is
    /// wrong and an earlier one right; of the oracle's gain over leaving at the last exit; and of that of each named
    /// criterion at thresholds at which no accuracy is lost on Validation.
    pub fn oracles(contenders: &[Self]) -> Result<DataFrame> {
        let with_exits = || contenders.iter().filter(|contender| contender.kind() != Kind::Static);
        let mut frame =
            df!("network" => with_exits().map(|contender| contender.name.clone()).collect::<Vec<_>>())?;
        let mut add = |name: String, of: &dyn Fn(&Self, usize) -> Result<f64>| -> Result<()> {
            let mean = |contender: &Self| -> Result<f64> {
                let seeds = 0..contender.test.len();
                let values = seeds.map(|seed| of(contender, seed)).collect::<Result<Vec<f64>>>()?;
                Ok(Spread::of(&values).mean)
            };
            let means = with_exits().map(mean).collect::<Result<Vec<f64>>>()?;
            frame.with_column(Column::new(name.into(), means))?;
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
                Ok(whole(of) / test.outcome(&chosen.thresholds, &of.costs)?.cost)
            })?;
        }
        Ok(frame)
    }

    /// The choice with a guarantee.
    pub const GUARANTEED: &str = "1 % may differ, guaranteed";

    /// What all measured contenders give with all choices, with batches of this size timed on these images.
    pub fn standings(
        contenders: &[Self],
        images: &[Vec<f32>],
        rounds: usize,
        batch: usize,
    ) -> Result<Vec<Standing>> {
        let (mut standings, mut unit) = (Vec::new(), None);
        for contender in contenders {
            let timer = Timer::new(&contender.network, &contenders[0].network, images.to_vec(), rounds)?;
            for (choice, outcomes) in contender.choices()? {
                let mut shares = vec![0.0; contender.network.exits()];
                for outcome in &outcomes {
                    let seeds = outcomes.len() as f64;
                    shares.iter_mut().zip(outcome.shares()).for_each(|(mean, share)| *mean += share / seeds);
                }
                let time = timer.batches(&shares, &[batch])?[0];
                let unit = *unit.get_or_insert(time.baseline);
                standings.push(Standing {
                    name: contender.name.clone(),
                    kind: contender.kind(),
                    choice: choice.to_string(),
                    accuracy: outcomes.iter().map(Outcome::accuracy).collect(),
                    alone: outcomes.iter().map(|outcome| outcome.cost).collect(),
                    batch: time.early_exit * unit / time.baseline,
                });
            }
        }
        Ok(standings)
    }
}

impl Standing {
    /// A table of such standings: accuracy on Test (0..=1) and milliseconds, with standard deviations over the seeds;
    /// the gain over the first; and how many times longer a static network of the same accuracy takes, with half the
    /// width of its 95 % interval: interpolated between the static networks of the same seed, times by their
    /// logarithms, and missing where none is as accurate.
    pub fn frame(standings: &[Self]) -> Result<DataFrame> {
        let spreads = |of: &dyn Fn(&Self) -> Vec<f64>| -> Vec<Spread> {
            standings.iter().map(|standing| Spread::of(&of(standing))).collect()
        };
        let mean = |spreads: &[Spread]| spreads.iter().map(|spread| known(spread.mean)).collect::<Vec<_>>();
        let deviation = |of: &[Spread]| of.iter().map(|spread| known(spread.deviation)).collect::<Vec<_>>();
        let half_width = |of: &[Spread]| of.iter().map(|spread| known(spread.half_width)).collect::<Vec<_>>();
        let accuracy = spreads(&|s| s.accuracy.clone());
        let alone = spreads(&|s| s.alone.clone());
        let gain = |s: &Self| -> Vec<f64> {
            s.alone.iter().zip(&standings[0].alone).map(|(ms, first)| first / ms).collect()
        };
        let against = |s: &Self, in_batches: bool| -> Vec<f64> {
            let of_seed = |seed: usize| s.against_static(standings, seed, in_batches);
            (0..s.accuracy.len()).filter_map(of_seed).collect()
        };
        let gains = spreads(&gain);
        let ratios = spreads(&|s| against(s, false));
        let in_batches = spreads(&|s| against(s, true));
        Ok(df!(
            "network" => standings.iter().map(|s| s.name.clone()).collect::<Vec<_>>(),
            "choice" => standings.iter().map(|s| s.choice.clone()).collect::<Vec<_>>(),
            "seeds" => standings.iter().map(|s| s.accuracy.len() as u64).collect::<Vec<_>>(),
            "accuracy" => mean(&accuracy),
            "± accuracy" => deviation(&accuracy),
            "ms alone" => mean(&alone),
            "± ms" => deviation(&alone),
            "ms in batches" => standings.iter().map(|s| s.batch).collect::<Vec<_>>(),
            "gain" => mean(&gains),
            "in batches" => standings.iter().map(|s| standings[0].batch / s.batch).collect::<Vec<_>>(),
            "static at this accuracy" => mean(&ratios),
            "± 95 %" => half_width(&ratios),
            "in batches, static" => mean(&in_batches),
        )?)
    }

    /// How many times longer a static network of this seed's accuracy takes.
    fn against_static(&self, standings: &[Self], seed: usize, in_batches: bool) -> Option<f64> {
        let time = |of: &Self| if in_batches { Some(of.batch) } else { of.alone.get(seed).copied() };
        let of_static = standings.iter().filter(|standing| standing.kind == Kind::Static);
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
