//! What thresholds give: exact curves, Pareto fronts, and choices.

use super::operating_point::OperatingPoint;
use super::record::ExitRecord;
use crate::Result;
use crate::data::{Role, Validation};
use crate::error::{bail, error};
use rayon::prelude::*;

impl<R: Role> ExitRecord<R> {
    /// The outcomes at all combinations of the thresholds in `grid` (the paper's sweep), the last
    /// exit's threshold fastest.
    pub fn grid(&self, grid: &[f64], costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        let free = self.exits() - 1;
        let combinations = u32::try_from(free).ok().and_then(|free| grid.len().checked_pow(free));
        let Some(combinations) = combinations.filter(|&n| n <= 1_000_000) else {
            bail!(
                Setting,
                "a grid of {} thresholds for {free} exits has more than a million combinations",
                grid.len()
            )
        };
        (0..combinations)
            .map(|i| {
                let digit = |exit: usize| i / grid.len().pow((free - 1 - exit) as u32) % grid.len();
                self.operating_point(&(0..free).map(|exit| grid[digit(exit)]).collect::<Vec<_>>(), costs)
            })
            .collect()
    }

    /// Samples in ascending order of uncertainty at `exit`; those without one (NaN) never leave and
    /// come last.
    fn by_uncertainty(&self, exit: usize) -> Vec<usize> {
        let predictions = self.predictions(exit);
        let mut order: Vec<usize> = (0..self.len()).collect();
        // A NaN may have either sign.
        let key = |sample: usize| (predictions[sample].uncertainty.is_nan(), predictions[sample].uncertainty);
        order.sort_by(|&a, &b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        order
    }

    /// For each number of samples `n`: a threshold at which exactly the first `n` of `order` leave
    /// at `exit`, or `None` where sample `n` is as unsure as the one before and leaves with it.
    fn cuts(&self, exit: usize, order: &[usize]) -> Vec<Option<f64>> {
        let unsure = |i: usize| self.predictions(exit)[order[i]].uncertainty;
        let cut = |n: usize| {
            if n == 0 {
                Some(self.criterion().never())
            } else if unsure(n - 1).is_nan() {
                None
            } else if n == order.len() || unsure(n).is_nan() {
                Some(f64::INFINITY)
            } else if unsure(n) > unsure(n - 1) {
                Some(unsure(n))
            } else {
                None
            }
        };
        (0..=order.len()).map(cut).collect()
    }

    /// The outcome at every distinct threshold, from nothing leaving early to everything: the exact
    /// curve of accuracy against cost, not a grid's. For two exits; fails for other numbers,
    /// whose thresholds make more than a curve (see [`Self::pareto_front`]).
    pub fn curve(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.check_costs(costs)?;
        if self.exits() != 2 {
            bail!(
                Setting,
                "a curve over one threshold needs 2 exits, this record has {}; use pareto_front",
                self.exits()
            )
        }
        let order = self.by_uncertainty(0);
        let cuts = self.cuts(0, &order);
        let mut right = (0..self.len()).filter(|&sample| self.right(1, sample)).count();
        let mut curve = Vec::new();
        for n in 0..=self.len() {
            if n > 0 {
                let sample = order[n - 1];
                right = right + usize::from(self.right(0, sample)) - usize::from(self.right(1, sample));
            }
            if let Some(threshold) = cuts[n] {
                curve.push(OperatingPoint::new(vec![threshold], right, vec![n, self.len() - n], costs));
            }
        }
        Ok(curve)
    }

    /// The outcomes that no other beats in both accuracy and cost, over *all* thresholds, in
    /// ascending order of cost. Exact for one to three exits; for more, whose combinations of thresholds
    /// are too many, [`Self::approximate_front`].
    pub fn pareto_front(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.front_from(0, costs)
    }

    /// The part of the front with at least `least` right answers, which is had for less; with other numbers of
    /// exits than three all of it.
    pub(super) fn front_from(&self, least: usize, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.check_costs(costs)?;
        let outcomes = match self.exits() {
            1 => vec![self.operating_point(&[], costs)?],
            2 => self.curve(costs)?,
            3 => self.cheapest_for_each_accuracy(least, costs),
            _ => return self.approximate_front(costs),
        };
        Ok(pareto_optimal(outcomes))
    }

    /// Whether [`Self::pareto_front`] is exact.
    pub fn front_is_exact(&self) -> bool {
        self.exits() <= 3
    }

    /// [`Self::pareto_front`] approximated for any number of exits: exact sweeps over one threshold at a
    /// time, the others fixed, from many starting points, then from all points of the front so far, until
    /// nothing improves. Every outcome returned is real; a better one may be missed. On records of three
    /// exits, where the exact front is known, the loss is measured (`tests/exits.rs`).
    pub fn approximate_front(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.check_costs(costs)?;
        let search = Search::new(self, costs);
        let found = search.run();
        let outcomes = found.iter().enumerate().filter_map(|(right, best)| {
            let (_, cuts) = best.as_ref()?;
            let (leaving, thresholds) = search.describe(cuts);
            Some(OperatingPoint::new(thresholds, right, leaving, costs))
        });
        Ok(pareto_optimal(outcomes.collect()))
    }

    /// For three exits: of all pairs of thresholds that give the same number of right answers, at least `least`, a
    /// cheapest. For each number of samples that leave at exit 1, a walk over those that exit 2 and the last
    /// exit do not answer equally well, in the order of exit 2; between two of them accuracy stays, and one
    /// end is cheapest.
    fn cheapest_for_each_accuracy(&self, least: usize, costs: &[f64]) -> Vec<OperatingPoint> {
        let n = self.len();
        let (first, second) = (self.by_uncertainty(0), self.by_uncertainty(1));
        let (first_cuts, second_cuts) = (self.cuts(0, &first), self.cuts(1, &second));
        let change = |from: usize, to: usize, sample: usize| {
            i32::from(self.right(to, sample)) - i32::from(self.right(from, sample))
        };
        // Right answers with the first `i` samples leaving at exit 1 and all others at exit 3.
        let mut base = vec![(0..n).filter(|&sample| self.right(2, sample)).count() as i32];
        for &sample in &first {
            base.push(base[base.len() - 1] + change(2, 0, sample));
        }
        let mut rank = vec![0; n];
        first.iter().enumerate().for_each(|(i, &sample)| rank[sample] = i);
        let (mut walk, mut places) = (vec![Stop::default()], vec![None; n]);
        let mut begin = 0;
        for end in (1..=n).filter(|&end| second_cuts[end].is_some()) {
            // No threshold can part these.
            let together = &second[begin..end];
            let behind = together.iter().all(|&sample| change(2, 1, sample) == 0);
            if !behind {
                walk.push(Stop::default());
            }
            for &sample in together {
                let place = Place { stop: walk.len() - 1, behind, change: change(2, 1, sample) };
                place.add(1, &mut walk);
                places[rank[sample]] = Some(place);
            }
            begin = end;
        }
        // What leaving at exit 2 instead of the last may still add; a walk that needs more is over.
        let gain = (0..n).filter(|&sample| change(2, 1, sample) > 0).count() as i32;
        let needed = least as i32 - gain;
        type Best = Vec<Option<(f64, usize, usize)>>;
        let (dearer, nothing) = (costs[1] - costs[2], || vec![None; n + 1]);
        let of_use = |&leaving: &usize| first_cuts[leaving].is_some() && base[leaving] >= needed;
        let of_range = |mut best: Best, start: usize| {
            let (mut walk, mut gone) = (walk.clone(), 0);
            for leaving in (start..n + 1).take(RANGE).filter(of_use) {
                places[gone..leaving].iter().flatten().for_each(|place: &Place| place.add(-1, &mut walk));
                gone = leaving;
                let fixed = leaving as f64 * costs[0] + (n - leaving) as f64 * costs[2];
                let (mut right, mut at_second) = (base[leaving], 0);
                for stop in &walk {
                    right += stop.change;
                    if right < needed {
                        break;
                    }
                    at_second += stop.samples;
                    let cheapest = if dearer < 0.0 { at_second + stop.behind } else { at_second };
                    let cost = fixed + f64::from(cheapest) * dearer;
                    let slot = &mut best[right as usize];
                    if slot.is_none_or(|(found, ..)| cost < found) {
                        *slot = Some((cost, leaving, cheapest as usize));
                    }
                    at_second += stop.behind;
                }
            }
            best
        };
        let ranges: Vec<usize> = (0..=n).step_by(RANGE).collect();
        let best: Best = ranges.into_par_iter().fold(nothing, of_range).reduce(nothing, |mut a, b| {
            for (a, b) in a.iter_mut().zip(b) {
                // Ties go to the smaller thresholds, so that the result does not depend on how
                // work was divided.
                let key = |x: &(f64, usize, usize)| (x.0, x.1);
                if b.is_some_and(|b| a.is_none_or(|a| key(&b) < key(&a))) {
                    *a = b;
                }
            }
            a
        });
        // The smallest threshold of exit 2 at which so many leave there.
        let second_threshold = |leaving: usize, at_second: usize| {
            let mut left = 0;
            (0..=n).find_map(|cut| {
                left += usize::from(cut > 0 && rank[second[cut - 1]] >= leaving);
                second_cuts[cut].filter(|_| left == at_second)
            })
        };
        best.iter()
            .enumerate()
            .skip(least)
            .filter_map(|(right, best)| {
                let (_, leaving, at_second) = (*best)?;
                let thresholds = vec![first_cuts[leaving]?, second_threshold(leaving, at_second)?];
                Some(OperatingPoint::new(
                    thresholds,
                    right,
                    vec![leaving, at_second, n - leaving - at_second],
                    costs,
                ))
            })
            .collect()
    }
}

/// Numbers of samples leaving at exit 1 that one task goes through.
const RANGE: usize = 64;

/// Samples that change the number of right answers when they leave at exit 2 instead of the last, and how
/// many come behind them until it changes again.
#[derive(Debug, Clone, Copy, Default)]
struct Stop {
    change: i32,
    samples: i32,
    behind: i32,
}

/// Where a sample is in a walk.
#[derive(Debug, Clone, Copy)]
struct Place {
    stop: usize,
    behind: bool,
    change: i32,
}

impl Place {
    /// Puts so many samples there.
    fn add(self, samples: i32, walk: &mut [Stop]) {
        let stop = &mut walk[self.stop];
        stop.change += self.change * samples;
        *(if self.behind { &mut stop.behind } else { &mut stop.samples }) += samples;
    }
}

/// The search of [`ExitRecord::approximate_front`]. A point is, for each exit but the last, how many
/// samples are sure enough there.
struct Search<'a> {
    costs: &'a [f64],
    samples: usize,
    /// One for each exit but the last.
    exits: Vec<Ranking>,
    /// For each exit: 1 where it is right about the sample.
    right: Vec<Vec<i32>>,
}

