//! Notebook 4: what thresholds let through, and what they promise.

use crate::figures::style::{self, HEIGHT, area, axis, band, colour, layout, legend, log_axis};
use crate::paper::Paper;
use branchynet::Result;
use branchynet::exits::{Criterion, percentile};
use branchynet::runs::{Results, Seeds, Spread};
use plotly::common::{Line, Marker, MarkerSymbol, Mode};
use plotly::layout::{GridPattern, LayoutGrid};
use plotly::{Plot, Scatter};
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
        let column = |of: &dyn Fn(&Self) -> f64| all.iter().map(of).collect::<Vec<_>>();
        let broken = |p: &Self| p.kept.iter().filter(|&&kept| kept < -loss - 1e-12).count();
        df!(
            "images that choose" => all.iter().map(|p| p.images as u64).collect::<Vec<_>>(),
            "accuracy less the last exit's, on these images" => column(&|p| Spread::of(&p.claimed).mean),
            "on test" => column(&|p| Spread::of(&p.kept).mean),
            "on test, 5th percentile" => column(&|p| percentile(&p.kept, 0.05)),
            "on test, 95th percentile" => column(&|p| percentile(&p.kept, 0.95)),
            "draws that lose more on test" => column(&|p| broken(p) as f64 / p.kept.len() as f64),
            "mean cost on test" => column(&|p| Spread::of(&p.cost).mean),
        )
    }
}

/// A table of what Figure 4 shows, for several networks: the accuracy on Test when no sample leaves early,
/// the best and the share of samples that leave at exit 1 then, and when all leave there; all others go to
/// the last exit. Means over the seeds, in 0..=1.
pub fn by_share(networks: &[&Seeds]) -> Result<DataFrame> {
    let mut rows: Vec<[f64; 4]> = Vec::new();
    for seeds in networks {
        let of_run = |results: &Results| -> Result<[f64; 4]> {
            let test = results.test.only(&[0, results.test.exits() - 1])?;
            let curve = test.curve(&[0.0, 1.0])?;
            let best = curve.iter().max_by_key(|outcome| outcome.right).unwrap_or(&curve[0]);
            let (none, all) = (curve[0].accuracy(), curve[curve.len() - 1].accuracy());
            Ok([none, best.accuracy(), best.shares()[0], all])
        };
        let all: Vec<[f64; 4]> = seeds.results().iter().map(of_run).collect::<Result<_>>()?;
        rows.push(std::array::from_fn(|i| all.iter().map(|row| row[i]).sum::<f64>() / all.len() as f64));
    }
    let column = |i: usize| rows.iter().map(|row| row[i]).collect::<Vec<_>>();
    let names = networks.iter().map(|seeds| seeds.results()[0].settings.network.clone());
    df!(
        "network" => names.collect::<Vec<_>>(),
        "runs" => networks.iter().map(|seeds| seeds.results().len() as u64).collect::<Vec<_>>(),
        "accuracy, none leave early" => column(0),
        "best accuracy" => column(1),
        "leave at exit 1 there" => column(2),
        "accuracy, all leave at exit 1" => column(3),
    )
}

/// Accuracy on Test, and the largest uncertainty that leaves, against the share of the test images that
/// leave at exit 1, where all others go to the last exit (paper, figure 4): at every share that a threshold
/// can give. The paper's points are grey.
pub fn accuracy_against_share(seeds: &Seeds, paper: Option<&Paper>) -> Result<Plot> {
    const STEPS: usize = 200;
    let shares: Vec<f64> = (0..=STEPS).map(|step| step as f64 * 100.0 / STEPS as f64).collect();
    let (mut accuracies, mut largest) = (Vec::new(), Vec::new());
    for results in seeds.results() {
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
    let criterion = seeds.results()[0].test.criterion();
    let mut plot = Plot::new();
    if let Some(paper) = paper.filter(|paper| !paper.accuracy_by_share.is_empty()) {
        let mut panels = vec![(&paper.accuracy_by_share, 100.0, "x", "y")];
        if *criterion == Criterion::Entropy {
            panels.push((&paper.entropy_by_share, 1.0, "x2", "y2"));
        }
        for (points, unit, x_axis, y_axis) in panels {
            let (x, y) = points.iter().map(|(share, value)| (share * 100.0, value * unit)).unzip();
            plot.add_trace(
                style::paper::<f64, f64>("paper (read off its figure)", x, y)
                    .show_legend(y_axis == "y")
                    .x_axis(x_axis)
                    .y_axis(y_axis),
            );
        }
    }
    let name = match seeds.results().len() {
        1 => "on test".to_string(),
        seeds => format!("on test: mean and deviation of {seeds} seeds"),
    };
    band(&mut plot, &name, &shares, &accuracies, (colour(0), true), ("x", "y"));
    band(&mut plot, &name, &shares, &largest, (colour(0), false), ("x2", "y2"));
    // The same range, so that shares lie below each other.
    let share = |title: &str| axis(title).range(vec![-2.0, 102.0]);
    plot.set_layout(
        layout()
            .height(HEIGHT * 5 / 4)
            .grid(LayoutGrid::new().rows(2).columns(1).pattern(GridPattern::Independent))
            .x_axis(share(""))
            .y_axis(axis("accuracy, %"))
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
        area(&mut plot, &images, [edge(0.05), edge(0.95)], colour(i), ("x", "y"));
        let mean = |p: &Resampled| part(p).iter().sum::<f64>() / part(p).len() as f64 * 100.0;
        plot.add_trace(
            Scatter::new(images.clone(), all.iter().map(mean).collect())
                .name(name)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(9).symbol(symbol))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
    }
    plot.set_layout(
        layout()
            .x_axis(log_axis("images that choose (logarithmic)", images.into_iter()))
            .y_axis(axis("accuracy less the last exit's, points"))
            .legend(legend()),
    );
    plot
}
