//! Notebook 4: what thresholds let through, and what they promise.

use crate::figures::style::{
    self, FIRST, HEIGHT, SECOND, area, axis, band, colour, framed, legend, log_axis, measured, panels,
};
use crate::paper::Paper;
use branchynet::Result;
use branchynet::exits::{Criterion, percentile};
use branchynet_runs::{Results, Seeds, Spread};
use plotly::Plot;
use plotly::common::MarkerSymbol;
use polars::prelude::DataFrame;

pub use rand::Rng as _;

/// Thresholds that were chosen many times, each time on as many validation images drawn at random.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resampled {
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

impl Resampled {
    /// A table, where no more than `loss` was to be lost: means over the draws, the 5th and 95th
    /// percentile of what is kept, and in how many draws (0..=1) more is lost on Test.
    pub fn table(all: &[Self], loss: f64) -> Result<DataFrame> {
        let broken = |p: &Self| p.kept.iter().filter(|&&kept| kept < -loss - 1e-12).count();
        rows!(all, p =>
            "images that choose" => p.images as u64,
            "accuracy less the last exit's, on these images" => Spread::of(&p.claimed).mean,
            "on test" => Spread::of(&p.kept).mean,
            "on test, 5th percentile" => percentile(&p.kept, 0.05),
            "on test, 95th percentile" => percentile(&p.kept, 0.95),
            "draws that lose more on test" => broken(p) as f64 / p.kept.len() as f64,
            "mean cost on test" => Spread::of(&p.cost).mean,
        )
    }
}

/// A table of what Figure 4 shows, for several networks: the accuracy on Test when no sample leaves early,
/// the best and the share of samples that leave at exit 1 then, and when all leave there; all others go to
/// the last exit. Means over the seeds, in 0..=1.
pub fn by_share(networks: &[&Seeds]) -> Result<DataFrame> {
    let of_run = |results: &Results| -> Result<[f64; 4]> {
        let test = results.test.only(&[0, results.test.exits() - 1])?;
        let curve = test.curve(&[0.0, 1.0])?;
        let best = curve.iter().max_by_key(|outcome| outcome.right).unwrap_or(&curve[0]);
        let (none, all) = (curve[0].accuracy(), curve[curve.len() - 1].accuracy());
        Ok([none, best.accuracy(), best.shares()[0], all])
    };
    let of_network = |seeds: &&Seeds| {
        let all = seeds.runs().iter().map(of_run).collect::<Result<Vec<_>>>()?;
        let means = std::array::from_fn(|i| all.iter().map(|run| run[i]).sum::<f64>() / all.len() as f64);
        Ok((seeds.runs()[0].run.settings.network.clone(), all.len(), means))
    };
    let rows = networks.iter().map(of_network).collect::<Result<Vec<(String, usize, [f64; 4])>>>()?;
    rows!(rows, (network, runs, means) =>
        "network" => network.clone(),
        "runs" => *runs as u64,
        "accuracy, none leave early" => means[0],
        "best accuracy" => means[1],
        "leave at exit 1 there" => means[2],
        "accuracy, all leave at exit 1" => means[3],
    )
}

/// Accuracy on Test, and the largest uncertainty that leaves, against the share of the test images that
/// leave at exit 1, where all others go to the last exit (paper, figure 4): at every share that a threshold
/// can give. The paper's points are grey.
pub fn accuracy_against_share(seeds: &Seeds, paper: Option<&Paper>) -> Result<Plot> {
    const STEPS: usize = 200;
    let shares: Vec<f64> = (0..=STEPS).map(|step| step as f64 * 100.0 / STEPS as f64).collect();
    let (mut accuracies, mut largest) = (Vec::new(), Vec::new());
    for results in seeds.runs() {
        let test = results.test.only(&[0, results.test.exits() - 1])?;
        let curve = test.curve(&[0.0, 1.0])?;
        let mut unsure: Vec<f64> =
            test.predictions(0).iter().map(|prediction| prediction.uncertainty).collect();
        unsure.sort_by(f64::total_cmp);
        let leaving = |step: usize| step * test.len() / STEPS;
        let at_most = |step: usize| curve.partition_point(|outcome| outcome.leaving[0] <= leaving(step)) - 1;
        accuracies.push((0..=STEPS).map(|step| curve[at_most(step)].accuracy() * 100.0).collect());
        let last = |step: usize| curve[at_most(step)].leaving[0].checked_sub(1).map_or(0.0, |n| unsure[n]);
        largest.push((0..=STEPS).map(last).collect::<Vec<f64>>());
    }
    let criterion = seeds.runs()[0].test.criterion();
    let mut plot = Plot::new();
    if let Some(paper) = paper.filter(|paper| !paper.accuracy_by_share.is_empty()) {
        let shown = [(&paper.accuracy_by_share, 100.0, FIRST), (&paper.entropy_by_share, 1.0, SECOND)];
        for (points, unit, axes) in &shown[..if *criterion == Criterion::Entropy { 2 } else { 1 }] {
            let (x, y) = points.iter().map(|(share, value)| (share * 100.0, value * unit)).unzip();
            let trace = style::paper::<f64, f64>("paper (read off its figure)", x, y);
            plot.add_trace(trace.show_legend(*axes == FIRST).x_axis(axes.0).y_axis(axes.1));
        }
    }
    let name = match seeds.runs().len() {
        1 => "on test".to_string(),
        seeds => format!("on test: mean and deviation of {seeds} seeds"),
    };
    band(&mut plot, &name, &shares, &accuracies, true, FIRST);
    band(&mut plot, &name, &shares, &largest, false, SECOND);
    // The same range, so that shares lie below each other.
    let share = |title: &str| axis(title).range(vec![-2.0, 102.0]);
    plot.set_layout(
        framed(share(""), axis("accuracy, %"))
            .height(HEIGHT * 5 / 4)
            .grid(panels(2, 1))
            .x_axis2(share("samples that leave at exit 1, %"))
            .y_axis2(axis(&format!("largest that leaves:<br>{}", criterion.axis())))
            .legend(legend().y(-0.16)),
    );
    Ok(plot)
}

/// Accuracy less the last exit's, of thresholds that were to lose nothing, against the number of images that
/// chose them: on these images, as screening reports it, and on Test. Lines are means over the draws, bands
/// hold 90 % of them.
pub fn resampled(all: &[Resampled]) -> Plot {
    let images: Vec<f64> = all.iter().map(|one| one.images as f64).collect();
    let mut plot = Plot::new();
    type Part = fn(&Resampled) -> &Vec<f64>;
    let parts: [(&str, Part, MarkerSymbol); 2] = [
        ("reported on the images that chose (screening)", |p| &p.claimed, MarkerSymbol::Square),
        ("kept on test", |p| &p.kept, MarkerSymbol::Circle),
    ];
    for (i, (name, part, symbol)) in parts.into_iter().enumerate() {
        let edge = |share: f64| all.iter().map(|p| percentile(part(p), share) * 100.0).collect();
        area(&mut plot, &images, [edge(0.05), edge(0.95)], colour(i), FIRST);
        let means = all.iter().map(|p| Spread::of(part(p)).mean * 100.0).collect();
        plot.add_trace(measured(name, images.clone(), means, colour(i), symbol));
    }
    let x_axis = log_axis("images that choose (logarithmic)", images.into_iter());
    plot.set_layout(framed(x_axis, axis("accuracy less the last exit's, points")));
    plot
}
