//! One pass, every threshold: the exits' outputs do not depend on the thresholds, so a single
//! forward pass over a split answers every question about them. (The original code ran the network
//! anew for each combination.)

use crate::data::{Role, Split, Test, Validation};
use crate::early_exit::{Answer, Reading, check_thresholds, read};
use crate::error::bail;
use crate::{Network, Pass, Result};
use rayon::prelude::*;
use std::marker::PhantomData;

/// What every exit says about every sample of a split. A record of [`Test`] reports; only one of
/// [`Validation`] chooses.
#[derive(Debug, Clone)]
pub struct ExitRecord<R> {
    /// For every exit the logits, samples one after another.
    logits: Vec<Vec<f32>>,
    labels: Vec<u8>,
    /// For every exit and sample what follows from the logits.
    readings: Vec<Vec<Reading>>,
    role: PhantomData<R>,
}

/// What happens at given thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Entropy in nats below which a sample leaves, for each exit but the last.
    pub thresholds: Vec<f64>,
    /// Samples answered rightly.
    pub right: usize,
    /// Samples that leave at each exit.
    pub leaving: Vec<usize>,
    /// The mean over all samples of the cost of the exit where they leave, in the unit of the
    /// costs given.
    pub cost: f64,
}

impl Outcome {
    /// The number of samples.
    pub fn samples(&self) -> usize {
        self.leaving.iter().sum()
    }

    /// Share of right answers, in 0..=1.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.samples() as f64
    }

    /// Share of samples that leave at each exit, in 0..=1.
    pub fn shares(&self) -> Vec<f64> {
        self.leaving
            .iter()
            .map(|&n| n as f64 / self.samples() as f64)
            .collect()
    }
}

