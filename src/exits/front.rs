//! What thresholds give: exact curves, Pareto fronts, and choices.

use super::operating_point::OperatingPoint;
use super::record::ExitRecord;
use crate::data::{Role, Validation};
use crate::kernels::vectorized;
use crate::{Result, bail, error};

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
        let search = Search::new(self, costs);
        let mut curve = Vec::new();
        search.sweep(&[0], 0, |cut, right, _| {
            let (thresholds, leaving) = (vec![search.exits[0].thresholds[cut]], vec![cut, self.len() - cut]);
            curve.push(OperatingPoint::new(thresholds, right, leaving, costs));
        });
        Ok(curve)
    }

    /// The outcome at every distinct threshold that all exits share, from nothing leaving early to everything at exit 1:
    /// exact for any number of exits. Fails where `costs` do not fit them.
    pub fn shared_curve(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.check_costs(costs)?;
        let last = self.exits() - 1;
        // As the threshold rises, a sample leaves at the exit that is surest of it, then at ever earlier ones.
        let mut moves = Vec::new();
        for sample in 0..self.len() {
            let (mut least, mut surest): (f64, Vec<(f64, usize)>) = (f64::INFINITY, Vec::new());
            for exit in 0..last {
                let unsure = self.predictions(exit)[sample].uncertainty;
                if unsure < least {
                    least = unsure;
                    surest.push((unsure, exit));
                }
            }
            let mut from = last;
            for (unsure, to) in surest.into_iter().rev() {
                moves.push((unsure, sample, from, to));
                from = to;
            }
        }
        moves.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut leaving = vec![0; self.exits()];
        leaving[last] = self.len();
        let mut right = (0..self.len()).filter(|&sample| self.right(last, sample)).count();
        let mut curve = Vec::new();
        let mut add = |threshold: f64, right: usize, leaving: &[usize]| {
            curve.push(OperatingPoint::new(vec![threshold; last], right, leaving.to_vec(), costs));
        };
        add(self.criterion().never(), right, &leaving);
        let mut rest = &moves[..];
        while let Some(&(unsure, ..)) = rest.first() {
            let (together, behind) = rest.split_at(rest.partition_point(|next| next.0 == unsure));
            for &(_, sample, from, to) in together {
                right = right + usize::from(self.right(to, sample)) - usize::from(self.right(from, sample));
                leaving[from] -= 1;
                leaving[to] += 1;
            }
            rest = behind;
            add(rest.first().map_or(f64::INFINITY, |next| next.0), right, &leaving);
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
        match self.exits() {
            1 => Ok(vec![self.operating_point(&[], costs)?]),
            2 => Ok(pareto_optimal(self.curve(costs)?)),
            3 => {
                let search = Search::new(self, costs);
                Ok(search.front(&search.all_pairs(least)))
            }
            _ => self.approximate_front(costs),
        }
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
        Ok(search.front(&search.sweeps()))
    }
}

/// A search over thresholds. A point is, for each exit but the last, a cut: how many samples are sure enough there.
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
    /// Without those that never leave (NaN).
    order: Vec<usize>,
    /// Where a threshold can lie, from 0 to all of them: not between samples that are equally unsure.
    cuts: Vec<usize>,
    /// By sample the first cut at which it leaves; the largest number where it never does.
    leaves: Vec<u32>,
    /// By cut.
    thresholds: Vec<f64>,
}

/// For each number of right answers the least total cost, and a point that has it; infinity where there is none.
type Found = Vec<(f64, Vec<usize>)>;

/// Points of a front around which is searched.
const AROUND: usize = 128;
/// Rounds of sweeps after which a search ends in any case.
const ROUNDS: usize = 20;
/// Cuts of exit 1 that one task goes through.
const RANGE: usize = 64;
/// Stops of exit 2 that are passed in one step where they give nothing.
const BLOCK: usize = 32;
/// Every so many cuts of exit 1 are gone through first, for what all others have to beat.
const COARSE: usize = 24;

/// Samples that exit 2 is sure of one after another: those of one cut that change the number of right answers, and
/// those that do not behind it, or before it where exit 2 costs more than exit 3.
#[derive(Debug, Clone, Copy, Default)]
struct Stop {
    samples: i32,
    /// Right answers more when they leave at exit 2 instead of 3.
    change: i32,
    /// The cut behind them.
    cut: usize,
}

/// The stops of exit 2, in blocks, for the samples that have not left at exit 1.
#[derive(Debug, Clone)]
struct Walk {
    stops: Vec<Stop>,
    /// By sample its stop; the largest number where it never leaves at exit 2.
    places: Vec<usize>,
    /// What each block of stops adds; `None` where a sample has gone since that was counted.
    blocks: Vec<Option<Block>>,
}

