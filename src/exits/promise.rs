//! What thresholds can promise.

use serde::{Deserialize, Serialize};

/// What early exit must not do too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Give another answer than the last exit would. This needs no labels.
    Different,
    /// Give a wrong answer where the last exit's is right; an upper bound for the accuracy that is lost.
    Wrong,
}

/// What thresholds were promised to keep: with probability 1 − `delta` at most the share `epsilon` of all answers is lost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// What counts as lost.
    pub loss: Loss,
    /// In 0..1.
    pub epsilon: f64,
    /// In 0..1.
    pub delta: f64,
    /// On how many validation images it rests.
    pub images: usize,
}
