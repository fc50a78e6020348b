//! Runs of one variant of an experiment, several seeds each, reduced to the quantities that variants are
//! compared by.

use super::seeds::{Spread, known};
use super::summary::Summary;
use crate::Result;
use polars::prelude::{DataFrame, df};

/// One variant of an experiment: its name, and for each seed the quantities that its runs were asked for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Variant {
    /// For axes and tables: `1.0 : 0.3`.
    pub name: String,
    /// How its runs were made ([`Summary::caption`]).
    pub caption: String,
    /// Seed, and quantities by name.
    runs: Vec<(u64, Vec<(String, f64)>)>,
}

impl Variant {
    /// What `runs` gave, each asked by `ask` for quantities with their names, the same ones for every run.
    ///
    /// ```no_run
    /// use branchynet::prelude::*;
    ///
    /// let session = Session::from_environment("lenet")?;
    /// let runs = session.summaries(&session.experiment)?;
    /// let variant = Variant::new("as it is", &runs, Summary::on_test);
    /// println!("{:?}", variant.values("exit 1"));
    /// # Ok::<(), branchynet::Error>(())
    /// ```
    pub fn new(name: &str, runs: &[Summary], ask: impl Fn(&Summary) -> Vec<(String, f64)>) -> Self {
        let caption = Summary::caption(runs);
        let runs = runs.iter().map(|run| (run.settings.config.seed, ask(run))).collect();
        Self { name: name.to_string(), caption, runs }
    }

    /// The names of the quantities.
    pub fn quantities(&self) -> Vec<String> {
        let first = self.runs.first().map(|(_, quantities)| quantities);
        first.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// A quantity of each run, in the order of the seeds; empty where there is none of this name.
    pub fn values(&self, quantity: &str) -> Vec<f64> {
        self.by_seed(quantity).into_iter().map(|(_, value)| value).collect()
    }

    fn by_seed(&self, quantity: &str) -> Vec<(u64, f64)> {
        let find = |(seed, quantities): &(u64, Vec<(String, f64)>)| {
            let (_, value) = quantities.iter().find(|(name, _)| name == quantity)?;
            Some((*seed, *value))
        };
        self.runs.iter().filter_map(find).collect()
    }

    /// A table of variants: for each quantity mean, standard deviation and 95 % interval over the seeds, and
    /// the difference from the variant called `reference`, taken seed by seed, with its interval.
    pub fn frame(variants: &[Self], reference: &str) -> Result<DataFrame> {
        let mut rows = Vec::new();
        let reference = variants.iter().find(|variant| variant.name == reference);
        for variant in variants {
            for quantity in variant.quantities() {
                let paired: Vec<f64> = variant
                    .by_seed(&quantity)
                    .into_iter()
                    .filter_map(|(seed, value)| {
                        let theirs = reference?.by_seed(&quantity).into_iter().find(|(s, _)| *s == seed)?;
                        Some(value - theirs.1)
                    })
                    .collect();
                let spread = Spread::of(&variant.values(&quantity));
                rows.push((variant.name.clone(), quantity, spread, Spread::of(&paired)));
            }
        }
        let column = |of: &dyn Fn(&Spread, &Spread) -> f64| -> Vec<Option<f64>> {
            rows.iter().map(|(_, _, spread, paired)| known(of(spread, paired))).collect()
        };
        Ok(df!(
            "variant" => rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>(),
            "of" => rows.iter().map(|row| row.1.clone()).collect::<Vec<_>>(),
            "runs" => rows.iter().map(|row| row.2.runs as u64).collect::<Vec<_>>(),
            "mean" => column(&|s, _| s.mean),
            "standard deviation" => column(&|s, _| s.deviation),
            "95 % ±" => column(&|s, _| s.half_width),
            "difference" => column(&|_, paired| paired.mean),
            "difference, 95 % ±" => column(&|_, paired| paired.half_width),
        )?)
    }
}

impl Summary {
    /// The name of an exit (from 0) as quantities have it.
    fn exit_name(&self, exit: usize) -> String {
        match exit + 1 == self.exits.len() {
            true => "last exit".to_string(),
            false => format!("exit {}", exit + 1),
        }
    }

    /// For [`Variant::new`]: the accuracy of each exit on Test (0..=1).
    pub fn on_test(&self) -> Vec<(String, f64)> {
        self.exits.iter().enumerate().map(|(i, exit)| (self.exit_name(i), exit.test)).collect()
    }

    /// For [`Variant::new`]: by how much each exit is more accurate on Train than on Test (0..=1), and the
    /// baselines'.
    pub fn gaps(&self) -> Vec<(String, f64)> {
        let exits = self.exits.iter().enumerate().map(|(i, exit)| (self.exit_name(i), *exit));
        let baselines = [("baseline", self.baseline), ("matched baseline", self.matched)];
        let named = baselines.into_iter().filter_map(|(name, of)| Some((name.to_string(), of?)));
        exits.chain(named).map(|(name, of)| (name, of.train - of.test)).collect()
    }

    /// For [`Variant::new`]: what a branch (from 0) gives as the network's only one, on Test: its accuracy
    /// (0..=1); and at the threshold without loss on Validation the share that leaves there (0..=1), and the
    /// gain in multiply-accumulates. Panics where there is no such branch.
    pub fn branch(&self, branch: usize) -> Vec<(String, f64)> {
        let (exit, alone) = (&self.exits[branch], &self.alone[branch]);
        [("the branch", exit.test), ("leave early", alone.shares[0]), ("gain", alone.gain)]
            .map(|(name, value)| (name.to_string(), value))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_taken_seed_by_seed() -> Result<()> {
        let variant = |name: &str, runs: &[(u64, f64)]| Variant {
            name: name.to_string(),
            caption: String::new(),
            runs: runs.iter().map(|&(seed, value)| (seed, vec![("exit 1".to_string(), value)])).collect(),
        };
        // What seeds have in common is larger than what the variants differ in.
        let plain = variant("plain", &[(0, 0.5), (1, 0.7), (2, 0.9)]);
        let better = variant("better", &[(2, 0.92), (0, 0.51), (1, 0.715)]);
        let frame = Variant::frame(&[plain, better], "plain")?;
        let cell = |column: &str| {
            frame.column(column)?.f64()?.get(1).ok_or(polars::prelude::PolarsError::NoData("".into()))
        };
        assert!((cell("difference")? - 0.015).abs() < 1e-12);
        assert!(cell("difference, 95 % ±")? < 0.02 && cell("95 % ±")? > 0.4);
        Ok(())
    }
}
