//! The thresholds that a reader asks for, chosen on Validation and applied to Test.

use branchynet::exits::OperatingPoint;
use branchynet::{Result, error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Thresholds with a name, and what they give on the test images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// `no loss`.
    pub name: String,
    /// Where the thresholds come from: [`Self::ON_VALIDATION`], or what a caller says; may be empty.
    #[serde(skip)]
    pub origin: &'static str,
    /// One for each exit but the last; a summary does not keep them.
    #[serde(skip)]
    pub thresholds: Vec<f64>,
    /// Share of right answers (0..=1).
    pub accuracy: f64,
    /// Shares of the images that leave at each exit (0..=1).
    pub shares: Vec<f64>,
    /// The mean cost, in the unit of the costs given: in a summary the trunk's multiply-accumulates, which the file keeps as
    /// the gain over them.
    #[serde(rename = "gain", serialize_with = "write_reciprocal", deserialize_with = "read_reciprocal")]
    pub cost: f64,
}

fn write_reciprocal<S: Serializer>(cost: &f64, json: S) -> std::result::Result<S::Ok, S::Error> {
    json.serialize_f64(1.0 / cost)
}

fn read_reciprocal<'de, D: Deserializer<'de>>(json: D) -> std::result::Result<f64, D::Error> {
    Ok(1.0 / f64::deserialize(json)?)
}

impl Choice {
    /// The origin of thresholds that Test did not choose.
    pub const ON_VALIDATION: &str = "chosen on validation";

    /// What thresholds that were chosen on Validation give on Test.
    pub fn new(name: &str, test: &OperatingPoint) -> Self {
        Self {
            name: name.to_string(),
            origin: Self::ON_VALIDATION,
            thresholds: test.thresholds.clone(),
            accuracy: test.accuracy(),
            shares: test.shares(),
            cost: test.cost,
        }
    }

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
            .ok_or_else(|| error!(Missing, "there is no choice {name:?} on validation"))
    }

    fn threshold(exit: usize) -> String {
        format!("T{}", exit + 1)
    }

    /// Whether a column of [`Self::columns`] has thresholds: these are written in full, as one digit less lets others
    /// leave.
    pub fn has_thresholds(column: &str) -> bool {
        column.strip_prefix('T').is_some_and(|exit| exit.parse::<usize>().is_ok())
    }

    /// The numbers of these choices as the columns of a table: `T1`, …, `accuracy`, `leave at exit 1`, …. What a choice
    /// lacks is missing.
    pub fn columns(choices: &[&Self]) -> Vec<(String, Vec<Option<f64>>)> {
        let exits = choices.iter().map(|choice| choice.shares.len()).max().unwrap_or(0);
        let column = |name: String, of: &dyn Fn(&Self) -> Option<f64>| {
            (name, choices.iter().map(|choice| of(choice)).collect())
        };
        let threshold = |i| column(Self::threshold(i), &|choice| choice.thresholds.get(i).copied());
        let share = |i| column(format!("leave at exit {}", i + 1), &|choice| choice.shares.get(i).copied());
        let accuracy = column("accuracy".to_string(), &|choice| Some(choice.accuracy));
        (0..exits.saturating_sub(1)).map(threshold).chain([accuracy]).chain((0..exits).map(share)).collect()
    }
}
