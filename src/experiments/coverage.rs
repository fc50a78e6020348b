//! How often promises are kept, when validation and test images are dealt anew.

use super::results::Results;
use crate::data::Validation;
use crate::exits::{ExitRecord, Loss, Outcome, percentile};
use crate::{Result, Rng};
use polars::prelude::{DataFrame, df};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

/// What one way to choose thresholds gave over many divisions of all images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Coverage {
    /// How thresholds were chosen.
    pub name: String,
    /// For each division the share of answers (0..=1) that was lost on images that did not choose.
    pub lost: Vec<f64>,
    /// For each division the mean cost of these images.
    pub cost: Vec<f64>,
}

impl Results {
    /// Deals validation and test images together into as many that choose as there are validation images, and the
    /// rest, `divisions` times, and chooses thresholds that are to lose at most the share `epsilon` of the answers:
    /// with a guarantee that holds with probability 1 − `delta`, with one for the mean, without any, and screened on
    /// the rest, as if these were the test images, where what is lost is counted on the others.
    pub fn coverage(
        &self,
        loss: Loss,
        epsilon: f64,
        delta: f64,
        costs: &[f64],
        divisions: usize,
    ) -> Result<Vec<Coverage>> {
        let all = self.together()?;
        type Choose<'a> = &'a (dyn Fn(&ExitRecord<Validation>) -> Result<Outcome> + Sync);
        let with =
            |record: &ExitRecord<Validation>| record.choose_with_guarantee(loss, epsilon, delta, costs);
        let mean = |record: &ExitRecord<Validation>| record.choose_in_the_mean(loss, epsilon, costs);
        let without = |record: &ExitRecord<Validation>| record.choose_without_guarantee(loss, epsilon, costs);
        let ways: [(String, Choose<'_>, bool); 4] = [
            (format!("guaranteed with probability {}", 1.0 - delta), &with, false),
            ("guaranteed in the mean".to_string(), &mean, false),
            ("no guarantee".to_string(), &without, false),
            ("screened on test".to_string(), &without, true),
        ];
        let of_division = |division: usize| -> Result<Vec<[f64; 2]>> {
            let mut samples: Vec<usize> = (0..all.len()).collect();
            samples.shuffle(&mut Rng::seed_from_u64(division as u64));
            let (first, rest) = samples.split_at(self.validation.len());
            let (first, rest) = (all.select(first)?, all.select(rest)?);
            let measured = |(_, choose, screened): &(String, Choose<'_>, bool)| {
                let (chooses, others) = if *screened { (&rest, &first) } else { (&first, &rest) };
                let thresholds = choose(chooses)?.thresholds;
                let lost = others.lost(loss, &thresholds)? as f64 / others.len() as f64;
                Ok([lost, others.outcome(&thresholds, costs)?.cost])
            };
            ways.iter().map(measured).collect()
        };
        let divided: Vec<_> = (0..divisions).into_par_iter().map(of_division).collect::<Result<_>>()?;
        let part = |way: usize, i: usize| divided.iter().map(|of: &Vec<[f64; 2]>| of[way][i]).collect();
        let ways = ways.iter().enumerate();
        Ok(ways
            .map(|(way, (name, ..))| Coverage { name: name.clone(), lost: part(way, 0), cost: part(way, 1) })
            .collect())
    }

    /// Validation and test images in one record.
    fn together(&self) -> Result<ExitRecord<Validation>> {
        let logits = |exit| [self.validation.logits(exit), self.test.logits(exit)].concat();
        let labels = [self.validation.labels(), self.test.labels()].concat();
        let logits = (0..self.test.exits()).map(logits).collect();
        ExitRecord::from_logits_by(logits, labels, self.validation.criterion())
    }
}

impl Coverage {
    /// The share of divisions (0..=1) in which more than `epsilon` was lost.
    pub fn broken(&self, epsilon: f64) -> f64 {
        let broken = self.lost.iter().filter(|&&lost| lost > epsilon).count();
        broken as f64 / self.lost.len() as f64
    }

    /// A table: how often the promise is broken, what is lost, and the mean cost.
    pub fn frame(coverages: &[Self], epsilon: f64) -> Result<DataFrame> {
        let column = |of: &dyn Fn(&Self) -> f64| coverages.iter().map(of).collect::<Vec<_>>();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Ok(df!(
            "thresholds" => coverages.iter().map(|c| c.name.clone()).collect::<Vec<_>>(),
            "divisions that lose more" => column(&|c| c.broken(epsilon)),
            "answers lost" => column(&|c| mean(&c.lost)),
            "lost, 95th percentile" => column(&|c| percentile(&c.lost, 0.95)),
            "mean cost" => column(&|c| mean(&c.cost)),
        )?)
    }
}
