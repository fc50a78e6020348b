//! Several runs of one experiment that differ in their seed alone: what is due to the method and what to
//! chance.

use super::choices::Choice;
use super::results::Results;
use super::run_info::RunInfo;
use crate::Result;

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
    /// use branchynet::runs::Spread;
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

/// Results of one experiment that differ in their seed alone.
#[derive(Debug, Clone)]
pub struct Seeds(Vec<Results>);

impl Seeds {
    /// `results` and the recorded runs that differ from it in the seed alone, in the order of their
    /// seeds.
    pub fn of(results: &Results) -> Result<Self> {
        let wanted = results.settings.seedless();
        let mut all = vec![results.clone()];
        for other in Results::recorded(|settings| settings.seedless() == wanted)? {
            if all.iter().all(|seen| seen.settings != other.settings) {
                all.push(other.by(results.test.criterion()));
            }
        }
        all.sort_by_key(|results| results.settings.config.seed);
        Ok(Self(all))
    }

    /// All recorded results, those together that differ in their seed alone, in the order of their names.
    pub fn recorded() -> Result<Vec<Self>> {
        let mut groups: Vec<Self> = Vec::new();
        for results in Results::recorded(|_| true)? {
            let same = |group: &&mut Self| group.0[0].settings.seedless() == results.settings.seedless();
            match groups.iter_mut().find(same) {
                Some(group) => group.0.push(results),
                None => groups.push(Self(vec![results])),
            }
        }
        groups.iter_mut().for_each(|group| group.0.sort_by_key(|results| results.settings.config.seed));
        Ok(groups)
    }

    /// The results, in the order of their seeds.
    pub fn results(&self) -> &[Results] {
        &self.0
    }

    /// How these were made, for the subtitle of a figure: `…, seeds 0 to 9; 9 records, 1 run`.
    pub fn caption(&self) -> String {
        if let [alone] = &self.0[..] {
            return alone.caption();
        }
        let all: Vec<_> = self.0.iter().map(|results| &results.run).collect();
        let records = self.0.iter().filter(|results| results.origin.starts_with("record")).count();
        let runs = match self.0.len() - records {
            0 => String::new(),
            1 => ", 1 run".to_string(),
            runs => format!(", {runs} runs"),
        };
        format!("{}; {records} records{runs}", RunInfo::caption(&all))
    }

    /// What the seeds have in common, given what the baseline costs in the unit of the choices' costs: the accuracy of
    /// the baselines, of each exit, and at each choice of thresholds (such as [`Results::choices`]), there with the
    /// speedup, and with the difference in accuracy from the matched baseline of the same seed. Quantities that not all
    /// runs have are left out.
    pub fn quantities(
        &self,
        baseline: f64,
        choices: impl Fn(&Results) -> Result<Vec<Choice>>,
    ) -> Result<Vec<Quantity<Spread>>> {
        let of_run = |results: &Results| Ok(quantities(results, &choices(results)?, baseline));
        let all = self.0.iter().map(of_run).collect::<Result<Vec<_>>>()?;
        let mut spreads = Vec::new();
        for Quantity { of, name, .. } in &all[0] {
            let same = |other: &&Quantity<f64>| (&other.of, other.name) == (of, *name);
            let of_run = |run: &Vec<Quantity<f64>>| run.iter().find(same).map(|found| found.value);
            if let Some(values) = all.iter().map(of_run).collect::<Option<Vec<f64>>>() {
                spreads.push(Quantity { of: of.clone(), name, value: Spread::of(&values) });
            }
        }
        Ok(spreads)
    }
}

/// What runs gave on the test images: of one a number, of several a spread.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity<T> {
    /// A baseline, an exit, or a choice of thresholds.
    pub of: String,
    /// `accuracy`.
    pub name: &'static str,
    /// Accuracies and shares in 0..=1.
    pub value: T,
}

fn quantities(results: &Results, choices: &[Choice], baseline_cost: f64) -> Vec<Quantity<f64>> {
    let mut all = Vec::new();
    let mut add = |of: &str, name, value| all.push(Quantity { of: of.to_string(), name, value });
    for (name, baseline) in results.baselines() {
        add(&name, "accuracy", baseline.accuracy());
    }
    let matched = results.matched.as_ref().map(|baseline| baseline.accuracy());
    let mut accuracy = |of: &str, accuracy: f64| {
        add(of, "accuracy", accuracy);
        if let Some(matched) = matched {
            add(of, "accuracy less the matched baseline's", accuracy - matched);
        }
    };
    for (exit, of_exit) in results.test.exit_accuracy().into_iter().enumerate() {
        accuracy(&format!("exit {}", exit + 1), of_exit);
    }
    for choice in choices {
        accuracy(&choice.label(), choice.test.accuracy());
    }
    for choice in choices {
        let early = 1.0 - choice.test.shares().last().copied().unwrap_or(1.0);
        add(&choice.label(), "share that leaves early", early);
        add(&choice.label(), "gain", baseline_cost / choice.test.cost);
    }
    all
}
