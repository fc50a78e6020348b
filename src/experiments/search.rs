//! Which exits a network should have: all sets of some candidates, by what they save.

use super::results::Results;
use crate::Result;
use crate::exits::{Loss, Outcome, Timing};
use crate::networks::{Network, Placement};
use polars::prelude::{DataFrame, df};

/// Some of the exits of a network, and what they give without the others.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExitSet {
    /// The branches, from 0.
    pub branches: Vec<usize>,
    /// On Validation, at the cheapest thresholds at which no more than the given share of the answers there is another
    /// than the last exit's. Costs in milliseconds.
    pub outcome: Outcome,
    /// The trunk's time over the mean cost.
    pub gain: f64,
}

impl Results {
    /// Every set of one or two of a network's branches, the best first, where the share `epsilon` of the answers may
    /// be another than the last exit's. `timing` is that of the network with all its branches. Only Validation is
    /// looked at.
    pub fn exit_sets(&self, epsilon: f64, timing: &Timing) -> Result<Vec<ExitSet>> {
        let last = self.validation.exits() - 1;
        let trunk: Vec<f64> = timing.trunk_only.iter().map(|time| time.median).collect();
        // What all branches up to one add.
        let added: Vec<f64> =
            timing.exits.iter().zip(&trunk).map(|(exit, trunk)| exit.median - trunk).collect();
        let branch = |i: usize| added[i] - if i > 0 { added[i - 1] } else { 0.0 };
        let pairs = (0..last).flat_map(|a| (a + 1..last).map(move |b| vec![a, b]));
        let mut sets = Vec::new();
        for branches in (0..last).map(|a| vec![a]).chain(pairs) {
            let mut exits = branches.clone();
            exits.push(last);
            let (mut passed, mut costs) = (0.0, Vec::new());
            for &exit in &exits {
                passed += if exit < last { branch(exit) } else { 0.0 };
                costs.push(trunk[exit] + passed);
            }
            let outcome =
                self.validation.only(&exits)?.choose_without_guarantee(Loss::Different, epsilon, &costs)?;
            sets.push(ExitSet { branches, gain: trunk[last] / outcome.cost, outcome });
        }
        sets.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        Ok(sets)
    }
}

impl ExitSet {
    /// A table of the first `rows` of these sets for the branches of `network`: gain, mean cost, and shares that leave
    /// at each (0..=1).
    pub fn frame(sets: &[Self], network: &Network, rows: usize) -> Result<DataFrame> {
        let sets = &sets[..rows.min(sets.len())];
        let names = |set: &Self| -> String {
            let each = set.branches.iter().map(|&i| Placement::of(network, i).to_string());
            each.collect::<Vec<_>>().join(", ")
        };
        let share = |exit: usize| -> Vec<Option<f64>> {
            sets.iter()
                .map(|set| set.outcome.shares().get(exit).copied().filter(|_| exit < set.branches.len()))
                .collect()
        };
        Ok(df!(
            "branches" => sets.iter().map(names).collect::<Vec<_>>(),
            "gain" => sets.iter().map(|set| set.gain).collect::<Vec<_>>(),
            "mean ms" => sets.iter().map(|set| set.outcome.cost).collect::<Vec<_>>(),
            "leave at the first" => share(0),
            "leave at the second" => share(1),
        )?)
    }
}