impl<R: Role> ExitRecord<R> {
    /// Runs `network` once over `split`.
    pub fn collect(network: &Network, split: &Split<R>) -> Result<Self> {
        let mut logits = vec![Vec::with_capacity(split.len() * network.classes()); network.exits()];
        let samples: Vec<usize> = (0..split.len()).collect();
        for batch in samples.chunks(crate::train::EVALUATION_BATCH) {
            let images = split.batch(batch, network.device())?;
            for (all, logits_of_exit) in logits
                .iter_mut()
                .zip(network.forward(&images, &mut Pass::Evaluate)?)
            {
                all.extend(logits_of_exit.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        Self::from_logits(logits, split.labels().to_vec())
    }

    /// A record of logits from elsewhere: for every exit one row of logits a sample, one after
    /// another. Fails when the sizes do not fit or there are no samples.
    pub fn from_logits(logits: Vec<Vec<f32>>, labels: Vec<u8>) -> Result<Self> {
        let values = logits.first().map_or(0, Vec::len);
        if labels.is_empty()
            || values == 0
            || !values.is_multiple_of(labels.len())
            || logits.iter().any(|l| l.len() != values)
        {
            let sizes: Vec<usize> = logits.iter().map(Vec::len).collect();
            bail!(
                "an exit record needs the same number of logits at every exit, a multiple of the samples; got {sizes:?} logits for {} samples",
                labels.len()
            )
        }
        let classes = values / labels.len();
        let readings = logits
            .iter()
            .map(|logits| logits.chunks(classes).map(read).collect())
            .collect();
        Ok(Self {
            logits,
            labels,
            readings,
            role: PhantomData,
        })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The number of exits.
    pub fn exits(&self) -> usize {
        self.logits.len()
    }

    /// The class of every sample.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The logits of exit `exit` (from 0), samples one after another.
    pub fn logits(&self, exit: usize) -> &[f32] {
        &self.logits[exit]
    }

    /// What exit `exit` (from 0) says about every sample.
    pub fn readings(&self, exit: usize) -> &[Reading] {
        &self.readings[exit]
    }

    fn right(&self, exit: usize, sample: usize) -> bool {
        self.readings[exit][sample].label == usize::from(self.labels[sample])
    }

    /// The accuracy (0..=1) of each exit, were all samples to leave there.
    pub fn exit_accuracy(&self) -> Vec<f64> {
        let count = |exit| {
            (0..self.len())
                .filter(|&sample| self.right(exit, sample))
                .count()
        };
        (0..self.exits())
            .map(|exit| count(exit) as f64 / self.len() as f64)
            .collect()
    }

    /// The answers that [`Network::classify`] gives at these thresholds, without the network.
    pub fn answers(&self, thresholds: &[f64]) -> Result<Vec<Answer>> {
        check_thresholds(thresholds, self.exits())?;
        let leaves = |sample: usize| {
            let sure = |&exit: &usize| self.readings[exit][sample].entropy < thresholds[exit];
            let exit = (0..thresholds.len()).find(sure).unwrap_or(thresholds.len());
            self.readings[exit][sample].at(exit)
        };
        Ok((0..self.len()).map(leaves).collect())
    }

    /// [`Self::outcome`] at the thresholds of other outcomes, such as those of a front that was found on
    /// another split.
    pub fn outcomes(&self, at: &[Outcome], costs: &[f64]) -> Result<Vec<Outcome>> {
        at.iter()
            .map(|o| self.outcome(&o.thresholds, costs))
            .collect()
    }

    /// What happens at these thresholds, given what it costs to leave at each exit (milliseconds,
    /// MACs, …). Fails when thresholds or costs do not fit the exits.
    pub fn outcome(&self, thresholds: &[f64], costs: &[f64]) -> Result<Outcome> {
        self.check_costs(costs)?;
        let (mut right, mut leaving) = (0, vec![0; self.exits()]);
        for (answer, &label) in self.answers(thresholds)?.iter().zip(&self.labels) {
            right += usize::from(answer.label == usize::from(label));
            leaving[answer.exit] += 1;
        }
        Ok(self.outcome_of(thresholds.to_vec(), right, leaving, costs))
    }

    fn outcome_of(
        &self,
        thresholds: Vec<f64>,
        right: usize,
        leaving: Vec<usize>,
        costs: &[f64],
    ) -> Outcome {
        let total: f64 = leaving
            .iter()
            .zip(costs)
            .map(|(&n, cost)| n as f64 * cost)
            .sum();
        Outcome {
            thresholds,
            right,
            leaving,
            cost: total / self.len() as f64,
        }
    }

    fn check_costs(&self, costs: &[f64]) -> Result<()> {
        if costs.len() != self.exits() || costs.iter().any(|cost| !cost.is_finite() || *cost < 0.0)
        {
            bail!(
                "{} exits need as many costs, finite and at least 0, got {costs:?}",
                self.exits()
            )
        }
        Ok(())
    }

    /// The outcomes at all combinations of the thresholds in `grid` (the paper's sweep), the last
    /// exit's threshold fastest.
    pub fn grid(&self, grid: &[f64], costs: &[f64]) -> Result<Vec<Outcome>> {
        let free = self.exits() - 1;
        let combinations = u32::try_from(free)
            .ok()
            .and_then(|free| grid.len().checked_pow(free));
        let Some(combinations) = combinations.filter(|&n| n <= 1_000_000) else {
            bail!(
                "a grid of {} thresholds for {free} exits has more than a million combinations",
                grid.len()
            )
        };
        (0..combinations)
            .map(|i| {
                let digit = |exit: usize| i / grid.len().pow((free - 1 - exit) as u32) % grid.len();
                self.outcome(
                    &(0..free).map(|exit| grid[digit(exit)]).collect::<Vec<_>>(),
                    costs,
                )
            })
            .collect()
    }

    /// Samples in ascending order of entropy at `exit`; those without one (NaN) never leave and
    /// come last.
    fn by_entropy(&self, exit: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|&a, &b| {
            self.readings[exit][a]
                .entropy
                .total_cmp(&self.readings[exit][b].entropy)
        });
        order
    }

    /// For each number of samples `n`: a threshold at which exactly the first `n` of `order` leave
    /// at `exit`, or `None` where sample `n` has the same entropy as the one before and leaves
    /// with it.
    fn cuts(&self, exit: usize, order: &[usize]) -> Vec<Option<f64>> {
        let entropy = |i: usize| self.readings[exit][order[i]].entropy;
        let cut = |n: usize| {
            if n == 0 {
                Some(0.0)
            } else if entropy(n - 1).is_nan() {
                None
            } else if n == order.len() || entropy(n).is_nan() {
                Some(f64::INFINITY)
            } else if entropy(n) > entropy(n - 1) {
                Some(entropy(n))
            } else {
                None
            }
        };
        (0..=order.len()).map(cut).collect()
    }

    /// The outcome at every distinct threshold, from nothing leaving early to everything: the exact
    /// curve of accuracy against cost, not a grid's. For two exits; fails for other numbers,
    /// whose thresholds make more than a curve (see [`Self::pareto_front`]).
    pub fn curve(&self, costs: &[f64]) -> Result<Vec<Outcome>> {
        self.check_costs(costs)?;
        if self.exits() != 2 {
            bail!(
                "a curve over one threshold needs 2 exits, this record has {}; use pareto_front",
                self.exits()
            )
        }
        let order = self.by_entropy(0);
        let cuts = self.cuts(0, &order);
        let mut right = (0..self.len())
            .filter(|&sample| self.right(1, sample))
            .count();
        let mut curve = Vec::new();
        for n in 0..=self.len() {
            if n > 0 {
                let sample = order[n - 1];
                right =
                    right + usize::from(self.right(0, sample)) - usize::from(self.right(1, sample));
            }
            if let Some(threshold) = cuts[n] {
                curve.push(self.outcome_of(vec![threshold], right, vec![n, self.len() - n], costs));
            }
        }
        Ok(curve)
    }

    /// The outcomes that no other beats in both accuracy and cost, over *all* thresholds, in
    /// ascending order of cost. Exact, for one to three exits; fails for more, for which all
    /// combinations would take too long (use [`Self::grid`]).
    pub fn pareto_front(&self, costs: &[f64]) -> Result<Vec<Outcome>> {
        self.check_costs(costs)?;
        let outcomes = match self.exits() {
            1 => vec![self.outcome(&[], costs)?],
            2 => self.curve(costs)?,
            3 => self.cheapest_for_each_accuracy(costs),
            exits => bail!(
                "the exact Pareto front is computed for up to 3 exits, this record has {exits}; use grid"
            ),
        };
        Ok(undominated(outcomes))
    }

    /// For three exits: of all pairs of thresholds that give the same number of right answers, a
    /// cheapest.
    fn cheapest_for_each_accuracy(&self, costs: &[f64]) -> Vec<Outcome> {
        let n = self.len();
        let (first, second) = (self.by_entropy(0), self.by_entropy(1));
        let (first_cuts, second_cuts) = (self.cuts(0, &first), self.cuts(1, &second));
        let mut rank = vec![0u32; n];
        first
            .iter()
            .enumerate()
            .for_each(|(i, &sample)| rank[sample] = i as u32);
        // In the order of the second exit's entropy: rank at the first exit, change of right
        // answers when a sample leaves here rather than at the last exit, and whether a
        // threshold can lie behind it.
        let steps: Vec<(u32, i32, bool)> = second
            .iter()
            .enumerate()
            .map(|(i, &sample)| {
                let change = i32::from(self.right(1, sample)) - i32::from(self.right(2, sample));
                (rank[sample], change, second_cuts[i + 1].is_some())
            })
            .collect();
        // Right answers with the first `i` samples leaving at exit 1 and all others at exit 3.
        let mut base = vec![(0..n).filter(|&sample| self.right(2, sample)).count() as i32];
        for &sample in &first {
            let change = i32::from(self.right(0, sample)) - i32::from(self.right(2, sample));
            base.push(base[base.len() - 1] + change);
        }
        type Best = Vec<Option<(f64, u32, u32, u32)>>;
        let best: Best = (0..=n)
            .into_par_iter()
            .filter(|&leaving| first_cuts[leaving].is_some())
            .fold(
                || vec![None; n + 1],
                |mut best: Best, leaving| {
                    let mut right = base[leaving];
                    let mut at_second = 0;
                    let fixed = leaving as f64 * costs[0] + (n - leaving) as f64 * costs[2];
                    let mut note = |right: i32, at_second: u32, cut: u32| {
                        let cost = fixed + f64::from(at_second) * (costs[1] - costs[2]);
                        let slot = &mut best[right as usize];
                        if slot.is_none_or(|(cheapest, ..)| cost < cheapest) {
                            *slot = Some((cost, leaving as u32, at_second, cut));
                        }
                    };
                    note(right, 0, 0);
                    for (i, &(rank, change, cut)) in steps.iter().enumerate() {
                        if rank as usize >= leaving {
                            right += change;
                            at_second += 1;
                        }
                        if cut {
                            note(right, at_second, i as u32 + 1);
                        }
                    }
                    best
                },
            )
            .reduce(
                || vec![None; n + 1],
                |mut a, b| {
                    for (a, b) in a.iter_mut().zip(b) {
                        // Ties go to the smaller thresholds, so that the result does not depend on
                        // how work was divided.
                        let key = |x: &(f64, u32, u32, u32)| (x.0, x.1, x.3);
                        if b.is_some_and(|b| a.is_none_or(|a| key(&b) < key(&a))) {
                            *a = b;
                        }
                    }
                    a
                },
            );
        best.iter()
            .enumerate()
            .filter_map(|(right, best)| {
                let (_, leaving, at_second, cut) = (*best)?;
                let thresholds = vec![first_cuts[leaving as usize]?, second_cuts[cut as usize]?];
                let last = n - leaving as usize - at_second as usize;
                Some(self.outcome_of(
                    thresholds,
                    right,
                    vec![leaving as usize, at_second as usize, last],
                    costs,
                ))
            })
            .collect()
    }
}

/// Of these outcomes those that no other beats: ascending in cost and in accuracy.
pub fn undominated(mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    outcomes.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.right.cmp(&a.right)));
    let mut front: Vec<Outcome> = Vec::new();
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
pub fn knee(front: &[Outcome]) -> Option<&Outcome> {
    let (first, last) = (front.first()?, front.last()?);
    let height = |o: &Outcome| {
        let cost = (o.cost - first.cost) / (last.cost - first.cost);
        let right = (o.right - first.right) as f64 / (last.right - first.right) as f64;
        right - cost
    };
    let best = |best, o| if height(o) > height(best) { o } else { best };
    Some(if front.len() < 3 {
        last
    } else {
        front[1..front.len() - 1].iter().fold(&front[1], best)
    })
}

impl ExitRecord<Validation> {
    /// Thresholds at the knee of the exact Pareto front.
    pub fn choose_knee(&self, costs: &[f64]) -> Result<Outcome> {
        let front = self.pareto_front(costs)?;
        knee(&front)
            .cloned()
            .ok_or_else(|| crate::Error::new("the Pareto front is empty"))
    }

    /// The cheapest thresholds with at least this accuracy (0..=1). Fails when no thresholds reach
    /// it, naming the best.
    pub fn choose_for_accuracy(&self, floor: f64, costs: &[f64]) -> Result<Outcome> {
        let front = self.pareto_front(costs)?;
        let best = front.last().map_or(0.0, Outcome::accuracy);
        match front
            .into_iter()
            .find(|outcome| outcome.accuracy() >= floor)
        {
            Some(outcome) => Ok(outcome),
            None => bail!(
                "no thresholds reach an accuracy of {floor} on the validation split; the best reach {best}"
            ),
        }
    }

    /// The most accurate thresholds of at most this mean cost. Fails when even the cheapest cost
    /// more.
    pub fn choose_for_cost(&self, ceiling: f64, costs: &[f64]) -> Result<Outcome> {
        let front = self.pareto_front(costs)?;
        let least = front.first().map_or(f64::NAN, |outcome| outcome.cost);
        match front
            .into_iter()
            .rev()
            .find(|outcome| outcome.cost <= ceiling)
        {
            Some(outcome) => Ok(outcome),
            None => bail!(
                "no thresholds cost {ceiling} or less on the validation split; the cheapest cost {least}"
            ),
        }
    }
}

impl ExitRecord<Test> {
    /// The paper's protocol, for its reproduction only: thresholds screened on the very test
    /// samples that the result is reported on, which flatters it. The knee of the outcomes at
    /// `grid`.
    pub fn screen_on_test_as_the_paper_did(&self, grid: &[f64], costs: &[f64]) -> Result<Outcome> {
        let front = undominated(self.grid(grid, costs)?);
        knee(&front)
            .cloned()
            .ok_or_else(|| crate::Error::new("the grid of thresholds is empty"))
    }
}
