//! Notebook 10: ways to read a record, how far an exit can be trusted, and whether promises are kept.

use crate::figures::style::{GREY, axis, colour, dot, exit_name, framed, legend, line, measured, stroke};
use crate::tables::add;
use branchynet::Result;
use branchynet::data::{Role, Test, Validation};
use branchynet::exits::{Criterion, ExitRecord, Loss, OperatingPoint, Seen, percentile};
use branchynet_runs::Spread;
use plotly::box_plot::BoxPoints;
use plotly::common::{DashType, Marker, MarkerSymbol};
use plotly::layout::{Shape, ShapeLine, ShapeType};
use plotly::{BoxPlot, Plot};
use polars::prelude::DataFrame;
use rayon::prelude::*;

pub use rand::seq::SliceRandom;

/// A confidence score: one way to read a record. What has to be fitted was fitted on one half of the validation images; the other
/// half chooses thresholds.
#[derive(Debug, Clone)]
pub struct ConfidenceScore {
    /// `margin`.
    pub name: String,
    /// The half of the validation images that chooses.
    pub validation: ExitRecord<Validation>,
    /// The test images.
    pub test: ExitRecord<Test>,
}

impl ConfidenceScore {
    /// What thresholds on the front of the validation half give on the test images.
    pub fn front(&self, costs: &[f64]) -> Result<Vec<OperatingPoint>> {
        self.test.operating_points(&self.validation.pareto_front(costs)?, costs)
    }

    /// A table of how well each score tells an exit's wrong answers from its right ones on the test images (AUROC),
    /// and, of thresholds at which with probability 0.95 at most the share `epsilon` of the answers is not the last
    /// exit's: the share of the test images that leaves early, their accuracy, and the mean cost.
    pub fn table(scores: &[Self], epsilon: f64, costs: &[f64]) -> Result<DataFrame> {
        let mut table = rows!(scores, score => "way" => score.name.clone())?;
        for exit in 0..costs.len() {
            let auroc = |score: &Self| {
                let wrong = |sample: usize| !score.test.right(exit, sample);
                Ok(Some(score.test.failure_prediction(exit, wrong)?.auroc))
            };
            let of_scores = scores.iter().map(auroc).collect::<Result<_>>()?;
            add(&mut table, [(format!("AUROC at exit {}", exit + 1), of_scores)])?;
        }
        let chosen = |score: &Self| -> Result<OperatingPoint> {
            let chosen = score.validation.learn_then_test(Loss::Different, epsilon, 0.05, costs)?;
            score.test.operating_point(&chosen.thresholds, costs)
        };
        let chosen = scores.iter().map(chosen).collect::<Result<Vec<_>>>()?;
        let column = |name: &str, of: &dyn Fn(&OperatingPoint) -> f64| {
            (name.to_string(), chosen.iter().map(|outcome| Some(of(outcome))).collect())
        };
        let early = column("leave early", &|outcome| 1.0 - outcome.shares()[costs.len() - 1]);
        let accuracy = column("accuracy", &OperatingPoint::accuracy);
        add(&mut table, [early, accuracy, column("mean cost", &|outcome| outcome.cost)])?;
        Ok(table)
    }
}

/// What `of` gives for 0, 1, … to `count` less one, on all cores.
pub fn in_parallel<T: Send>(count: usize, of: impl Fn(u64) -> Result<T> + Send + Sync) -> Result<Vec<T>> {
    (0..count as u64).into_par_iter().map(of).collect()
}

/// What one way to choose thresholds gave over many divisions of all images.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// How thresholds were chosen.
    pub name: String,
    /// For each division the share of answers (0..=1) that was lost on images that did not choose.
    pub lost: Vec<f64>,
    /// For each division the mean cost of these images.
    pub cost: Vec<f64>,
}

impl Coverage {
    /// The share of divisions (0..=1) in which more than `epsilon` was lost.
    pub fn broken(&self, epsilon: f64) -> f64 {
        let broken = self.lost.iter().filter(|&&lost| lost > epsilon).count();
        broken as f64 / self.lost.len() as f64
    }