/// The samples in the order in which an exit is sure of them.
struct Ranking {
    order: Vec<usize>,
    /// By sample.
    rank: Vec<usize>,
    /// For each number of sure samples the threshold, where one can lie there.
    cuts: Vec<Option<f64>>,
}

/// For each number of right answers the least total cost, and a point that has it.
type Found = Vec<Option<(f64, Vec<usize>)>>;

/// Points of a front around which is searched.
const AROUND: usize = 128;
/// Rounds of sweeps after which a search ends in any case.
const ROUNDS: usize = 20;

impl<'a> Search<'a> {
    fn new<R: Role>(record: &ExitRecord<R>, costs: &'a [f64]) -> Self {
        let exits = (0..record.exits() - 1).map(|exit| {
            let order = record.by_uncertainty(exit);
            let mut rank = vec![0; order.len()];
            (0..order.len()).for_each(|i| rank[order[i]] = i);
            let cuts = record.cuts(exit, &order);
            Ranking { order, rank, cuts }
        });
        let right = |exit: usize| {
            let of = |sample| i32::from(record.right(exit, sample));
            (0..record.len()).map(of).collect()
        };
        Self {
            costs,
            samples: record.len(),
            exits: exits.collect(),
            right: (0..record.exits()).map(right).collect(),
        }
    }

