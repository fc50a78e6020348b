//! Where the gain of early exit comes from, and where it goes: from what the paper's timer shows down to what
//! a user sees, for one mix of exits.

use super::choices::Choice;
use super::paper::paper;
use super::results::Results;
use crate::Result;
use crate::exits::{Mix, Timer, Timing};
use polars::prelude::{DataFrame, df};

/// Gains over the baseline at one mix of exits, each a ratio of times or of multiply-accumulates.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Speedup {
    /// Whose mix it is.
    pub name: String,
    /// Shares of samples that leave at each exit (0..=1).
    pub shares: Vec<f64>,
    /// The arithmetic of what the paper's timer covered: the trunk up to each exit.
    pub macs_trunk_only: f64,
    /// The arithmetic of everything that runs: the most that this mix can gain where time follows it.
    pub macs: f64,
    /// Timed as the authors did: the trunk alone.
    pub trunk_only: f64,
    /// With the branches.
    pub with_branches: f64,
    /// With softmax, criterion and decision too: end to end.
    pub end_to_end: f64,
    /// End to end as well, in batches of [`Self::BATCH`] images on all threads instead of one image at a time on one.
    pub in_batches: f64,
    /// If every sample left at exit 1, in multiply-accumulates.
    pub macs_at_exit_1: f64,
    /// If every sample left at exit 1, in time.
    pub time_at_exit_1: f64,
}

impl Results {
    /// The gains at the paper's mix of exits, where the network is the paper's, and at those of two choices of
    /// these results, measured now: thresholds without loss, and the knee.
    pub fn speedups(&self, timer: &Timer) -> Result<Vec<Speedup>> {
        let timing = timer.exits()?;
        let mut mixes = Vec::new();
        if let Ok(paper) = paper(&self.settings.network)
            && paper.shares.len() == self.test.exits()
        {
            // The paper rounds them.
            let sum: f64 = paper.shares.iter().sum();
            mixes.push(("the paper's".to_string(), paper.shares.iter().map(|share| share / sum).collect()));
        }
        let choices = self.choices(&timing.costs())?;
        for name in ["no loss", "knee"] {
            mixes.push((format!("ours, {name}"), Choice::named(&choices, name)?.test.shares()));
        }
        Speedup::measure(&mixes, timer, &timing)
    }
}

impl Speedup {
    /// Images of a batch for [`Self::in_batches`].
    pub const BATCH: usize = 64;

    /// Measures the gains of mixes, each a name and shares of samples that leave at each exit. `timing` is that of
    /// the same timer.
    pub fn measure(mixes: &[(String, Vec<f64>)], timer: &Timer, timing: &Timing) -> Result<Vec<Self>> {
        let (costs, macs) = (timer.network().costs(), timer.network().macs());
        let trunk_macs: Vec<f64> = costs.iter().map(|cost| cost.trunk_macs as f64).collect();
        let trunk = trunk_macs.last().copied().unwrap_or(0.0);
        let shares: Vec<_> = mixes.iter().map(|(_, shares)| shares).collect();
        let times = timer.mixes(&shares)?;
        let of = |((name, shares), mix): (&(String, Vec<f64>), Mix)| {
            let mean = |of: &[f64]| shares.iter().zip(of).map(|(share, cost)| share * cost).sum::<f64>();
            Ok(Self {
                name: name.clone(),
                shares: shares.clone(),
                macs_trunk_only: trunk / mean(&trunk_macs),
                macs_at_exit_1: trunk / macs[0],
                macs: trunk / mean(&macs),
                trunk_only: mix.gain_trunk_only(),
                with_branches: mix.baseline.mean / mix.undecided.mean,
                end_to_end: mix.gain(),
                in_batches: timer.batches(shares, &[Self::BATCH])?[0].gain(),
                time_at_exit_1: timing.baseline.mean / timing.exits[0].mean,
            })
        };
        mixes.iter().zip(times).map(of).collect()
    }

    /// A table of such gains.
    pub fn frame(speedups: &[Self]) -> Result<DataFrame> {
        let column = |of: fn(&Self) -> f64| speedups.iter().map(of).collect::<Vec<_>>();
        let shares = |s: &Self| {
            let each: Vec<String> = s.shares.iter().map(|share| format!("{:.1}", share * 100.0)).collect();
            format!("{} %", each.join(", "))
        };
        Ok(df!(
            "mix of exits" => speedups.iter().map(|s| s.name.clone()).collect::<Vec<_>>(),
            "leave at each exit" => speedups.iter().map(shares).collect::<Vec<_>>(),
            "MACs, trunk only" => column(|s| s.macs_trunk_only),
            "MACs, all that runs" => column(|s| s.macs),
            "time, trunk only (the paper's timer)" => column(|s| s.trunk_only),
            "time, with branches" => column(|s| s.with_branches),
            "time, end to end" => column(|s| s.end_to_end),
            format!("time, in batches of {}", Self::BATCH) => column(|s| s.in_batches),
            "MACs, all leave at exit 1" => column(|s| s.macs_at_exit_1),
            "time, all leave at exit 1" => column(|s| s.time_at_exit_1),
        )?)
    }
}