/// What a block of stops adds as a whole.
#[derive(Debug, Clone, Copy)]
struct Block {
    samples: i32,
    change: i32,
    /// The largest sum of the changes of its first stops, one or more.
    most: i32,
}

impl Walk {
    fn new(search: &Search) -> Self {
        let cheaper = search.costs[1] < search.costs[2];
        let (mut stops, mut changed) = (vec![Stop::default()], true);
        let mut places = vec![usize::MAX; search.samples];
        for (cut, together) in search.exits[1].groups() {
            let changes = together.iter().any(|&sample| search.change(2, 1, sample) != 0);
            let begins = if cheaper { changes } else { changed };
            if begins {
                stops.push(Stop::default());
            }
            changed = changes;
            let place = stops.len() - 1;
            let stop = &mut stops[place];
            stop.cut = cut;
            for &sample in together {
                places[sample] = place;
                stop.samples += 1;
                stop.change += search.change(2, 1, sample);
            }
        }
        Self { blocks: vec![None; stops.len().div_ceil(BLOCK)], stops, places }
    }

    /// Takes out a sample that leaves at exit 1.
    fn remove(&mut self, search: &Search, sample: usize) {
        if let Some(stop) = self.stops.get_mut(self.places[sample]) {
            stop.samples -= 1;
            stop.change -= search.change(2, 1, sample);
            self.blocks[self.places[sample] / BLOCK] = None;
        }
    }

    /// The stops of each block, and what it adds.
    fn blocks(&mut self) -> impl Iterator<Item = (&[Stop], Block)> {
        self.stops.chunks(BLOCK).zip(&mut self.blocks).map(|(stops, block)| {
            let none = Block { samples: 0, change: 0, most: i32::MIN };
            let add = |sum: Block, stop: &Stop| {
                let change = sum.change + stop.change;
                Block { samples: sum.samples + stop.samples, change, most: sum.most.max(change) }
            };
            (stops, *block.get_or_insert_with(|| stops.iter().fold(none, add)))
        })
    }
}

impl Ranking {
    fn new<R: Role>(record: &ExitRecord<R>, exit: usize) -> Self {
        let unsure = |sample: &usize| record.predictions(exit)[*sample].uncertainty;
        let mut order: Vec<usize> = (0..record.len()).filter(|sample| !unsure(sample).is_nan()).collect();
        order.sort_by(|a, b| unsure(a).total_cmp(&unsure(b)));
        let (mut cuts, mut leaves) = (vec![0], vec![u32::MAX; record.len()]);
        for together in order.chunk_by(|a, b| unsure(a) == unsure(b)) {
            let cut = cuts[cuts.len() - 1] + together.len();
            together.iter().for_each(|&sample| leaves[sample] = cut as u32);
            cuts.push(cut);
        }
        let mut thresholds: Vec<f64> = order.iter().map(unsure).chain([f64::INFINITY]).collect();
        thresholds[0] = record.criterion().never();
        Self { order, cuts, leaves, thresholds }
    }

    /// Each cut but the first, with the samples that leave from there on.
    fn groups(&self) -> impl Iterator<Item = (usize, &[usize])> {
        self.cuts.windows(2).map(|ends| (ends[1], &self.order[ends[0]..ends[1]]))
    }
}

impl<'a> Search<'a> {
    fn new<R: Role>(record: &ExitRecord<R>, costs: &'a [f64]) -> Self {
        let right = |exit: usize| {
            let of = |sample| i32::from(record.right(exit, sample));
            (0..record.len()).map(of).collect()
        };
        Self {
            costs,
            samples: record.len(),
            exits: (0..record.exits() - 1).map(|exit| Ranking::new(record, exit)).collect(),
            right: (0..record.exits()).map(right).collect(),
        }
    }

    /// Right answers more when a sample leaves at exit `to` instead of `from`.
    fn change(&self, from: usize, to: usize, sample: usize) -> i32 {
        self.right[to][sample] - self.right[from][sample]
    }

