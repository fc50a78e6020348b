//! What changes when images do.

use super::style::{GREY, axis, colour, layout, legend};
use crate::experiments::Shifted;
use plotly::common::{DashType, Line, Marker, MarkerSymbol, Mode};
use plotly::{Plot, Scatter};

/// A quantity of corrupted images against the severity, a line for each corruption, and a grey line at `promised`, if
/// there is one.
pub fn by_severity(all: &[Shifted], title: &str, promised: Option<f64>, of: fn(&Shifted) -> f64) -> Plot {
    const SYMBOLS: [MarkerSymbol; 6] = [
        MarkerSymbol::Circle,
        MarkerSymbol::Square,
        MarkerSymbol::Diamond,
        MarkerSymbol::TriangleUp,
        MarkerSymbol::Cross,
        MarkerSymbol::X,
    ];
    let mut plot = Plot::new();
    for (i, line) in all.chunk_by(|a, b| a.what == b.what).enumerate() {
        let severities = line.iter().map(|shifted| shifted.severity).collect();
        plot.add_trace(
            Scatter::new(severities, line.iter().map(of).collect())
                .name(&line[0].what)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour(i)).size(8).symbol(SYMBOLS[i % SYMBOLS.len()].clone()))
                .line(Line::new().color(colour(i)).width(2.0)),
        );
    }
    if let Some(promised) = promised {
        plot.add_trace(
            Scatter::new(vec![0, 5], vec![promised; 2])
                .name("promised for images like those that chose")
                .mode(Mode::Lines)
                .line(Line::new().color(GREY).width(1.0).dash(DashType::Dash)),
        );
    }
    plot.set_layout(layout().x_axis(axis("severity of the corruption")).y_axis(axis(title)).legend(legend()));
    plot
}
