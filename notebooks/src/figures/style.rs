//! How all figures look.
//!
//! Colours are those of Okabe and Ito (<https://jfly.uni-koeln.de/color/>), which colour-blind readers can
//! tell apart; lines differ in dash as well.

use branchynet_runs::Spread;
use plotly::color::NamedColor;
use plotly::common::{
    DashType, ErrorData, ErrorType, Fill, Font, HoverInfo, Line, Marker, MarkerSymbol, Mode, Orientation,
    Title,
};
use plotly::layout::{Annotation, Axis, AxisType, GridPattern, LayoutGrid, Legend, Margin};
use plotly::{Layout, Plot, Scatter};
use serde::Serialize;
use serde_json::{Value, json};

/// One colour per exit.
const COLOURS: [&str; 8] =
    ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4B00", "#B8A800"];
pub(crate) const GREY: &str = "#888888";
/// Text.
pub(crate) const INK: &str = "#222222";

/// Size of static images and of plots in notebooks, in pixels.
pub(crate) const WIDTH: usize = 760;
pub(crate) const HEIGHT: usize = 460;

/// Space for title and subtitle, in pixels.
pub(crate) const TOP: usize = 70;
/// Characters of a subtitle in one line.
const SUBTITLE: usize = 130;

/// The colour of an exit, from 0.
pub(crate) fn colour(exit: usize) -> &'static str {
    COLOURS[exit % COLOURS.len()]
}

/// The symbol of a series, from 0.
pub(crate) fn symbol(series: usize) -> MarkerSymbol {
    const SYMBOLS: [MarkerSymbol; 6] = [
        MarkerSymbol::Circle,
        MarkerSymbol::Square,
        MarkerSymbol::Diamond,
        MarkerSymbol::TriangleUp,
        MarkerSymbol::Cross,
        MarkerSymbol::X,
    ];
    SYMBOLS[series % SYMBOLS.len()].clone()
}

/// A solid line.
pub(crate) fn stroke(colour: &str, width: f64) -> Line {
    Line::new().color(colour.to_string()).width(width)
}

/// A dot of this size, in pixels.
pub(crate) fn dot(colour: &str, size: usize, symbol: MarkerSymbol) -> Marker {
    Marker::new().color(colour.to_string()).size(size).symbol(symbol)
}

/// What a trace has at its points.
pub(crate) trait Datum: Serialize + Clone + 'static {}
impl<T: Serialize + Clone + 'static> Datum for T {}

/// A trace of a line.
pub(crate) fn line<X: Datum, Y: Datum>(name: &str, x: Vec<X>, y: Vec<Y>, line: Line) -> Box<Scatter<X, Y>> {
    Scatter::new(x, y).name(name).mode(Mode::Lines).line(line)
}

/// A trace of points.
pub(crate) fn points<X: Datum, Y: Datum>(
    name: &str,
    x: Vec<X>,
    y: Vec<Y>,
    marker: Marker,
) -> Box<Scatter<X, Y>> {
    Scatter::new(x, y).name(name).mode(Mode::Markers).marker(marker)
}

/// A trace of measured points that a line connects.
pub(crate) fn measured<X: Datum, Y: Datum>(
    name: &str,
    x: Vec<X>,
    y: Vec<Y>,
    colour: &str,
    symbol: MarkerSymbol,
) -> Box<Scatter<X, Y>> {
    line(name, x, y, stroke(colour, 2.0)).mode(Mode::LinesMarkers).marker(dot(colour, 9, symbol))
}

/// Bars at points that reach so far up and down.
pub(crate) fn bars(deviations: Vec<f64>) -> ErrorData {
    ErrorData::new(ErrorType::Data).array(deviations)
}

/// A colour as light as the area of a band.
fn light(colour: &str) -> String {
    let part = |at: usize| u8::from_str_radix(&colour[at..at + 2], 16).unwrap_or(0);
    format!("rgba({}, {}, {}, 0.2)", part(1), part(3), part(5))
}

/// The axes of a panel: x and y.
pub(crate) type Axes = (&'static str, &'static str);
/// Those of the only or first panel, and of the second.
pub(crate) const FIRST: Axes = ("x", "y");
pub(crate) const SECOND: Axes = ("x2", "y2");

/// The area between two lines over `x`, in the panel with these axes.
pub(crate) fn area(plot: &mut Plot, x: &[f64], [low, high]: [Vec<f64>; 2], colour: &str, axes: Axes) {
    let edge = |y: Vec<f64>| {
        let edge = line("", x.to_vec(), y, stroke(colour, 0.0)).show_legend(false);
        edge.hover_info(HoverInfo::Skip).x_axis(axes.0).y_axis(axes.1)
    };
    plot.add_trace(edge(low));
    // To the trace before it in the same panel.
    plot.add_trace(edge(high).fill(Fill::ToNextY).fill_color(light(colour)));
}

