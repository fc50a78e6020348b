//! How training went.

use super::style::{axis, colour, exit_name, layout, legend, log_axis};
use branchynet::training::{Epoch, Scores};
use plotly::common::{DashType, Line, Mode};
use plotly::layout::{GridPattern, LayoutGrid};
use plotly::{Plot, Scatter};

/// Loss (left) and accuracy (right) of every exit after each epoch: validation drawn through,
/// training dotted.
pub fn training_curves(history: &[Epoch]) -> Plot {
    let mut plot = Plot::new();
    let exits = history.first().map_or(0, |epoch| epoch.train.loss.len());
    let epochs: Vec<usize> = history.iter().map(|epoch| epoch.epoch).collect();
    for exit in 0..exits {
        let name = exit_name(exit, exits);
        type Of = fn(&Epoch) -> &Scores;
        let splits: [(_, Of, _, _); 2] = [
            ("train", |epoch| &epoch.train, DashType::Dot, 1.5),
            ("validation", |epoch| &epoch.validation, DashType::Solid, 2.0),
        ];
        for (split, scores, dash, width) in splits {
            let loss = history.iter().map(|epoch| scores(epoch).loss[exit]).collect();
            let accuracy = history.iter().map(|epoch| scores(epoch).accuracy[exit] * 100.0).collect();
            let trace = |values: Vec<f64>| {
                Scatter::new(epochs.clone(), values)
                    .mode(if epochs.len() == 1 { Mode::Markers } else { Mode::Lines })
                    .name(format!("{name}, {split}"))
                    .legend_group(format!("{name}, {split}"))
                    .line(Line::new().color(colour(exit)).dash(dash.clone()).width(width))
            };
            plot.add_trace(trace(loss));
            plot.add_trace(trace(accuracy).x_axis("x2").y_axis("y2").show_legend(false));
        }
    }
    let scores = history.iter().flat_map(|epoch| [&epoch.train, &epoch.validation]);
    let losses = scores.flat_map(|scores| scores.loss.iter().copied());
    plot.set_layout(
        layout()
            .grid(LayoutGrid::new().rows(1).columns(2).pattern(GridPattern::Independent))
            .x_axis(axis("epoch"))
            .y_axis(log_axis("cross-entropy, nats (logarithmic)", losses))
            .x_axis2(axis("epoch"))
            .y_axis2(axis("accuracy, %"))
            .legend(legend()),
    );
    plot
}
