//! What criteria are worth, and whether promises are kept.

use super::style::{GREY, axis, colour, exit_name, layout, legend};
use crate::Result;
use crate::data::Test;
use crate::exits::ExitRecord;
use crate::experiments::{Coverage, Way};
use plotly::box_plot::BoxPoints;
use plotly::common::{DashType, Line, Marker, Mode};
use plotly::layout::{Shape, ShapeLine, ShapeType};
use plotly::{BoxPlot, Plot, Scatter};

const DASHES: [DashType; 4] = [DashType::Solid, DashType::Dash, DashType::Dot, DashType::DashDot];

/// Accuracy on Test against the mean cost, in shares of `whole` (the trunk's cost), for thresholds on the front of
/// each way's validation half.
pub fn ways(ways: &[Way], costs: &[f64], whole: f64) -> Result<Plot> {
    let mut plot = Plot::new();
    for (i, way) in ways.iter().enumerate() {
        let front = way.front(costs)?;
        let x: Vec<f64> = front.iter().map(|outcome| outcome.cost / whole * 100.0).collect();
        let y: Vec<f64> = front.iter().map(|outcome| outcome.accuracy() * 100.0).collect();
        plot.add_trace(
            Scatter::new(x, y)
                .name(&way.name)
                .mode(Mode::Lines)
                .line(Line::new().color(colour(i)).width(2.0).dash(DASHES[i % DASHES.len()].clone())),
        );
    }
    plot.set_layout(
        layout()
            .x_axis(axis("mean multiply-accumulates, % of the trunk's"))
            .y_axis(axis("accuracy on test, %"))
            .legend(legend()),
    );
    Ok(plot)
}

/// The share of right answers against the largest probability of the softmax, for each exit in ten bins: as the
/// network says it (drawn through), and after division by temperatures (dotted). On the grey diagonal
/// probabilities are what they claim to be. Bins of fewer than 20 answers are left out.
pub fn reliability(test: &ExitRecord<Test>, scaled: &ExitRecord<Test>) -> Plot {
    let mut plot = Plot::new();
    let both = vec![0.0, 100.0];
    plot.add_trace(
        Scatter::new(both.clone(), both)
            .name("exact")
            .mode(Mode::Lines)
            .line(Line::new().color(GREY).width(1.0)),
    );
    for exit in 0..test.exits() {
        for (record, what, dash) in
            [(test, "", DashType::Solid), (scaled, ", with temperature", DashType::Dot)]
        {
            let mut bins = record.reliability(exit, 10);
            bins.retain(|bin| bin.count >= 20);
            let part = |of: fn(&crate::exits::Bin) -> f64| {
                bins.iter().map(|bin| of(bin) * 100.0).collect::<Vec<_>>()
            };
            plot.add_trace(
                Scatter::new(part(|bin| bin.probability), part(|bin| bin.accuracy))
                    .name(format!("{}{what}", exit_name(exit, test.exits())))
                    .mode(Mode::LinesMarkers)
                    .marker(Marker::new().color(colour(exit)).size(7))
                    .line(Line::new().color(colour(exit)).width(2.0).dash(dash)),
            );
        }
    }
    plot.set_layout(
        layout().x_axis(axis("largest probability, %")).y_axis(axis("right answers, %")).legend(legend()),
    );
    plot
}

/// The share of answers that was lost in each division, for each way to choose thresholds; the line is the share that
/// was allowed. A box holds half of the divisions, its whiskers reach to the farthest within one and a half boxes.
pub fn coverage(coverages: &[Coverage], epsilon: f64) -> Plot {
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
        layout()
            .x_axis(axis("").show_tick_labels(false))
            .y_axis(axis("answers lost on other images, %"))
            .shapes(vec![line])
            .legend(legend().y(-0.08)),
    );
    plot
}
