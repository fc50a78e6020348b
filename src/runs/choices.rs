//! The thresholds that a reader asks for, chosen on Validation and applied to Test.

use super::results::Results;
use crate::Result;
use crate::exits::{OperatingPoint, for_accuracy, knee};

/// Thresholds with a name, and what they give on the test images.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// `knee`.
    pub name: String,
    /// Where the thresholds come from: [`Self::ON_VALIDATION`], or what a caller says; may be empty.
    pub origin: &'static str,
    /// On the test images.
    pub test: OperatingPoint,
}

impl Results {
    /// Choices for every network, given what it costs to leave at each exit:
    ///
    /// - *no loss*: the cheapest without loss against the last exit, on Validation;
    /// - *1 % less*: the cheapest that loses no more than one percent of the images there;
    /// - *like the baseline*: the cheapest as accurate there as the baseline with as many epochs as this
    ///   network, or with fewer where there is no other, if that accuracy is reached;
    /// - *knee*: where more speed begins to cost much accuracy.
    pub fn choices(&self, costs: &[f64]) -> Result<Vec<Choice>> {
        let validation = &self.validation;
        let mut choices = Vec::new();
        let mut add = |name: &str, thresholds: &[f64]| -> Result<()> {
            choices.push(self.choice(name, thresholds, costs)?);
            Ok(())
        };
        let last_exit = validation.last_accuracy();
        let front = validation.pareto_front(costs)?;
        for (name, floor) in [("no loss", last_exit), ("1 % less", last_exit - 0.01)] {
            add(name, &for_accuracy(&front, floor)?.thresholds)?;
        }
        if let Some((_, baseline)) = self.baselines().last()
            && let Ok(chosen) = for_accuracy(&front, baseline.validation_accuracy())
        {
            add("like the baseline", &chosen.thresholds)?;
        }
        if let Some(knee) = knee(&front) {
            add("knee", &knee.thresholds)?;
        }
        Ok(choices)
    }

    /// Thresholds that were chosen on Validation, under a name of their own, and what they give on the test
    /// images.
    pub fn choice(&self, name: &str, thresholds: &[f64], costs: &[f64]) -> Result<Choice> {
        let test = self.test.operating_point(thresholds, costs)?;
        Ok(Choice { name: name.to_string(), origin: Choice::ON_VALIDATION, test })
    }
}

impl Choice {
    /// The origin of thresholds that Test did not choose.
    pub const ON_VALIDATION: &str = "chosen on validation";

    /// `knee, chosen on validation`.
    pub fn label(&self) -> String {
        match self.origin {
            "" => self.name.clone(),
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
}
