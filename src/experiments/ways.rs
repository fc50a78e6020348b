//! Ways to read a record: criteria, temperatures, exits that answer together, a gate that is learned.

use super::results::Results;
use crate::Result;
use crate::data::{Test, Validation};
use crate::exits::{Criterion, ExitRecord, Loss, Outcome};
use polars::prelude::{Column, DataFrame, df};

/// One way to read a record. What has to be fitted was fitted on one half of the validation images; the other
/// half chooses thresholds.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Way {
    /// `margin`.
    pub name: String,
    /// The half of the validation images that chooses.
    pub validation: ExitRecord<Validation>,
    /// The test images.
    pub test: ExitRecord<Test>,
}

impl Results {
    /// The halves of the validation images, every other one: for fitting, and for choosing.
    pub fn halves(&self) -> Result<[ExitRecord<Validation>; 2]> {
        let half = |first: usize| (first..self.validation.len()).step_by(2).collect::<Vec<_>>();
        Ok([self.validation.select(&half(0))?, self.validation.select(&half(1))?])
    }

    /// The named criteria; the entropy at temperatures that were fitted; the entropy of all exits so far together
    /// ([`ExitRecord::ensembled`]); and a learned gate ([`ExitRecord::learned_gate`]).
    pub fn ways(&self) -> Result<Vec<Way>> {
        let [fit, choose] = self.halves()?;
        let way = |name: &str, validation, test| Way { name: name.to_string(), validation, test };
        let mut ways: Vec<Way> = Criterion::NAMED
            .into_iter()
            .map(|c| way(&c.to_string(), choose.by(&c), self.test.by(&c)))
            .collect();
        let entropy = |validation: ExitRecord<Validation>, test: ExitRecord<Test>| {
            (validation.by(&Criterion::Entropy), test.by(&Criterion::Entropy))
        };
        let temperatures = fit.temperatures();
        let (validation, test) = entropy(choose.scaled(&temperatures)?, self.test.scaled(&temperatures)?);
        ways.push(way("entropy at temperatures", validation, test));
        let (validation, test) = entropy(choose.ensembled()?, self.test.ensembled()?);
        ways.push(way("entropy of all exits so far", validation, test));
        let gate = fit.learned_gate();
        ways.push(way("learned gate", choose.by(&gate), self.test.by(&gate)));
        Ok(ways)
    }

    /// A table of each exit on the test images: accuracy, calibration error, the temperature that one half of the
    /// validation images gives, and the error with it.
    pub fn calibration(&self) -> Result<DataFrame> {
        let temperatures = self.halves()?[0].temperatures();
        let scaled = self.test.scaled(&temperatures)?;
        let exits = 0..self.test.exits();
        Ok(df!(
            "exit" => exits.clone().map(|exit| exit as u64 + 1).collect::<Vec<_>>(),
            "accuracy" => self.test.exit_accuracy(),
            "calibration error" => exits.clone().map(|exit| self.test.calibration_error(exit)).collect::<Vec<_>>(),
            "temperature" => temperatures,
            "calibration error with it" => exits.map(|exit| scaled.calibration_error(exit)).collect::<Vec<_>>(),
        )?)
    }
}

impl Way {
    /// What thresholds on the front of the validation half give on the test images.
    pub fn front(&self, costs: &[f64]) -> Result<Vec<Outcome>> {
        self.test.outcomes(&self.validation.pareto_front(costs)?, costs)
    }

    /// A table of how well each way tells an exit's wrong answers from its right ones on the test images (AUROC),
    /// and, of thresholds at which with probability 0.95 at most the share `epsilon` of the answers is not the last
    /// exit's: the share of the test images that leaves early, their accuracy, and the mean cost.
    pub fn frame(ways: &[Self], epsilon: f64, costs: &[f64]) -> Result<DataFrame> {
        let mut frame = df!("way" => ways.iter().map(|way| way.name.clone()).collect::<Vec<_>>())?;
        for exit in 0..costs.len() {
            let auroc: Vec<f64> = ways.iter().map(|way| way.test.failure_prediction(exit)).collect();
            frame.with_column(Column::new(format!("AUROC at exit {}", exit + 1).into(), auroc))?;
        }
        let chosen = |way: &Self| -> Result<Outcome> {
            let chosen = way.validation.choose_with_guarantee(Loss::Different, epsilon, 0.05, costs)?;
            way.test.outcome(&chosen.thresholds, costs)
        };
        let chosen = ways.iter().map(chosen).collect::<Result<Vec<_>>>()?;
        let mut add = |name: &str, of: &dyn Fn(&Outcome) -> f64| -> Result<()> {
            let values: Vec<f64> = chosen.iter().map(of).collect();
            frame.with_column(Column::new(name.into(), values))?;
            Ok(())
        };
        add("leave early", &|o| 1.0 - o.shares()[costs.len() - 1])?;
        add("accuracy", &Outcome::accuracy)?;
        add("mean cost", &|o| o.cost)?;
        Ok(frame)
    }
}
