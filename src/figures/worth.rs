//! Whether early exit pays: networks of all kinds on one plane.

use super::style::{GREY, axis, bar, beaten, colour, layout, legend, log_axis};
use crate::Result;
use crate::experiments::{Contender, Kind, Spread, Standing};
use plotly::common::{Anchor, DashType, ErrorData, ErrorType, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::Annotation;
use plotly::{Plot, Scatter};

/// Accuracy on Test against milliseconds for one image alone: static networks as grey points with their names (mean
/// and standard deviation over the seeds), early exits and cascades as lines, one for each seed, of the thresholds on
/// the front of Validation; the star is the choice with a guarantee.
pub fn worth(contenders: &[Contender], standings: &[Standing]) -> Result<Plot> {
    let mut plot = Plot::new();
    let star = |colour: &'static str| Marker::new().color(colour).size(12).symbol(MarkerSymbol::Star);
    let percent = |accuracies: &[f64]| accuracies.iter().map(|a| a * 100.0).collect::<Vec<_>>();
    // What can leave early: (milliseconds, accuracy in percent).
    let mut reached = Vec::new();
    for (i, contender) in contenders.iter().filter(|contender| contender.kind() != Kind::Static).enumerate() {
        let dash = if contender.kind() == Kind::Cascade { DashType::Dash } else { DashType::Solid };
        for (seed, front) in contender.fronts()?.into_iter().enumerate() {
            let points = front.iter().map(|outcome| (outcome.cost, outcome.accuracy() * 100.0));
            let (x, y) = points.clone().unzip();
            reached.extend(points);
            plot.add_trace(
                Scatter::new(x, y)
                    .name(&contender.name)
                    .legend_group(&contender.name)
                    .show_legend(seed == 0)
                    .mode(Mode::Lines)
                    .line(Line::new().color(colour(i)).width(1.5).dash(dash.clone())),
            );
        }
        let chosen =
            standings.iter().filter(|of| of.name == contender.name && of.choice == Contender::GUARANTEED);
        for standing in chosen {
            plot.add_trace(
                Scatter::new(standing.alone.clone(), percent(&standing.accuracy))
                    .show_legend(false)
                    .mode(Mode::Markers)
                    .marker(star(colour(i))),
            );
        }
    }
    let mut of_static: Vec<&Standing> = standings.iter().filter(|of| of.kind == Kind::Static).collect();
    of_static.sort_by(|a, b| a.alone[0].total_cmp(&b.alone[0]));
    let spreads: Vec<Spread> = of_static.iter().map(|of| Spread::of(&percent(&of.accuracy))).collect();
    let alone: Vec<f64> = of_static.iter().map(|of| Spread::of(&of.alone).mean).collect();
    plot.add_trace(
        Scatter::new(alone.clone(), spreads.iter().map(|spread| spread.mean).collect())
            .name("static networks")
            .mode(Mode::Markers)
            .marker(Marker::new().color(GREY).size(9))
            .error_y(ErrorData::new(ErrorType::Data).array(spreads.iter().map(bar).collect())),
    );
    // No point of its own: what a star means, in no contender's colour.
    plot.add_trace(
        Scatter::new(vec![f64::NAN], vec![f64::NAN])
            .name(Contender::GUARANTEED)
            .mode(Mode::Markers)
            .marker(star("#000000")),
    );
    // A name stands above its point and deviation, away from the lines, where nothing that leaves early beats it, and
    // below them elsewhere. A logarithmic axis wants the exponent.
    let names = of_static.iter().zip(&alone).zip(&spreads).map(|((of, ms), spread)| {
        let beaten = beaten(&reached, (*ms, spread.mean));
        let side = if beaten { -1.0 } else { 1.0 };
        Annotation::new()
            .text(&of.name)
            .x(ms.log10())
            .y(spread.mean + side * bar(spread))
            .y_anchor(if beaten { Anchor::Top } else { Anchor::Bottom })
            .y_shift(side * 7.0)
            .show_arrow(false)
            .background_color("rgba(255, 255, 255, 0.8)")
    });
    let times = reached.iter().map(|(ms, _)| *ms).chain(alone.iter().copied());
    plot.set_layout(
        layout()
            .annotations(names.collect())
            .x_axis(log_axis("milliseconds for one image, one thread", times))
            .y_axis(axis("accuracy on test, %"))
            .legend(legend()),
    );
    Ok(plot)
}
