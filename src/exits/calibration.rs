//! What makes an exit's probabilities better: temperatures, exits that answer together, and a gate that is learned.

use super::criterion::{Gate, Seen, features};
use super::logistic::Logistic;
use super::readout::Readout;
use super::record::ExitRecord;
use crate::data::{Role, Validation};
use crate::{Result, bail};

impl<R: Role> ExitRecord<R> {
    /// The same with every exit's logits divided by its temperature, beside those that it has (see
    /// [`Readout::temperatures`]). Fails unless there is one for each exit, above 0.
    pub fn scaled(&self, temperatures: &[f64]) -> Result<Self> {
        let mut readout = self.readout().clone();
        if readout.ensemble {
            bail!(
                Setting,
                "exits get their temperatures before they answer together: use scaled(…) before ensembled()"
            )
        }
        if temperatures.is_empty() {
            bail!(Setting, "{} exits need as many temperatures, got none", self.exits())
        }
        let already = readout.temperatures.iter().chain(std::iter::repeat(&1.0));
        readout.temperatures = temperatures.iter().zip(already).map(|(new, old)| new * old).collect();
        self.read_by(&readout)
    }

    /// The same with every exit answering together with those before it (see [`Readout::ensemble`]).
    pub fn ensembled(&self) -> Result<Self> {
        self.read_by(&Readout { ensemble: true, ..self.readout().clone() })
    }

    /// The mean negative log-likelihood of an exit (from 0) at a temperature.
    fn likelihood(&self, exit: usize, temperature: f64) -> f64 {
        let classes = self.classes();
        let of = |(logits, &label): (&[f32], &u32)| {
            let z = |i: usize| f64::from(logits[i]) / temperature;
            let largest = (0..classes).map(z).fold(f64::MIN, f64::max);
            (0..classes).map(|i| (z(i) - largest).exp()).sum::<f64>().ln() + largest - z(label as usize)
        };
        // No temperature makes a class possible that a logit of minus infinity rules out.
        let possible = |(logits, label): &(&[f32], &u32)| logits[**label as usize] > f32::NEG_INFINITY;
        let samples = self.logits(exit).chunks(classes).zip(self.labels()).filter(possible);
        samples.map(of).sum::<f64>() / self.len() as f64
    }
}

impl ExitRecord<Validation> {
    /// For each exit the temperature at which these samples are most likely, between 0.0001 and 10,000.
    pub fn temperatures(&self) -> Vec<f64> {
        // The likelihood has one minimum: golden-section search on the logarithm.
        let ratio = (5f64.sqrt() - 1.0) / 2.0;
        let best = |exit: usize| {
            let at = |log: f64| self.likelihood(exit, log.exp());
            let search = |low: f64, high: f64| {
                let (mut low, mut high) = (low.ln(), high.ln());
                while high - low > 1e-4 {
                    let (left, right) = (high - ratio * (high - low), low + ratio * (high - low));
                    if at(left) < at(right) { high = right } else { low = left }
                }
                ((low + high) / 2.0).exp()
            };
            // Far ones are rare: cosines in place of logits, or a network that is right about all.
            match search(0.05, 20.0) {
                near if near < 0.0501 => search(1e-4, 0.06),
                near if near > 19.9 => search(19.0, 1e4),
                near => near,
            }
        };
        (0..self.exits()).map(best).collect()
    }
}

impl Gate {
    /// Learned from these samples. Thresholds for it want other samples than these.
    pub fn fit(record: &ExitRecord<Validation>) -> Self {
        let classes = record.classes();
        let of_exit = |exit: usize| {
            let sample = |sample: usize| {
                let so_far = (0..=exit).flat_map(|e| &record.logits(e)[sample * classes..][..classes]);
                let seen: Vec<f32> = so_far.copied().collect();
                (features(Seen::new(&seen, classes)), !record.right(exit, sample))
            };
            Logistic::fit(&(0..record.len()).map(sample).collect::<Vec<_>>())
        };
        Self { exits: (0..record.exits()).map(of_exit).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exits::Criterion;

    #[test]
    fn exits_that_answer_together_have_the_mean_of_their_log_probabilities() -> Result<()> {
        let logits = vec![vec![1.0, 0.0, -2.0], vec![0.5, 3.0, 0.0]];
        let both = ExitRecord::<Validation>::from_logits(logits.clone(), vec![1])?.ensembled()?;
        let softmax = |z: &[f32]| -> Vec<f64> { Seen::new(z, 3).probabilities() };
        let (a, b) = (softmax(&logits[0]), softmax(&logits[1]));
        let products: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a * b).sqrt()).collect();
        let sum: f64 = products.iter().sum();
        for (got, product) in softmax(both.logits(1)).into_iter().zip(products) {
            assert!((got - product / sum).abs() < 1e-6);
        }
        assert!(softmax(both.logits(0)).iter().zip(&a).all(|(got, a)| (got - a).abs() < 1e-6));
        Ok(())
    }

    #[test]
    fn a_temperature_mends_logits_that_are_too_sure() -> Result<()> {
        // Right as often as the probability says, 0.9 and 0.6; twice these logits are too sure.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for (probability, right) in [(0.9f64, 90), (0.6, 60)] {
            for i in 0..100 {
                logits.extend([2.0 * (probability / (1.0 - probability)).ln() as f32, 0.0]);
                labels.push(u32::from(i >= right));
            }
        }
        let sure = ExitRecord::<Validation>::from_logits(vec![logits], labels)?;
        assert!((sure.temperatures()[0] - 2.0).abs() < 0.02);
        assert!((sure.scaled(&[2.0])?.temperatures()[0] - 1.0).abs() < 0.01);
        assert!(sure.scaled(&[1.0, 1.0]).is_err() && sure.scaled(&[0.0]).is_err());
        Ok(())
    }

    #[test]
    fn a_learned_gate_is_calibrated_where_the_softmax_is_not() -> Result<()> {
        // One exit, two classes: 0.99 and 0.7 sure, right in 150 and 100 of 200.
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for (probability, right) in [(0.99f64, 150), (0.7, 100)] {
            for i in 0..200 {
                logits.extend([(probability / (1.0 - probability)).ln() as f32, 0.0]);
                labels.push(u32::from(i >= right));
            }
        }
        let sure = ExitRecord::<Validation>::from_logits(vec![logits], labels)?;
        let gated = sure.by(&Criterion::Gate(Gate::fit(&sure)));
        let unsure = |sample: usize| gated.predictions(0)[sample].uncertainty;
        let both = [unsure(0), unsure(399)];
        assert!((both[0] - 0.25).abs() < 0.01 && (both[1] - 0.5).abs() < 0.01, "{both:?}");
        Ok(())
    }
}
