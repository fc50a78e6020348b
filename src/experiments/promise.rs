//! What thresholds promise on the images that chose them, and what is kept on others.

use super::results::Results;
use super::seeds::Spread;
use crate::exits::percentile;
use crate::{Result, Rng};
use polars::prelude::{DataFrame, df};
use rand::{Rng as _, SeedableRng};
use rayon::prelude::*;

/// Thresholds chosen many times, each time on as many validation images drawn at random.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Promise {
    /// How many images chose.
    pub images: usize,
    /// For each draw the accuracy on the images that chose, less the last exit's there: what is reported
    /// where thresholds are screened on the images that they are reported on.
    pub claimed: Vec<f64>,
    /// For each draw the accuracy of the same thresholds on Test, less the last exit's there.
    pub kept: Vec<f64>,
    /// For each draw the mean cost on Test.
    pub cost: Vec<f64>,
}

impl Results {
    /// For each number of images: `draws` times, that many validation images are drawn, with replacement
    /// (a bootstrap); the cheapest thresholds that lose no more than `loss` (0..=1) against the last exit
    /// there are chosen, and applied to Test. `costs` are those of leaving at each exit.
    pub fn promises(&self, loss: f64, costs: &[f64], images: &[usize], draws: usize) -> Result<Vec<Promise>> {
        let last_on_test = self.test.last_accuracy();
        let of_draw = |images: usize, draw: usize| -> Result<[f64; 3]> {
            let mut rng = Rng::seed_from_u64((images as u64) << 32 | draw as u64);
            let drawn: Vec<usize> = (0..images).map(|_| rng.random_range(0..self.validation.len())).collect();
            let drawn = self.validation.select(&drawn)?;
            let last = drawn.last_accuracy();
            let chosen = drawn.choose_for_accuracy(last - loss, costs)?;
            let test = self.test.outcome(&chosen.thresholds, costs)?;
            Ok([chosen.accuracy() - last, test.accuracy() - last_on_test, test.cost])
        };
        let of_images = |&images: &usize| {
            let all: Vec<[f64; 3]> =
                (0..draws).into_par_iter().map(|draw| of_draw(images, draw)).collect::<Result<_>>()?;
            let part = |i: usize| all.iter().map(|of| of[i]).collect();
            Ok(Promise { images, claimed: part(0), kept: part(1), cost: part(2) })
        };
        images.iter().map(of_images).collect()
    }
}

impl Promise {
    /// A table of promises that no more than `loss` is lost: means over the draws, the 5th and 95th
    /// percentile of what is kept, and in how many draws (0..=1) more is lost on Test.
    pub fn frame(promises: &[Self], loss: f64) -> Result<DataFrame> {
        let column = |of: &dyn Fn(&Self) -> f64| promises.iter().map(of).collect::<Vec<_>>();
        let broken = |p: &Self| p.kept.iter().filter(|&&kept| kept < -loss - 1e-12).count();
        Ok(df!(
            "images that choose" => promises.iter().map(|p| p.images as u64).collect::<Vec<_>>(),
            "accuracy less the last exit's, on these images" => column(&|p| Spread::of(&p.claimed).mean),
            "on test" => column(&|p| Spread::of(&p.kept).mean),
            "on test, 5th percentile" => column(&|p| percentile(&p.kept, 0.05)),
            "on test, 95th percentile" => column(&|p| percentile(&p.kept, 0.95)),
            "draws that lose more on test" => column(&|p| broken(p) as f64 / p.kept.len() as f64),
            "mean cost on test" => column(&|p| Spread::of(&p.cost).mean),
        )?)
    }
}