    /// A table: how often the promise is broken, what is lost, and the mean cost.
    pub fn table(coverages: &[Self], epsilon: f64) -> Result<DataFrame> {
        rows!(coverages, c =>
            "thresholds" => c.name.clone(),
            "divisions that lose more" => c.broken(epsilon),
            "answers lost" => Spread::of(&c.lost).mean,
            "lost, 95th percentile" => percentile(&c.lost, 0.95),
            "mean cost" => Spread::of(&c.cost).mean,
        )
    }
}

const DASHES: [DashType; 4] = [DashType::Solid, DashType::Dash, DashType::Dot, DashType::DashDot];

/// Accuracy on Test against the mean cost, in shares of `whole` (the trunk's cost), for thresholds on the front of
/// each score's validation half.
pub fn fronts(scores: &[ConfidenceScore], costs: &[f64], whole: f64) -> Result<Plot> {
    let mut plot = Plot::new();
    for (i, score) in scores.iter().enumerate() {
        let front = score.front(costs)?;
        let (x, y) = front.iter().map(|o| (o.cost / whole * 100.0, o.accuracy() * 100.0)).unzip();
        let stroke = stroke(colour(i), 2.0).dash(DASHES[i % DASHES.len()].clone());
        plot.add_trace(line::<f64, f64>(&score.name, x, y, stroke));
    }
    plot.set_layout(framed(axis("mean multiply-accumulates, % of the trunk's"), axis("accuracy on test, %")));
    Ok(plot)
}

/// The share of right answers against the largest probability of the softmax, for each exit in ten bins: as the
/// network says it (drawn through), and after division by temperatures (dotted). On the grey diagonal
/// probabilities are what they claim to be. Bins of fewer than 20 answers are left out.
pub fn reliability_diagram(test: &ExitRecord<Test>, scaled: &ExitRecord<Test>) -> Plot {
    let mut plot = Plot::new();
    plot.add_trace(line("exact", vec![0.0, 100.0], vec![0.0, 100.0], stroke(GREY, 1.0)));
    for exit in 0..test.exits() {
        for (record, what, dash) in
            [(test, "", DashType::Solid), (scaled, ", with temperature", DashType::Dot)]
        {
            let mut bins = reliability(record, exit, 10);
            bins.retain(|bin| bin.count >= 20);
            let (x, y) = bins.iter().map(|bin| (bin.probability * 100.0, bin.accuracy * 100.0)).unzip();
            let name = format!("{}{what}", exit_name(exit, test.exits()));
            let trace = measured::<f64, f64>(&name, x, y, colour(exit), MarkerSymbol::Circle);
            let trace = trace.marker(dot(colour(exit), 7, MarkerSymbol::Circle));
            plot.add_trace(trace.line(stroke(colour(exit), 2.0).dash(dash)));
        }
    }
    plot.set_layout(framed(axis("largest probability, %"), axis("right answers, %")));
    plot
}

/// The share of answers that was lost in each division, for each way to choose thresholds; the line is the share that
/// was allowed. A box holds half of the divisions, its whiskers reach to the farthest within one and a half boxes.
pub fn lost_by_division(coverages: &[Coverage], epsilon: f64) -> Plot {
    let mut plot = Plot::new();
    for (i, coverage) in coverages.iter().enumerate() {
        let broken = coverage.broken(epsilon) * 100.0;
        let lost: Vec<f64> = coverage.lost.iter().map(|lost| lost * 100.0).collect();
        plot.add_trace(
            BoxPlot::new(lost)
                .name(format!("{}: broken in {broken:.1} %", coverage.name))
                .box_points(BoxPoints::Outliers)
                .marker(Marker::new().color(colour(i)).size(3)),
        );
    }
    let line = Shape::new()
        .shape_type(ShapeType::Line)
        .x_ref("paper")
        .x0(0.0)
        .x1(1.0)
        .y0(epsilon * 100.0)
        .y1(epsilon * 100.0)
        .line(ShapeLine::new().color(GREY).width(1.0));
    plot.set_layout(
        framed(
            axis("how thresholds are chosen").show_tick_labels(false),
            axis("answers lost on other images, %"),
        )
        .shapes(vec![line])
        .legend(legend().y(-0.08)),
    );
    plot
}

