//! How all figures look.
//!
//! Colours are those of Okabe and Ito (<https://jfly.uni-koeln.de/color/>), which colour-blind readers can
//! tell apart; lines differ in dash as well.

use plotly::Layout;
use plotly::color::NamedColor;
use plotly::common::{Font, Orientation, Title};
use plotly::layout::{Axis, AxisType, Legend, Margin};

/// One colour per exit.
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B00", "#B8A800"];
pub(super) const GREY: &str = "#888888";

/// Size of static images and of plots in notebooks, in pixels.
pub(super) const WIDTH: usize = 760;
pub(super) const HEIGHT: usize = 460;

/// The colour of an exit, from 0.
pub(super) fn colour(exit: usize) -> &'static str {
    COLOURS[exit % COLOURS.len()]
}

pub(super) fn layout() -> Layout {
    Layout::new()
        .width(WIDTH)
        .height(HEIGHT)
        .margin(Margin::new().left(70).right(20).top(70).bottom(60))
        .font(Font::new().size(13).color("#222222"))
        .paper_background_color(NamedColor::White)
        .plot_background_color(NamedColor::White)
}

pub(super) fn axis(title: &str) -> Axis {
    Axis::new()
        .title(Title::with_text(title))
        .grid_color("#e5e5e5")
        .zero_line(false)
        .show_line(true)
        .line_color("#444444")
}

/// A logarithmic axis for these values, its ticks written out: 0.0001, not 100µ.
pub(super) fn log_axis(title: &str, values: impl Iterator<Item = f64>) -> Axis {
    let (least, most) = values
        .filter(|x| x.is_finite() && *x > 0.0)
        .fold((f64::MAX, f64::MIN_POSITIVE), |(a, b), x| (a.min(x), b.max(x)));
    // Powers of ten, and between them as many as there is room for.
    let decades = (most / least).log10();
    let steps: &[f64] = match decades {
        d if d < 1.2 => &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
        d if d < 3.5 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let ticks: Vec<f64> = (-12..12)
        .flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)))
        .filter(|tick| (least / 2.0..most * 2.0).contains(tick))
        .collect();
    let label = |tick: &f64| match tick {
        // Rounded, so that 0.1 + 0.2 stays out of figures.
        tick if *tick >= 1e-5 => format!("{}", (tick * 1e9).round() / 1e9),
        tick => format!("{tick:e}"),
    };
    axis(title).type_(AxisType::Log).tick_text(ticks.iter().map(label).collect()).tick_values(ticks)
}

/// Below the plot, where it covers nothing.
pub(super) fn legend() -> Legend {
    Legend::new().orientation(Orientation::Horizontal).x(0.0).y(-0.24)
}

pub(super) fn exit_name(exit: usize, exits: usize) -> String {
    if exits == 1 { "baseline".to_string() } else { format!("exit {}", exit + 1) }
}