    fn run(&self) -> Found {
        let (n, free) = (self.samples, self.exits.len());
        // From nobody to everybody leaving early, in eighths, the same share at every exit.
        let start = |i: usize| (0..free).map(|exit| self.snap(exit, n * i / 8)).collect();
        let mut found = self.around(&(0..=8).map(start).collect::<Vec<Vec<usize>>>());
        // Then around what was found, until that gives nothing better.
        for _ in 0..ROUNDS {
            let front = cheapest(&found);
            let every = front.len().div_ceil(AROUND).max(1);
            let points: Vec<Vec<usize>> = front.iter().step_by(every).map(|best| best.2.to_vec()).collect();
            let key = |best: &(usize, f64, &[usize])| (best.0, best.1);
            let before: Vec<(usize, f64)> = front.iter().map(key).collect();
            found = merge(found, self.around(&points));
            if cheapest(&found).iter().map(key).eq(before) {
                break;
            }
        }
        found
    }

    /// The most samples up to `sure` between which and the rest a threshold can lie at `exit`.
    fn snap(&self, exit: usize, sure: usize) -> usize {
        let cuts = &self.exits[exit].cuts[..=sure];
        cuts.iter().rposition(Option::is_some).unwrap_or(0)
    }

    /// What exact sweeps over each exit find from each of these points, on all cores.
    fn around(&self, points: &[Vec<usize>]) -> Found {
        let none = || vec![None; self.samples + 1];
        let sweeps = points.par_iter().fold(none, |mut found, point| {
            (0..point.len()).for_each(|exit| self.sweep(point, exit, &mut found));
            found
        });
        sweeps.reduce(none, merge)
    }