    /// For three exits: of all pairs of cuts that give the same number of right answers, at least `least`, a
    /// cheapest, of equals that with the smaller cuts; perhaps none where a cheaper pair gives more. For each cut of exit 1, a
    /// walk over the stops of exit 2, between which accuracy stays: a stop is where that is cheapest.
    fn all_pairs(&self, least: usize) -> Found {
        let (first, n) = (&self.exits[0], self.samples);
        // Right answers with the first `i` samples leaving at exit 1 and all others at exit 3.
        let mut base = vec![self.right[2].iter().sum::<i32>()];
        for &sample in &first.order {
            base.push(base[base.len() - 1] + self.change(2, 0, sample));
        }
        // What leaving at exit 2 instead of the last may still add; a walk that needs more is over.
        let gain = (0..n).filter(|&sample| self.change(2, 1, sample) > 0).count();
        let needed = least as i32 - gain as i32;
        // Where leaving at exit 1 is cheapest, a cut whose next samples lose no right answer by leaving there is beaten by the
        // next cut.
        let loses =
            |&sample: &usize| self.right[0][sample] < self.right[1][sample].max(self.right[2][sample]);
        let cheapest = self.costs[0] < self.costs[1].min(self.costs[2]);
        let worth = |ends: &[usize]| !cheapest || first.order[ends[0]..ends[1]].iter().any(loses);
        let cuts = first.cuts.windows(2).filter(|ends| worth(ends)).map(|ends| ends[0]);
        let cuts: Vec<usize> =
            cuts.chain(first.cuts.last().copied()).filter(|&leaving| base[leaving] >= needed).collect();
        let (whole, dearer) = (Walk::new(self), self.costs[1] - self.costs[2]);
        // `known` is, by right answers, a cost at which so many or more can be had: a block of stops that is dearer is passed in
        // one step. One that costs as much is not, so that of equals the smallest cuts are found.
        let walks = |cuts: &[usize], known: &[f64]| {
            let none = || vec![(f64::INFINITY, 0, 0); n + 1];
            let of_range = |mut best: Vec<(f64, usize, usize)>, cuts: &[usize]| {
                let (mut walk, mut gone) = (whole.clone(), 0);
                for &leaving in cuts {
                    first.order[gone..leaving].iter().for_each(|&sample| walk.remove(self, sample));
                    gone = leaving;
                    let fixed = leaving as f64 * self.costs[0] + (n - leaving) as f64 * self.costs[2];
                    let cost = |at_second: i32| fixed + f64::from(at_second) * dearer;
                    let (mut right, mut at_second) = (base[leaving], 0);
                    for (stops, block) in walk.blocks() {
                        if right < needed {
                            break;
                        }
                        let cheapest = cost(at_second).min(cost(at_second + block.samples));
                        if known[(right + block.most) as usize] < cheapest {
                            (right, at_second) = (right + block.change, at_second + block.samples);
                            continue;
                        }
                        for stop in stops {
                            (right, at_second) = (right + stop.change, at_second + stop.samples);
                            let (cost, slot) = (cost(at_second), &mut best[right as usize]);
                            if cost < slot.0 {
                                *slot = (cost, leaving, stop.cut);
                            }
                        }
                    }
                }
                best
            };
            cuts.par_chunks(RANGE).fold(none, of_range).reduce(none, |mut a, b| {
                a.iter_mut().zip(b).filter(|(a, b)| b.0 < a.0).for_each(|(a, b)| *a = b);
                a
            })
        };
        let coarse: Vec<usize> = cuts.iter().copied().step_by(COARSE).collect();
        let mut known: Vec<f64> =
            walks(&coarse, &vec![f64::INFINITY; n + 1]).into_iter().map(|(cost, ..)| cost).collect();
        for right in (0..n).rev() {
            known[right] = known[right].min(known[right + 1]);
        }
        let best = walks(&cuts, &known);
        let mut found: Found = best.into_iter().map(|(cost, a, b)| (cost, vec![a, b])).collect();
        found[..least].fill((f64::INFINITY, Vec::new()));
        found
    }

