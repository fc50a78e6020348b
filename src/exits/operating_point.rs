//! What happens at given thresholds.

/// What happens at given thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatingPoint {
    /// The uncertainty below which a sample leaves, for each exit but the last.
    pub thresholds: Vec<f64>,
    /// Samples answered correctly.
    pub right: usize,
    /// Samples that leave at each exit.
    pub leaving: Vec<usize>,
    /// The mean over all samples of the cost of the exit where they leave, in the unit of the
    /// costs given.
    pub cost: f64,
}

impl OperatingPoint {
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
        self.leaving.iter().map(|&n| n as f64 / self.samples() as f64).collect()
    }

    pub(super) fn new(thresholds: Vec<f64>, right: usize, leaving: Vec<usize>, costs: &[f64]) -> Self {
        let total: f64 = leaving.iter().zip(costs).map(|(&n, cost)| n as f64 * cost).sum();
        let cost = total / leaving.iter().sum::<usize>() as f64;
        Self { thresholds, right, leaving, cost }
    }
}