    /// Where a sample leaves at `point`, looking from exit `from` on.
    fn leaves(&self, point: &[usize], from: usize, sample: usize) -> usize {
        let sure = |&exit: &usize| self.exits[exit].rank[sample] < point[exit];
        (from..point.len()).find(sure).unwrap_or(point.len())
    }

    /// All outcomes as `exit` lets more and more samples go, the other exits as at `point`; what is
    /// cheaper than was known goes into `found`.
    fn sweep(&self, point: &[usize], exit: usize, found: &mut Found) {
        let Ranking { order, cuts, .. } = &self.exits[exit];
        let (mut right, mut cost) = (0, 0.0);
        // What changes when a sample leaves here instead of later; nothing where it left before.
        let mut changes = vec![None; self.samples];
        for (sample, change) in changes.iter_mut().enumerate() {
            let first = self.leaves(&point[..exit], 0, sample);
            let at = if first < exit {
                first
            } else {
                let later = self.leaves(point, exit + 1, sample);
                *change = Some((
                    self.right[exit][sample] - self.right[later][sample],
                    self.costs[exit] - self.costs[later],
                ));
                later
            };
            right += self.right[at][sample];
            cost += self.costs[at];
        }
        for sure in 0..=self.samples {
            if sure > 0
                && let Some((more, dearer)) = changes[order[sure - 1]]
            {
                right += more;
                cost += dearer;
            }
            if cuts[sure].is_none() {
                continue;
            }
            let slot = &mut found[right as usize];
            if slot.as_ref().is_none_or(|(least, _)| cost <= *least * (1.0 + 1e-9)) {
                let mut point = point.to_vec();
                point[exit] = sure;
                keep(slot, (cost, point));
            }
        }
    }

    /// How many leave at each exit, and the thresholds.
    fn describe(&self, point: &[usize]) -> (Vec<usize>, Vec<f64>) {
        let mut leaving = vec![0; self.costs.len()];
        (0..self.samples).for_each(|sample| leaving[self.leaves(point, 0, sample)] += 1);
        let threshold = |(exit, &sure): (usize, &usize)| self.exits[exit].cuts[sure].unwrap_or_default();
        (leaving, point.iter().enumerate().map(threshold).collect())
    }
}