/// A quantity of several runs over `x`: the mean with an area of one standard deviation, and each run
/// thinly; a single run is a line. In the legend where `named`.
pub(crate) fn band(plot: &mut Plot, name: &str, x: &[f64], runs: &[Vec<f64>], named: bool, axes: Axes) {
    let at = |i: usize| Spread::of(&runs.iter().map(|run| run[i]).collect::<Vec<_>>());
    let spreads: Vec<Spread> = (0..x.len()).map(at).collect();
    let trace = |y: Vec<f64>, width: f64, opacity: f64, named: bool| {
        let trace = line(name, x.to_vec(), y, stroke(colour(0), width)).opacity(opacity);
        trace.legend_group(name).show_legend(named).x_axis(axes.0).y_axis(axes.1)
    };
    if runs.len() > 1 {
        let edge = |side: f64| spreads.iter().map(|s| s.mean + side * s.deviation).collect();
        area(plot, x, [edge(-1.0), edge(1.0)], colour(0), axes);
        runs.iter().for_each(|run| plot.add_trace(trace(run.clone(), 0.7, 0.35, false)));
    }
    plot.add_trace(trace(spreads.iter().map(|spread| spread.mean).collect(), 2.0, 1.0, named));
}

/// How far the bar at a mean reaches: one standard deviation, which a single run does not have (NaN).
pub(crate) fn bar(spread: &Spread) -> f64 {
    spread.deviation.max(0.0)
}

/// Whether one of `points`, each (cost, accuracy), is as cheap and as accurate as this one, and better in one of both.
pub(crate) fn beaten(points: &[(f64, f64)], (cost, accuracy): (f64, f64)) -> bool {
    points.iter().any(|&(c, a)| c <= cost && a >= accuracy && (c < cost || a > accuracy))
}

/// What the paper's figures show, for the background.
pub(crate) fn paper<X: Datum, Y: Datum>(name: &str, x: Vec<X>, y: Vec<Y>) -> Box<Scatter<X, Y>> {
    measured(name, x, y, GREY, MarkerSymbol::Circle)
        .marker(dot(GREY, 6, MarkerSymbol::Circle))
        .line(stroke(GREY, 1.0).dash(DashType::Dot))
}

/// The layout of a figure with these axes, and a legend below it.
pub(crate) fn framed(x: Axis, y: Axis) -> Layout {
    layout().x_axis(x).y_axis(y).legend(legend())
}

/// Panels in so many rows and columns.
pub(crate) fn panels(rows: usize, columns: usize) -> LayoutGrid {
    LayoutGrid::new().rows(rows).columns(columns).pattern(GridPattern::Independent)
}

/// A text on a figure, without an arrow.
pub(crate) fn note(text: &str, x: f64, y: f64) -> Annotation {
    Annotation::new().text(text).x(x).y(y).show_arrow(false)
}

pub(crate) fn layout() -> Layout {
    Layout::new()
        .width(WIDTH)
        .height(HEIGHT)
        .margin(Margin::new().left(70).right(20).top(TOP).bottom(60))
        .font(Font::new().size(13).color(INK))
        .paper_background_color(NamedColor::White)
        .plot_background_color(NamedColor::White)
}

/// Title and subtitle above a plot. They begin at the left: in the middle they lie under JupyterLab's buttons. The
/// subtitle takes as many lines as it needs, and the figure grows with it.
pub(crate) fn entitle(layout: &mut Value, title: &str, subtitle: &str) {
    let mut lines = vec![String::new()];
    for part in subtitle.split_inclusive("; ") {
        match lines.last_mut() {
            Some(line) if line.len() + part.len() <= SUBTITLE || line.is_empty() => line.push_str(part),
            _ => lines.push(part.to_string()),
        }
    }
    let more = 21 * (lines.len() as u64 - 1);
    let text = format!("{title}<br><sub>{}</sub>", lines.join("<br>"));
    let (font, pad) = (json!({ "size": 16 }), json!({ "t": 34 }));
    layout["title"] = json!({ "text": text, "font": font, "x": 0.05, "y": 1, "yanchor": "top", "pad": pad });
    layout["margin"]["t"] = (layout["margin"]["t"].as_u64().unwrap_or(TOP as u64) + more).into();
    layout["height"] = (layout["height"].as_u64().unwrap_or(HEIGHT as u64) + more).into();
}

pub(crate) fn axis(title: &str) -> Axis {
    Axis::new()
        .title(Title::with_text(title))
        .grid_color("#e5e5e5")
        .zero_line(false)
        .show_line(true)
        .line_color("#444444")
}

/// A logarithmic axis for these values, its ticks written out: 0.0001, not 100µ.
pub(crate) fn log_axis(title: &str, values: impl Iterator<Item = f64>) -> Axis {
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
pub(crate) fn legend() -> Legend {
    Legend::new().orientation(Orientation::Horizontal).x(0.0).y(-0.24)
}

pub(crate) fn exit_name(exit: usize, exits: usize) -> String {
    if exits == 1 { "baseline".to_string() } else { format!("exit {}", exit + 1) }
}
