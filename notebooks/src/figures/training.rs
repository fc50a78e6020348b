//! How training went.

use super::style::{axis, colour, exit_name, framed, line, log_axis, panels, stroke};
use branchynet::training::{Epoch, Scores};
use plotly::Plot;
use plotly::common::{DashType, Mode};

/// Loss (left) and accuracy (right) of every exit after each epoch: validation drawn through,
/// training dotted.
pub fn training_curves(history: &[Epoch]) -> Plot {
    let mut plot = Plot::new();
    let exits = history.first().map_or(0, |epoch| epoch.train.loss.len());
    let epochs: Vec<usize> = history.iter().map(|epoch| epoch.epoch).collect();
    let mode = || if epochs.len() == 1 { Mode::Markers } else { Mode::Lines };
    type Of = fn(&Epoch) -> &Scores;
    let splits: [(_, Of, _, _); 2] = [
        ("train", |epoch| &epoch.train, DashType::Dot, 1.5),
        ("validation", |epoch| &epoch.validation, DashType::Solid, 2.0),
    ];
    for exit in 0..exits {
        for (split, scores, dash, width) in &splits {
            let loss = history.iter().map(|epoch| scores(epoch).loss[exit]).collect();
            let accuracy = history.iter().map(|epoch| scores(epoch).accuracy[exit] * 100.0).collect();
            let name = format!("{}, {split}", exit_name(exit, exits));
            let trace = |values: Vec<f64>| {
                let stroke = stroke(colour(exit), *width).dash(dash.clone());
                line(&name, epochs.clone(), values, stroke).mode(mode()).legend_group(&name)
            };
            plot.add_trace(trace(loss));
            plot.add_trace(trace(accuracy).x_axis("x2").y_axis("y2").show_legend(false));
        }
    }
    let scores = history.iter().flat_map(|epoch| [&epoch.train, &epoch.validation]);
    let losses = scores.flat_map(|scores| scores.loss.iter().copied());
    let layout = framed(axis("epoch"), log_axis("cross-entropy, nats (logarithmic)", losses));
    plot.set_layout(layout.grid(panels(1, 2)).x_axis2(axis("epoch")).y_axis2(axis("accuracy, %")));
    plot
}
