//! Thresholds at which given shares of the samples leave, and the curves that follow.

use super::operating_point::OperatingPoint;
use super::record::ExitRecord;
use crate::data::{Role, Validation};
use crate::{Result, bail};

/// Fails unless there is a share for each exit, and they add up to 1.
pub(super) fn check(shares: &[f64], exits: usize) -> Result<()> {
    let off = (shares.iter().sum::<f64>() - 1.0).abs();
    if shares.len() != exits || off.is_nan() || off > 1e-6 || shares.iter().any(|share| *share < 0.0) {
        bail!(Setting, "{exits} exits need as many shares that add up to 1, got {shares:?}")
    }
    Ok(())
}

/// The threshold at which so many of these leave, which are in order: half-way to the next; `never` where none does.
pub(super) fn threshold(sorted: &[f64], leaving: usize, never: f64) -> f64 {
    match leaving {
        n if n >= sorted.len() => f64::INFINITY,
        0 => never,
        n => (sorted[n - 1] + sorted[n]) / 2.0,
    }
}

impl<R: Role> ExitRecord<R> {
    /// Thresholds at which these shares of the samples leave at each exit, rounded to whole samples: each lies between the
    /// uncertainties of the last sample that leaves and the first that stays. Samples of which an exit is equally sure
    /// stay together, all behind it. Fails where the shares do not fit the exits.
    pub fn thresholds_for(&self, shares: &[f64]) -> Result<Vec<f64>> {
        check(shares, self.exits())?;
        let mut staying: Vec<usize> = (0..self.len()).collect();
        let mut left = 0.0;
        let of_exit = |(exit, share): (usize, &f64)| {
            let unsure = |&sample: &usize| self.predictions(exit)[sample].uncertainty;
            // What is not a number never leaves.
            let mut sorted: Vec<f64> = staying.iter().map(unsure).filter(|unsure| !unsure.is_nan()).collect();
            sorted.sort_by(f64::total_cmp);
            left += share;
            let already = self.len() - staying.len();
            let leaving = ((left * self.len() as f64).round() as usize).saturating_sub(already);
            let threshold = threshold(&sorted, leaving, self.criterion().never());
            staying.retain(|sample| unsure(sample) >= threshold || unsure(sample).is_nan());
            threshold
        };
        Ok(shares[..shares.len() - 1].iter().enumerate().map(of_exit).collect())
    }
}

impl ExitRecord<Validation> {
    /// The curve of budgeted batch classification (MSDNet, <https://arxiv.org/abs/1703.09844>, section 5.2): at each point
    /// shares in proportion to p, p², p³, … leave at the exits, p from 0.05 to 1.95 in steps of 0.05. Fails where
    /// `costs` do not fit the exits.
    pub fn budgeted_batch(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        let point = |p: f64| {
            let powers: Vec<f64> = (1..=self.exits() as i32).map(|exit| p.powi(exit)).collect();
            let sum: f64 = powers.iter().sum();
            let shares: Vec<f64> = powers.iter().map(|power| power / sum).collect();
            self.operating_point(&self.thresholds_for(&shares)?, costs)
        };
        (1..40).map(|step| point(f64::from(step) / 20.0)).collect()
    }

    /// Anytime prediction: for each exit what happens when all samples leave there. Fails where `costs` do not fit the
    /// exits.
    pub fn anytime(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        let exits = self.exits();
        let point = |exit| self.operating_point(&self.criterion().leaving_at(exit, exits), costs);
        (0..exits).map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three exits, two classes, 40 samples of which each exit is differently sure.
    fn record() -> Result<ExitRecord<Validation>> {
        let exit = |step: usize| (0..40).flat_map(|i| [((i * step) % 41) as f32 / 10.0, 0.0]).collect();
        ExitRecord::from_logits(vec![exit(7), exit(11), exit(17)], vec![0; 40])
    }

    #[test]
    fn shares_leave_as_asked() -> Result<()> {
        let record = record()?;
        for shares in [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]] {
            let point = record.operating_point(&record.thresholds_for(&shares)?, &[1.0, 2.0, 4.0])?;
            // One sample is as unsure as can be of a number.
            assert_eq!(point.shares(), shares);
        }
        assert!(
            record.thresholds_for(&[0.5, 0.5]).is_err() && record.thresholds_for(&[1.5, -0.5, 0.0]).is_err()
        );
        Ok(())
    }

    #[test]
    fn a_budgeted_batch_goes_from_the_first_exit_to_the_last() -> Result<()> {
        let record = record()?;
        let costs = [1.0, 2.0, 4.0];
        let curve = record.budgeted_batch(&costs)?;
        // p = 1: equal shares; p = 0.5: 4/7, 2/7, 1/7 of 40 samples.
        assert_eq!((curve.len(), &curve[19].leaving[..]), (39, &[13, 14, 13][..]));
        assert_eq!(curve[9].leaving, [23, 11, 6]);
        assert!(curve.windows(2).all(|pair| pair[0].cost <= pair[1].cost));
        let anytime = record.anytime(&costs)?;
        assert_eq!(anytime.iter().map(|o| o.cost).collect::<Vec<_>>(), costs);
        assert_eq!(anytime.iter().map(OperatingPoint::accuracy).collect::<Vec<_>>(), record.exit_accuracy());
        Ok(())
    }
}