/// Answers of an exit that are about as sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// How many they are.
    pub count: usize,
    /// The mean of their largest probabilities.
    pub probability: f64,
    /// The share that is right.
    pub accuracy: f64,
}

/// The answers of an exit (from 0) in `bins` of equal width of their largest probability, empty ones left out:
/// where it can be trusted, accuracy is that probability.
pub fn reliability<R: Role>(record: &ExitRecord<R>, exit: usize, bins: usize) -> Vec<Bin> {
    let (classes, mut sums) = (record.classes(), vec![(0, 0.0, 0); bins.max(1)]);
    for sample in 0..record.len() {
        let logits = &record.logits(exit)[sample * classes..][..classes];
        let probability = 1.0 - Criterion::Probability.read(Seen::new(logits, classes)).uncertainty;
        let bin = ((probability * bins as f64) as usize).min(sums.len() - 1);
        let (count, sum, correct) = &mut sums[bin];
        *count += 1;
        *sum += probability;
        *correct += usize::from(record.right(exit, sample));
    }
    let filled = sums.into_iter().filter(|(count, ..)| *count > 0);
    let bin = |(count, sum, correct): (usize, f64, usize)| {
        let n = count as f64;
        Bin { count, probability: sum / n, accuracy: correct as f64 / n }
    };
    filled.map(bin).collect()
}

/// The expected calibration error of an exit (from 0): the mean distance of accuracy and probability over
/// 15 bins, as is usual.
pub fn calibration_error<R: Role>(record: &ExitRecord<R>, exit: usize) -> f64 {
    let error = |bin: Bin| bin.count as f64 * (bin.accuracy - bin.probability).abs();
    reliability(record, exit, 15).into_iter().map(error).sum::<f64>() / record.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use branchynet::Result;

    /// One exit, two classes; of each probability so many samples, and so many right.
    fn record(groups: &[(f64, usize, usize)]) -> Result<ExitRecord<Validation>> {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for &(probability, count, right) in groups {
            for i in 0..count {
                logits.extend([(probability / (1.0 - probability)).ln() as f32, 0.0]);
                labels.push(u32::from(i >= right));
            }
        }
        ExitRecord::from_logits(vec![logits], labels)
    }

    #[test]
    fn calibration_is_measured_and_mended_by_a_temperature() -> Result<()> {
        let exact = record(&[(0.9, 100, 90), (0.6, 100, 60)])?;
        assert!(calibration_error(&exact, 0) < 1e-6);
        assert!((exact.temperatures()[0] - 1.0).abs() < 0.01);
        // A wrong answer is less sure than a right one: 40 of 50 wrong ones are in the second group, …
        let auroc = |record: &ExitRecord<Validation>| {
            Ok::<_, branchynet::Error>(record.failure_prediction(0, |sample| !record.right(0, sample))?.auroc)
        };
        let expected = (40.0 * 90.0 + 40.0 * 60.0 / 2.0 + 10.0 * 90.0 / 2.0) / (50.0 * 150.0);
        assert!((auroc(&exact)? - expected).abs() < 1e-12);
        // Twice the logits are too sure.
        let sure = exact.scaled(&[0.5])?;
        let probability = |p: f64| p * p / (p * p + (1.0 - p) * (1.0 - p));
        let error = (probability(0.9) - 0.9 + probability(0.6) - 0.6) / 2.0;
        assert!((calibration_error(&sure, 0) - error).abs() < 1e-6);
        assert!((sure.temperatures()[0] - 2.0).abs() < 0.02);
        assert_eq!(auroc(&sure)?, auroc(&exact)?);
        Ok(())
    }
}
