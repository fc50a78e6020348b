//! Several runs of one experiment that differ in their seed alone: what is due to the method and what to
//! chance.

use crate::choices::Choice;
use crate::results::Results;
use crate::run_info::RunInfo;
use branchynet::Result;

/// Mean, spread, and 95 % interval of the mean of a quantity over independent runs.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Spread {
    /// How many runs.
    pub runs: usize,
    /// Their mean.
    pub mean: f64,
    /// The standard deviation of single runs (n − 1 in the denominator); NaN for a single one.
    pub deviation: f64,
    /// Half the width of the 95 % interval of the mean, by Student's t; NaN for a single run.
    pub half_width: f64,
}

/// Quantiles 0.975 of Student's t with 1, 2, … degrees of freedom
/// (<https://www.itl.nist.gov/div898/handbook/eda/section3/eda3672.htm>).
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

impl Spread {
    /// The spread of these values, one per run.
    ///
    /// ```
    /// use branchynet_runs::Spread;
    ///
    /// let spread = Spread::of(&[0.80, 0.82, 0.81]);
    /// assert!((spread.mean - 0.81).abs() < 1e-12 && (spread.deviation - 0.01).abs() < 1e-12);
    /// // 4.303 · 0.01 / √3
    /// assert!((spread.half_width - 0.02484).abs() < 1e-5);
    /// ```
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        let deviation = (squares / (n - 1.0)).sqrt();
        let t = match values.len() {
            0 | 1 => f64::NAN,
            runs => STUDENT.get(runs - 2).copied().unwrap_or(1.96),
        };
        Self { runs: values.len(), mean, deviation, half_width: t * deviation / n.sqrt() }
    }
}

/// Runs of one experiment that differ in their seed alone, in the order of their seeds: their [`Results`], or a
/// [`crate::Summary`] of each.
#[derive(Debug, Clone)]
pub struct Seeds<R = Results>(Vec<R>);

impl<R: AsRef<RunInfo>> Seeds<R> {
    /// These runs, of which there is at least one.
    pub fn new(mut runs: Vec<R>) -> Self {
        runs.sort_by_key(|run| run.as_ref().settings.config.seed);
        Self(runs)
    }

    /// The runs, in the order of their seeds.
    pub fn runs(&self) -> &[R] {
        &self.0
    }

    /// How these were made, for the subtitle of a figure: `CIFAR-10, 5 + 5 epochs, augmented, seeds 0 to 2`.
    pub fn made(&self) -> String {
        RunInfo::caption(&self.0.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// What `ask` finds in each run, as (of, name, value). What not all runs have is left out.
    pub fn quantities(
        &self,
        ask: impl Fn(&R) -> Result<Vec<(String, String, f64)>>,
    ) -> Result<Vec<Quantity>> {
        let seeds = self.0.iter().map(|run| run.as_ref().settings.config.seed);
        let answers = self.0.iter().map(ask).collect::<Result<Vec<_>>>()?;
        let first = answers.first().into_iter().flatten();
        let quantity = |(of, name, _): &(String, String, f64)| {
            let same = |answer: &&(String, String, f64)| (&answer.0, &answer.1) == (of, name);
            let of_run = |(seed, answers): (u64, &Vec<_>)| Some((seed, answers.iter().find(same)?.2));
            let values = seeds.clone().zip(&answers).map(of_run).collect::<Option<_>>()?;
            Some(Quantity { of: of.clone(), name: name.clone(), values })
        };
        Ok(first.filter_map(quantity).collect())
    }
}

impl Seeds {
    /// `results` and the recorded runs that differ from it in the seed alone.
    pub fn of(results: &Results) -> Result<Self> {
        let wanted = results.run.settings.seedless();
        let mut all = vec![results.clone()];
        for other in Results::recorded(|settings| settings.seedless() == wanted)? {
            if all.iter().all(|seen| seen.run.settings != other.run.settings) {
                all.push(other.by(results.test.criterion()));
            }
        }
        Ok(Self::new(all))
    }

    /// All recorded results, those together that differ in their seed alone, in the order of their names.
    pub fn recorded() -> Result<Vec<Self>> {
        let mut groups: Vec<Vec<Results>> = Vec::new();
        for results in Results::recorded(|_| true)? {
            let wanted = results.run.settings.seedless();
            match groups.iter_mut().find(|group| group[0].run.settings.seedless() == wanted) {
                Some(group) => group.push(results),
                None => groups.push(vec![results]),
            }
        }
        Ok(groups.into_iter().map(Self::new).collect())
    }

    /// [`Self::made`], and from where they are: `…; 9 records, 1 run`, or the file of a single one.
    pub fn caption(&self) -> String {
        if let [alone] = &self.0[..] {
            return alone.caption();
        }
        let records = self.0.iter().filter(|results| results.origin.starts_with("record")).count();
        let runs = match self.0.len() - records {
            0 => String::new(),
            1 => ", 1 run".to_string(),
            runs => format!(", {runs} runs"),
        };
        format!("{}; {records} records{runs}", self.made())
    }

    /// What the seeds have in common: the accuracy of the baselines, of each exit, and at each choice of thresholds, there
    /// with the share that leaves early and the gain, and with the difference in accuracy from the matched baseline of the
    /// same seed. `choices` gives a run's choices (such as [`Results::choices`]), each with its gain.
    pub fn on_test(&self, choices: impl Fn(&Results) -> Result<Vec<(Choice, f64)>>) -> Result<Vec<Quantity>> {
        self.quantities(|results| {
            let choices = choices(results)?;
            let mut all = Vec::new();
            let mut add = |of: &str, name: &str, value| all.push((of.to_string(), name.to_string(), value));
            for (name, baseline) in results.baselines() {
                add(&name, "accuracy", baseline.accuracy());
            }
            let matched = results.matched.as_ref().map(|baseline| baseline.accuracy());
            let exits = results.test.exit_accuracy().into_iter().enumerate();
            let exits = exits.map(|(exit, accuracy)| (format!("exit {}", exit + 1), accuracy));
            let chosen = choices.iter().map(|(choice, _)| (choice.label(), choice.accuracy));
            for (of, accuracy) in exits.chain(chosen) {
                add(&of, "accuracy", accuracy);
                if let Some(matched) = matched {
                    add(&of, "accuracy less the matched baseline's", accuracy - matched);
                }
            }
            for (choice, gain) in &choices {
                add(&choice.label(), "share that leaves early", 1.0 - choice.shares.last().unwrap_or(&1.0));
                add(&choice.label(), "gain", *gain);
            }
            Ok(all)
        })
    }
}

/// A quantity of runs that differ in their seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity {
    /// A baseline, an exit, a choice of thresholds, or a variant of the experiment.
    pub of: String,
    /// `accuracy`.
    pub name: String,
    /// Seeds and values; accuracies and shares in 0..=1.
    pub values: Vec<(u64, f64)>,
}

impl Quantity {
    /// Its spread over the seeds.
    pub fn spread(&self) -> Spread {
        Spread::of(&self.values.iter().map(|(_, value)| *value).collect::<Vec<_>>())
    }

    /// The spread of its differences from another, taken seed by seed, which removes what both have in common.
    pub fn less(&self, other: &Self) -> Spread {
        let difference = |(seed, value): &(u64, f64)| {
            let (_, theirs) = other.values.iter().find(|(other, _)| other == seed)?;
            Some(value - theirs)
        };
        Spread::of(&self.values.iter().filter_map(difference).collect::<Vec<_>>())
    }
}
