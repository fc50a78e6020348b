//! How the answers for one sample change from exit to exit: overthinking, products of experts, and probabilities that fall.

use super::criterion::Seen;
use super::record::ExitRecord;
use crate::Result;
use crate::data::Role;

/// What going on to the last exit does: shares (0..=1) of the samples, which add up to 1 (Kaya et al. 2019,
/// <https://arxiv.org/abs/1810.07052>).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Overthinking {
    /// An earlier exit is right, and so is the last one: going on is wasteful.
    pub wasteful: f64,
    /// An earlier exit is right and the last one wrong: going on is destructive.
    pub destructive: f64,
    /// Every earlier exit is wrong and the last one right: going on is needed.
    pub late: f64,
    /// No exit is right.
    pub never: f64,
}

/// What an exit says to a product of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expert {
    /// Its softmax.
    Softmax,
    /// Its logits, 0 in place of negative ones: a class that an exit rules out does not come back.
    Relu,
}

impl<R: Role> ExitRecord<R> {
    /// What going on to the last exit does to the answers.
    pub fn overthinking(&self) -> Overthinking {
        let last = self.exits() - 1;
        let share = |early: bool, at_last: bool| {
            let early_right = |sample: usize| (0..last).any(|exit| self.right(exit, sample));
            let fits = |&sample: &usize| early_right(sample) == early && self.right(last, sample) == at_last;
            (0..self.len()).filter(fits).count() as f64 / self.len() as f64
        };
        Overthinking {
            wasteful: share(true, true),
            destructive: share(true, false),
            late: share(false, true),
            never: share(false, false),
        }
    }

    /// The same samples, with each exit answering by the product of what it and those before it say: anytime prediction
    /// by a product of experts (Jazbec et al. 2023, <https://arxiv.org/abs/2306.02652>), exit m of M with the exponent
    /// m/M. Where [`Expert::Relu`] leaves no class, the exit answers alone. Fails as [`Self::from_logits`] does.
    pub fn product(&self, expert: Expert) -> Result<Self> {
        let (exits, classes) = (self.exits(), self.classes());
        // Logarithms of the products so far; what is the same for all classes makes no difference to a softmax.
        let mut products = vec![0.0; self.len() * classes];
        let mut of_exit = |exit: usize| -> Vec<f32> {
            let weight = (exit + 1) as f64 / exits as f64;
            let samples = products.chunks_mut(classes).zip(self.logits(exit).chunks(classes));
            let of_sample = |(products, logits): (&mut [f64], &[f32])| -> Vec<f32> {
                for (product, &z) in products.iter_mut().zip(logits) {
                    *product += weight
                        * match expert {
                            Expert::Softmax => f64::from(z),
                            // `clamp` leaves what is not a number, unlike `max`.
                            Expert::Relu => f64::from(z).clamp(0.0, f64::INFINITY).ln(),
                        };
                }
                match products.iter().copied().fold(f64::NEG_INFINITY, f64::max) {
                    f64::NEG_INFINITY => logits.to_vec(),
                    largest => products.iter().map(|product| (product - largest) as f32).collect(),
                }
            };
            samples.flat_map(of_sample).collect()
        };
        let logits = (0..exits).map(&mut of_exit).collect();
        Ok(Self::from_logits(logits, self.labels().to_vec())?.by(self.criterion()))
    }

    /// For each sample by how much the probability of the class that the last exit answers falls from one exit to a later
    /// one, at most (0..=1); 0 where it never falls, which is conditional monotonicity.
    pub fn falls(&self) -> Vec<f64> {
        let (last, classes) = (self.exits() - 1, self.classes());
        let probability = |exit: usize, sample: usize| {
            let logits = &self.logits(exit)[sample * classes..][..classes];
            Seen::new(logits, classes).probabilities()[self.predictions(last)[sample].label]
        };
        let fall = |sample: usize| {
            let falls = (0..=last).scan(0.0, |most, exit| {
                let here = probability(exit, sample);
                *most = f64::max(*most, here);
                Some(*most - here)
            });
            falls.fold(0.0, f64::max)
        };
        (0..self.len()).map(fall).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Test;

    #[test]
    fn overthinking_is_counted_by_hand() -> Result<()> {
        // Three exits, five samples of class 0: what each exit answers.
        let answers = [[0, 1, 0, 1, 1], [1, 1, 1, 0, 1], [0, 0, 1, 1, 1]];
        let logits = |of: [u8; 5]| of.iter().flat_map(|&answer| [1.0, f32::from(answer) * 2.0]).collect();
        let record = ExitRecord::<Test>::from_logits(answers.map(logits).to_vec(), vec![0; 5])?;
        let expected = Overthinking { wasteful: 0.2, destructive: 0.4, late: 0.2, never: 0.2 };
        assert_eq!(record.overthinking(), expected);
        // The only exit is the last one.
        let alone = record.only(&[2])?.overthinking();
        assert_eq!((alone.late, alone.never, alone.wasteful), (0.4, 0.6, 0.0));
        Ok(())
    }

    #[test]
    fn experts_multiply() -> Result<()> {
        let [first, second] = [[1.0, 2.0, -1.0], [-1.0, 4.0, 9.0]];
        let record = ExitRecord::<Test>::from_logits(vec![first.to_vec(), second.to_vec()], vec![1])?;
        let says = |record: &ExitRecord<Test>, exit: usize| Seen::new(record.logits(exit), 3).probabilities();
        let near = |got: Vec<f64>, expected: [f64; 3]| {
            let sum: f64 = expected.iter().sum();
            got.iter().zip(expected).for_each(|(got, e)| assert!((got - e / sum).abs() < 1e-7, "{got}, {e}"));
        };
        // The first of two exits counts with a half, the second in whole.
        let relu = record.product(Expert::Relu)?;
        near(says(&relu, 0), [1.0, 2f64.sqrt(), 0.0]);
        near(says(&relu, 1), [0.0, 2f64.sqrt() * 4.0, 0.0]);
        let softmax = record.product(Expert::Softmax)?;
        near(says(&softmax, 1), [0.5f64 - 1.0, 1.0 + 4.0, -0.5 + 9.0].map(f64::exp));
        // The last exit answers class 2 by itself, and class 1 where class 2 was ruled out.
        assert_eq!((record.right(1, 0), relu.right(1, 0)), (false, true));
        // Where no class is left, the exit answers alone.
        let none = ExitRecord::<Test>::from_logits(vec![vec![1.0, -1.0], vec![-3.0, -2.0]], vec![1])?;
        assert_eq!(none.product(Expert::Relu)?.logits(1), [-3.0, -2.0]);
        Ok(())
    }

    #[test]
    fn a_probability_that_falls_is_found() -> Result<()> {
        // The last exit's class has 1/2, 4/5, 3/5 and 3/4 of the probability.
        let logits = [1.0f32, 4.0, 1.5, 3.0].map(|odds| vec![0.0, odds.ln()]);
        let record = ExitRecord::<Test>::from_logits(logits.to_vec(), vec![0])?;
        assert!((record.falls()[0] - 0.2).abs() < 1e-7);
        assert_eq!(record.only(&[0, 1])?.falls(), [0.0]);
        Ok(())
    }
}
