//! Does an exit know which of its answers fail? Calibration says how far its probabilities can be trusted on average, failure
//! prediction whether they are lower where an answer fails.

use super::record::ExitRecord;
use crate::data::Role;
use crate::{Result, bail};

/// How well the uncertainty of an exit tells its answers that fail from the others.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct FailurePrediction {
    /// The share of the answers that fail (0..=1).
    pub failures: f64,
    /// The probability that of an answer that fails and another the exit is less sure of the first; equals count half.
    /// 0.5 is chance, 1 perfect; not a number where none or all fail.
    pub auroc: f64,
    /// The area under the curve of risk and coverage (Geifman et al. 2019, <https://arxiv.org/abs/1805.08206>): the mean,
    /// over all n, of the share of failures among the n answers that the exit is surest of, equals in all their orders.
    /// 0 is perfect, `failures` is chance.
    pub aurc: f64,
    /// The share of the answers that fail (0..=1) among those that leave when 95 % of the others are to leave: the false
    /// positive rate at 95 % true positives (Hendrycks and Gimpel 2017, <https://arxiv.org/abs/1610.02136>), an answer
    /// that does not fail being positive. 0.95 is chance; not a number where none or all fail.
    pub fpr95: f64,
}

impl<R: Role> ExitRecord<R> {
    /// How well the criterion predicts which answers of exit `exit` (from 0) fail; `failed` says it of a sample (from 0).
    /// Fails where there is no such exit.
    ///
    /// ```
    /// use branchynet::prelude::*;
    ///
    /// // Three samples of class 0; the exit is wrong about the last one, and less sure of it.
    /// let record = ExitRecord::<Test>::from_logits(vec![vec![3.0, 0.0, 2.0, 0.0, 0.0, 1.0]], vec![0; 3])?;
    /// let of_wrong = record.failure_prediction(0, |sample| !record.right(0, sample))?;
    /// assert_eq!((of_wrong.auroc, of_wrong.fpr95), (1.0, 0.0));
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn failure_prediction(
        &self,
        exit: usize,
        failed: impl Fn(usize) -> bool,
    ) -> Result<FailurePrediction> {
        if exit >= self.exits() {
            bail!(Setting, "exits of a record are numbered from 0 to {}, got {exit}", self.exits() - 1)
        }
        // What is not a number is not sure of anything.
        let unsure = |x: f64| if x.is_nan() { f64::INFINITY } else { x };
        let answers = self.predictions(exit).iter().enumerate();
        let mut answers: Vec<(f64, bool)> =
            answers.map(|(sample, of)| (unsure(of.uncertainty), failed(sample))).collect();
        answers.sort_by(|a, b| a.0.total_cmp(&b.0));
        let failures = answers.iter().filter(|(_, failed)| *failed).count();
        let others = answers.len() - failures;
        // Of those that the exit was surer of: how many they are, and how many of them fail.
        let (mut seen, mut lost) = (0, 0);
        let (mut wins, mut risk, mut leave) = (0.0, 0.0, None);
        for equal in answers.chunk_by(|a, b| a.0 == b.0) {
            let here = equal.iter().filter(|(_, failed)| *failed).count();
            wins += here as f64 * ((seen - lost) as f64 + (equal.len() - here) as f64 / 2.0);
            let share = here as f64 / equal.len() as f64;
            let among = |n: usize| (lost as f64 + share * n as f64) / (seen + n) as f64;
            risk += (1..=equal.len()).map(among).sum::<f64>();
            (seen, lost) = (seen + equal.len(), lost + here);
            if leave.is_none() && 100 * (seen - lost) >= 95 * others {
                leave = Some(lost);
            }
        }
        let [of_all, of_failures] = [answers.len() as f64, failures as f64];
        let fpr95 = if others > 0 { leave.map_or(f64::NAN, |lost| lost as f64) } else { f64::NAN };
        Ok(FailurePrediction {
            failures: of_failures / of_all,
            auroc: wins / (of_failures * others as f64),
            aurc: risk / of_all,
            fpr95: fpr95 / of_failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Test;
    use crate::exits::Criterion;

    /// One exit that is this unsure of its samples.
    fn record(unsure: &[f32]) -> Result<ExitRecord<Test>> {
        let logits = unsure.iter().flat_map(|&unsure| [unsure, f32::NEG_INFINITY]).collect();
        let itself = Criterion::own("itself", |seen| f64::from(seen.logits()[0]));
        Ok(ExitRecord::from_logits(vec![logits], vec![0; unsure.len()])?.by(&itself))
    }

    #[test]
    fn failures_are_predicted_as_counted_by_hand() -> Result<()> {
        // From the surest: right, wrong, {right, wrong}, right.
        let five = record(&[0.1, 0.2, 0.3, 0.3, 0.4])?.failure_prediction(0, |i| [1, 3].contains(&i))?;
        assert_eq!(five.failures, 0.4);
        // The first failure is less sure than one of three, the second than one, and than an equal one by half.
        assert!((five.auroc - (1.0 + 1.5) / 6.0).abs() < 1e-12);
        // Failures among the surest: 0/1, 1/2, 1.5/3, 2/4, 2/5.
        assert!((five.aurc - (0.0 + 0.5 + 0.5 + 0.5 + 0.4) / 5.0).abs() < 1e-12);
        // 95 % of three are all three, with whom both failures leave.
        assert_eq!(five.fpr95, 1.0);
        Ok(())
    }

    #[test]
    fn nineteen_of_twenty_are_enough() -> Result<()> {
        // Twenty right answers and two failures; one failure lies behind the nineteenth, the other is not a number.
        let mut unsure: Vec<f32> = (0..19).map(|i| i as f32).collect();
        unsure.extend([19.0, 20.0, -f32::NAN]);
        let of = record(&unsure)?.failure_prediction(0, |i| i == 19 || i == 21)?;
        assert_eq!((of.fpr95, of.auroc), (0.0, 39.0 / 40.0));
        // Where none fail there is nothing to tell apart.
        let none = record(&unsure)?.failure_prediction(0, |_| false)?;
        assert_eq!((none.failures, none.aurc), (0.0, 0.0));
        assert!(none.auroc.is_nan() && none.fpr95.is_nan());
        assert!(record(&unsure)?.failure_prediction(0, |_| true)?.fpr95.is_nan());
        let error = record(&unsure)?.failure_prediction(1, |_| true).unwrap_err();
        assert_eq!(error.to_string(), "exits of a record are numbered from 0 to 0, got 1");
        Ok(())
    }
}
