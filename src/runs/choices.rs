//! The thresholds that a reader asks for, chosen on Validation and applied to Test.

use crate::Result;
use crate::exits::OperatingPoint;

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