    /// What sweeps over single cuts find, from many points on.
    fn sweeps(&self) -> Found {
        // From nobody to everybody leaving early, in eighths, the same share at every exit.
        let start = |i: usize| {
            let sure = self.samples * i / 8;
            let last_cut = |exit: &Ranking| exit.cuts[exit.cuts.partition_point(|&cut| cut <= sure) - 1];
            self.exits.iter().map(last_cut).collect()
        };
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

    /// What exact sweeps over each exit find from each of these points, on all cores.
    fn around(&self, points: &[Vec<usize>]) -> Found {
        let none = || vec![(f64::INFINITY, Vec::new()); self.samples + 1];
        let sweeps = points.par_iter().fold(none, |mut found, point| {
            for exit in 0..point.len() {
                self.sweep(point, exit, |cut, right, cost| {
                    if cost <= found[right].0 * (1.0 + 1e-9) {
                        let mut point = point.clone();
                        point[exit] = cut;
                        keep(&mut found[right], (cost, point));
                    }
                });
            }
            found
        });
        sweeps.reduce(none, merge)
    }

    /// Gives `each` all outcomes as `exit` lets more and more samples go, the other exits as at `point`: the cut, right
    /// answers, total cost.
    fn sweep(&self, point: &[usize], exit: usize, mut each: impl FnMut(usize, usize, f64)) {
        let mut without = point.to_vec();
        without[exit] = 0;
        let (mut right, mut cost) = (0, 0.0);
        // What changes when a sample leaves here instead of later; nothing where it left before.
        let mut changes = vec![(0, 0.0); self.samples];
        for (sample, change) in changes.iter_mut().enumerate() {
            let at = self.leaves(&without, sample);
            if at > exit {
                *change = (self.change(at, exit, sample), self.costs[exit] - self.costs[at]);
            }
            right += self.right[at][sample];
            cost += self.costs[at];
        }
        each(0, right as usize, cost);
        for (cut, together) in self.exits[exit].groups() {
            for &sample in together {
                right += changes[sample].0;
                cost += changes[sample].1;
            }
            each(cut, right as usize, cost);
        }
    }

    /// Where a sample leaves at `point`.
    fn leaves(&self, point: &[usize], sample: usize) -> usize {
        let leaves = |(exit, &cut): (&Ranking, &usize)| exit.leaves[sample] as usize <= cut;
        self.exits.iter().zip(point).position(leaves).unwrap_or(point.len())
    }

    /// The outcomes of those that no other beats, at the smallest thresholds that give them.
    fn front(&self, found: &Found) -> Vec<OperatingPoint> {
        let last = self.exits.len();
        let outcome = |&(_, _, point): &(usize, f64, &[usize])| {
            // Without a branch, so that it runs in vectors: most of the time of a front is here.
            let (thresholds, right, leaving) = vectorized(
                #[inline(always)]
                || {
                    let mut stay = vec![1u32; self.samples];
                    let (mut right, mut leaving, mut thresholds) = (0, vec![0; last + 1], Vec::new());
                    for (exit, (ranking, &cut)) in self.exits.iter().zip(point).enumerate() {
                        let (mut left, mut largest) = (0, 0);
                        for ((stay, &at), &of_exit) in
                            stay.iter_mut().zip(&ranking.leaves).zip(&self.right[exit])
                        {
                            let leaves = *stay & u32::from(at <= cut as u32);
                            *stay -= leaves;
                            left += leaves;
                            right += of_exit * leaves as i32;
                            largest = largest.max(at * leaves);
                        }
                        leaving[exit] = left as usize;
                        thresholds.push(ranking.thresholds[largest as usize]);
                    }
                    leaving[last] = stay.iter().sum::<u32>() as usize;
                    right += stay
                        .iter()
                        .zip(&self.right[last])
                        .map(|(&stay, &of_exit)| stay as i32 * of_exit)
                        .sum::<i32>();
                    (thresholds, right, leaving)
                },
            );
            OperatingPoint::new(thresholds, right as usize, leaving, self.costs)
        };
        pareto_optimal(cheapest(found).par_iter().map(outcome).collect())
    }
}

/// The points that no other beats, from the most right answers down: right answers, cost, point.
fn cheapest(found: &Found) -> Vec<(usize, f64, &[usize])> {
    let mut least = f64::INFINITY;
    let mut front = Vec::new();
    for (right, (cost, point)) in found.iter().enumerate().rev() {
        if *cost < least {
            least = *cost;
            front.push((right, *cost, point.as_slice()));
        }
    }
    front
}

/// Keeps the cheaper; of equals the one that lets fewer leave early, so that the result does not depend on
/// how work was divided. Costs that differ by rounding are equal.
fn keep(slot: &mut (f64, Vec<usize>), other: (f64, Vec<usize>)) {
    let apart = other.0 - slot.0;
    let equal = apart.abs() <= 1e-9 * other.0;
    if apart < 0.0 && !equal || equal && other.1 < slot.1 {
        *slot = other;
    }
}

fn merge(mut a: Found, b: Found) -> Found {
    a.iter_mut().zip(b).filter(|(_, b)| b.0.is_finite()).for_each(|(slot, other)| keep(slot, other));
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
            "no thresholds reach an accuracy of {floor} on the validation split (1 is all right); the best reach {best}"
        ),
    }
}

/// The most accurate outcome of a front of at most this mean cost. Fails when even the cheapest costs more, naming it.
pub fn for_cost(front: &[OperatingPoint], ceiling: f64) -> Result<&OperatingPoint> {
    match front.iter().rev().find(|outcome| outcome.cost <= ceiling) {
        Some(outcome) => Ok(outcome),
        None => bail!(
            Unreachable,
            "no thresholds cost {ceiling} or less on the validation split; the cheapest cost {}",
            front.first().map_or(f64::NAN, |outcome| outcome.cost)
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
        for_cost(&self.pareto_front(costs)?, ceiling).cloned()
    }
}