/// The points that no other beats, from the most right answers down: right answers, cost, point.
fn cheapest(found: &Found) -> Vec<(usize, f64, &[usize])> {
    let mut least = f64::INFINITY;
    let mut front = Vec::new();
    for (right, best) in found.iter().enumerate().rev() {
        if let Some((cost, point)) = best
            && *cost < least
        {
            least = *cost;
            front.push((right, *cost, point.as_slice()));
        }
    }
    front
}

/// Keeps the cheaper; of equals the one that lets fewer leave early, so that the result does not depend on
/// how work was divided. Costs that differ by rounding are equal.
fn keep(slot: &mut Option<(f64, Vec<usize>)>, other: (f64, Vec<usize>)) {
    let better = slot.as_ref().is_none_or(|kept| {
        let apart = other.0 - kept.0;
        let equal = apart.abs() <= 1e-9 * kept.0;
        if equal { other.1 < kept.1 } else { apart < 0.0 }
    });
    if better {
        *slot = Some(other);
    }
}

fn merge(mut a: Found, b: Found) -> Found {
    for (slot, other) in a.iter_mut().zip(b) {
        if let Some(other) = other {
            keep(slot, other);
        }
    }
    a
}

/// Of these outcomes those that no other beats: ascending in cost and in accuracy.
pub fn pareto_optimal(mut outcomes: Vec<OperatingPoint>) -> Vec<OperatingPoint> {
    outcomes.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.right.cmp(&a.right)));
    let mut front: Vec<OperatingPoint> = Vec::new();
    for outcome in outcomes {
        if front.last().is_none_or(|last| outcome.right > last.right) {
            front.push(outcome);
        }
    }
    front
}

/// The knee of a Pareto front: the outcome furthest above the straight line from the cheapest to
/// the most accurate, both axes scaled to that line. Where the front has fewer than three outcomes,
/// the most accurate. `None` when empty.
pub fn knee(front: &[OperatingPoint]) -> Option<&OperatingPoint> {
    let (first, last) = (front.first()?, front.last()?);
    let height = |o: &OperatingPoint| {
        let cost = (o.cost - first.cost) / (last.cost - first.cost);
        let right = (o.right - first.right) as f64 / (last.right - first.right) as f64;
        right - cost
    };
    let best = |best, o| if height(o) > height(best) { o } else { best };
    Some(if front.len() < 3 { last } else { front[1..front.len() - 1].iter().fold(&front[1], best) })
}

/// The cheapest outcome of a front with at least this accuracy (0..=1). Fails when none has it, naming the
/// best.
pub fn for_accuracy(front: &[OperatingPoint], floor: f64) -> Result<&OperatingPoint> {
    let best = front.last().map_or(0.0, OperatingPoint::accuracy);
    match front.iter().find(|outcome| outcome.accuracy() >= floor) {
        Some(outcome) => Ok(outcome),
        None => bail!(
            Unreachable,
            "no thresholds reach an accuracy of {floor} on the validation split; the best reach {best}"
        ),
    }
}

impl ExitRecord<Validation> {
    /// Thresholds at the knee of the exact Pareto front.
    pub fn choose_knee(&self, costs: &[f64]) -> Result<OperatingPoint> {
        let front = self.pareto_front(costs)?;
        knee(&front).cloned().ok_or_else(|| error!(Unreachable, "the Pareto front is empty"))
    }

    /// The cheapest thresholds with at least this accuracy (0..=1). Fails when no thresholds reach
    /// it, naming the best.
    pub fn choose_for_accuracy(&self, floor: f64, costs: &[f64]) -> Result<OperatingPoint> {
        for_accuracy(&self.pareto_front(costs)?, floor).cloned()
    }

    /// The most accurate thresholds of at most this mean cost. Fails when even the cheapest cost
    /// more.
    pub fn choose_for_cost(&self, ceiling: f64, costs: &[f64]) -> Result<OperatingPoint> {
        let front = self.pareto_front(costs)?;
        let least = front.first().map_or(f64::NAN, |outcome| outcome.cost);
        match front.into_iter().rev().find(|outcome| outcome.cost <= ceiling) {
            Some(outcome) => Ok(outcome),
            None => bail!(
                Unreachable,
                "no thresholds cost {ceiling} or less on the validation split; the cheapest cost {least}"
            ),
        }
    }
}
