//! The thresholds that a reader asks for, chosen on Validation and applied to Test.

use super::paper::paper;
use super::results::Results;
use crate::Result;
use crate::exits::{Criterion, Outcome, for_accuracy, knee};
use polars::prelude::{Column, DataFrame, df};

/// Thresholds with a name, and what they give on the test images.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// `knee`.
    pub name: String,
    /// Where the thresholds come from: `chosen on validation`, `screened on test`, `from the paper`.
    pub origin: &'static str,
    /// On the test images.
    pub test: Outcome,
}

impl Results {
    /// Choices for every network, given what it costs to leave at each exit:
    ///
    /// - *no loss*: the cheapest without loss against the last exit, on Validation;
    /// - *1 % less*: the cheapest that loses no more than one percent of the images there;
    /// - *like the baseline*: the cheapest as accurate there as the baseline with as many epochs as this
    ///   network, or with fewer where there is no other, if that accuracy is reached;
    /// - *knee*: where more speed begins to cost much accuracy;
    /// - *knee, screened on test*: the paper's protocol, on the grid of the authors' script, which flatters;
    /// - *the paper's T*, if the network is the paper's and has as many exits.
    ///
    /// The last two are for the paper's criterion only.
    pub fn choices(&self, costs: &[f64]) -> Result<Vec<Choice>> {
        let (validation, test) = (&self.validation, &self.test);
        let mut choices = Vec::new();
        let mut add = |name: &str, origin, thresholds: &[f64]| -> Result<()> {
            choices.push(Choice { origin, ..self.choice(name, thresholds, costs)? });
            Ok(())
        };
        let last_exit = validation.last_accuracy();
        let front = validation.pareto_front(costs)?;
        for (name, floor) in [("no loss", last_exit), ("1 % less", last_exit - 0.01)] {
            add(name, Choice::ON_VALIDATION, &for_accuracy(&front, floor)?.thresholds)?;
        }
        if let Some((_, baseline)) = self.baselines().last()
            && let Ok(chosen) = for_accuracy(&front, baseline.validation_accuracy())
        {
            add("like the baseline", Choice::ON_VALIDATION, &chosen.thresholds)?;
        }
        if let Some(knee) = knee(&front) {
            add("knee", Choice::ON_VALIDATION, &knee.thresholds)?;
        }
        if let Ok(paper) = paper(&self.settings.network)
            && *test.criterion() == Criterion::Entropy
        {
            if let Ok(screened) = test.screen_on_test_as_the_paper_did(paper.grid, costs) {
                add("knee", "screened on test", &screened.thresholds)?;
            }
            if paper.thresholds.len() + 1 == test.exits() {
                add("the paper's T", "from the paper", paper.thresholds)?;
            }
        }
        Ok(choices)
    }

    /// Thresholds that were chosen on Validation, under a name of their own, and what they give on the test
    /// images.
    pub fn choice(&self, name: &str, thresholds: &[f64], costs: &[f64]) -> Result<Choice> {
        let test = self.test.outcome(thresholds, costs)?;
        Ok(Choice { name: name.to_string(), origin: Choice::ON_VALIDATION, test })
    }
}

impl Choice {
    /// The origin of thresholds that Test did not choose.
    pub const ON_VALIDATION: &str = "chosen on validation";

    /// `knee, chosen on validation`.
    pub fn label(&self) -> String {
        match self.origin {
            "from the paper" => self.name.clone(),
            origin => format!("{}, {origin}", self.name),
        }
    }

    /// The choice called `name` that was made on Validation. Fails where there is none.
    pub fn named<'a>(choices: &'a [Self], name: &str) -> Result<&'a Self> {
        let mut found = choices.iter().filter(|choice| choice.origin == Choice::ON_VALIDATION);
        found
            .find(|choice| choice.name == name)
            .ok_or_else(|| crate::error::error!(Missing, "there is no choice {name:?} on validation"))
    }

    /// A table of choices: thresholds, accuracy and shares (0..=1) on the test images, mean cost.
    pub fn frame(choices: &[Self]) -> Result<DataFrame> {
        let tests = || choices.iter().map(|choice| &choice.test);
        let mut frame = df!("choice" => choices.iter().map(Self::label).collect::<Vec<_>>())?;
        let shared = |o: &Outcome| Shared {
            thresholds: o.thresholds.clone(),
            accuracy: Some(o.accuracy()),
            shares: o.shares(),
        };
        for column in columns(tests().map(shared).collect()) {
            frame.with_column(column)?;
        }
        let costs: Vec<f64> = tests().map(|outcome| outcome.cost).collect();
        frame.with_column(Column::new("mean cost".into(), costs))?;
        Ok(frame)
    }
}

/// What the rows of tables of choices share.
pub(super) struct Shared {
    pub thresholds: Vec<f64>,
    pub accuracy: Option<f64>,
    pub shares: Vec<f64>,
}

/// The columns of what rows share: `T1`, …, `accuracy`, `leave at exit 1`, …. What a row lacks is missing.
pub(super) fn columns(rows: Vec<Shared>) -> Vec<Column> {
    let exits = rows.iter().map(|row| row.shares.len()).max().unwrap_or(0);
    let column = |name: String, of: &dyn Fn(&Shared) -> Option<f64>| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<_>>())
    };
    let threshold = |exit| column(format!("T{exit}"), &|row| row.thresholds.get(exit - 1).copied());
    let share = |exit| column(format!("leave at exit {exit}"), &|row| row.shares.get(exit - 1).copied());
    let accuracy = column("accuracy".to_string(), &|row| row.accuracy);
    (1..exits).map(threshold).chain([accuracy]).chain((1..=exits).map(share)).collect()
}
