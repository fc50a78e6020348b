//! What thresholds let through, and what they promise.

use super::style::{self, HEIGHT, area, axis, band, colour, layout, legend, log_axis};
use crate::Result;
use crate::exits::Criterion;
use crate::experiments::{Paper, Promise, Seeds, percentile};
use plotly::common::{Line, Marker, MarkerSymbol, Mode};
use plotly::layout::{GridPattern, LayoutGrid};
use plotly::{Plot, Scatter};

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
        let mut unsure: Vec<f64> = test.readings(0).iter().map(|reading| reading.uncertainty).collect();
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
        let mut panels = vec![(paper.accuracy_by_share, 100.0, "x", "y")];
        if *criterion == Criterion::Entropy {
            panels.push((paper.entropy_by_share, 1.0, "x2", "y2"));
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
pub fn promises(promises: &[Promise]) -> Plot {
    let images: Vec<f64> = promises.iter().map(|promise| promise.images as f64).collect();
    let mut plot = Plot::new();
    type Part = fn(&Promise) -> &Vec<f64>;
    let parts: [(&str, Part, MarkerSymbol); 2] = [
        ("reported on the images that chose (screening)", |p| &p.claimed, MarkerSymbol::Square),
        ("kept on test", |p| &p.kept, MarkerSymbol::Circle),
    ];
    for (i, (name, part, symbol)) in parts.into_iter().enumerate() {
        let edge = |share: f64| promises.iter().map(|p| percentile(part(p), share) * 100.0).collect();
        area(&mut plot, &images, [edge(0.05), edge(0.95)], colour(i), ("x", "y"));
        let mean = |p: &Promise| part(p).iter().sum::<f64>() / part(p).len() as f64 * 100.0;
        plot.add_trace(
            Scatter::new(images.clone(), promises.iter().map(mean).collect())
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
