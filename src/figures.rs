//! The figures: functions from results to plots, and where they go.
//!
//! Colours are those of Okabe and Ito (<https://jfly.uni-koeln.de/color/>), which colour-blind readers can tell apart; lines
//! differ in dash as well.

use crate::data::{Role, Split, project_dir, write_atomically};
use crate::error::bail;
use crate::latency::BatchTime;
use crate::network::Network;
use crate::paper::{Paper, Point};
use crate::record::{ExitRecord, Outcome};
use crate::train::{Epoch, Scores};
use crate::{Result, notebook};
use plotly::color::{NamedColor, Rgb};
use plotly::common::{
    Anchor, ColorScale, ColorScaleElement, DashType, Fill, Font, Line, LineShape, Marker,
    MarkerSymbol, Mode, Pattern, PatternShape, TickMode, Title,
};
use plotly::layout::{
    Annotation, Axis, AxisType, BarMode, GridPattern, LayoutGrid, Legend, Margin,
};
use plotly::{Bar, HeatMap, Image, Layout, Plot, Scatter};

/// One colour an exit.
const COLOURS: [&str; 4] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
const GREY: &str = "#888888";

/// Size of static images and of plots in notebooks, in pixels.
const WIDTH: usize = 760;
const HEIGHT: usize = 460;

fn layout(title: &str) -> Layout {
    Layout::new()
        .title(Title::with_text(title).font(Font::new().size(16)))
        .width(WIDTH)
        .height(HEIGHT)
        .margin(Margin::new().left(70).right(20).top(70).bottom(60))
        .font(Font::new().size(13).color("#222222"))
        .paper_background_color(NamedColor::White)
        .plot_background_color(NamedColor::White)
}

/// A title over a smaller line that says where the numbers come from.
pub fn title(title: &str, source: &str) -> String {
    format!("{title}<br><sub>{source}</sub>")
}

fn axis(title: &str) -> Axis {
    Axis::new()
        .title(Title::with_text(title))
        .grid_color("#e5e5e5")
        .zero_line(false)
        .show_line(true)
        .line_color("#444444")
}

/// Below the plot, where it covers nothing.
fn legend() -> Legend {
    Legend::new()
        .orientation(plotly::common::Orientation::Horizontal)
        .x(0.0)
        .y(-0.24)
}

fn exit_name(exit: usize, exits: usize) -> String {
    if exits == 1 {
        "baseline".to_string()
    } else {
        format!("exit {}", exit + 1)
    }
}

/// Accuracy against milliseconds a sample (paper, figure 3): the outcomes of a sweep over
/// thresholds, those chosen (stars), the baseline (diamond; milliseconds, %), and the paper's own
/// points in grey. The time axis is logarithmic: the paper's GPU of 2016 and this processor are far
/// apart.
pub fn accuracy_against_time(
    title: &str,
    (sweep_name, sweep): (&str, &[Outcome]),
    chosen: &[(&str, &Outcome)],
    baseline: Point,
    paper: &Paper,
) -> Plot {
    let mut plot = Plot::new();
    let line = |points: Vec<Point>| points.into_iter().unzip::<f64, f64, Vec<f64>, Vec<f64>>();
    let percent = |outcome: &Outcome| (outcome.cost, outcome.accuracy() * 100.0);
    let mut grey = paper.curve.to_vec();
    grey.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (x, y) = line(grey);
    plot.add_trace(
        Scatter::new(x, y)
            .name("paper (GPU, read off its figure)")
            .mode(Mode::LinesMarkers)
            .line(Line::new().color(GREY).dash(DashType::Dot).width(1.0))
            .marker(Marker::new().color(GREY).size(7)),
    );
    plot.add_trace(
        Scatter::new(vec![paper.baseline.0], vec![paper.baseline.1])
            .name("paper's baseline")
            .mode(Mode::Markers)
            .marker(
                Marker::new()
                    .color(GREY)
                    .size(11)
                    .symbol(MarkerSymbol::DiamondOpen),
            ),
    );
    let (x, y) = line(sweep.iter().map(percent).collect());
    plot.add_trace(
        Scatter::new(x, y)
            .name(sweep_name)
            .mode(Mode::Lines)
            .line(Line::new().color(COLOURS[0]).width(2.0)),
    );
    plot.add_trace(
        Scatter::new(vec![baseline.0], vec![baseline.1])
            .name("baseline, measured")
            .mode(Mode::Markers)
            .marker(
                Marker::new()
                    .color(COLOURS[1])
                    .size(12)
                    .symbol(MarkerSymbol::Diamond),
            ),
    );
    for (i, (name, outcome)) in chosen.iter().enumerate() {
        let (x, y) = percent(outcome);
        let colour = COLOURS[(i + 2) % COLOURS.len()];
        plot.add_trace(
            Scatter::new(vec![x], vec![y])
                .name(*name)
                .mode(Mode::Markers)
                .marker(
                    Marker::new()
                        .color(colour)
                        .size(16)
                        .symbol(MarkerSymbol::Star)
                        .line(Line::new().color("#222222").width(1.0)),
                ),
        );
    }
    // 1, 2 and 5 in every decade from a microsecond to a second.
    let ticks: Vec<f64> = (-3..3)
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|x| x * 10f64.powi(decade)))
        .map(|x| (x * 1e6).round() / 1e6)
        .collect();
    plot.set_layout(
        layout(title)
            .x_axis(
                axis("time per sample, ms (logarithmic)")
                    .type_(AxisType::Log)
                    .tick_values(ticks.clone())
                    .tick_text(ticks.iter().map(f64::to_string).collect()),
            )
            .y_axis(axis("accuracy, %"))
            .legend(legend()),
    );
    plot
}

/// Microseconds an image against the size of a batch, with early exits and without.
pub fn time_by_batch(title: &str, times: &[BatchTime]) -> Plot {
    let sizes: Vec<f64> = times.iter().map(|time| time.batch as f64).collect();
    let mut plot = Plot::new();
    let mut add = |name: &str, colour: &'static str, symbol, which: usize| {
        let each = times.iter().map(|time| time.per_image()[which]);
        plot.add_trace(
            Scatter::new(sizes.clone(), each.collect())
                .name(name)
                .mode(Mode::LinesMarkers)
                .marker(Marker::new().color(colour).size(9).symbol(symbol))
                .line(Line::new().color(colour).width(2.0)),
        );
    };
    add("baseline", "#000000", MarkerSymbol::Diamond, 0);
    add("early exit", COLOURS[0], MarkerSymbol::Circle, 1);
    let ticks = sizes.iter().map(f64::to_string).collect();
    let each = times.iter().flat_map(BatchTime::per_image);
    let (least, most) = each.fold((f64::MAX, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
    let steps: Vec<f64> = (-3..9)
        .flat_map(|decade| [1.0, 2.0, 3.0, 5.0, 7.0].map(|step| step * 10f64.powi(decade)))
        .filter(|tick| (least / 2.0..most * 2.0).contains(tick))
        .collect();
    let labels = steps
        .iter()
        .map(|x| format!("{}", (x * 1e3).round() / 1e3))
        .collect();
    plot.set_layout(
        layout(title)
            .x_axis(
                axis("images a batch")
                    .type_(AxisType::Log)
                    .tick_values(sizes)
                    .tick_text(ticks),
            )
            .y_axis(
                axis("µs an image (logarithmic)")
                    .type_(AxisType::Log)
                    .tick_values(steps)
                    .tick_text(labels),
            )
            .legend(legend()),
    );
    plot
}

/// Loss (left) and accuracy (right) of every exit after each epoch: validation drawn through,
/// training dotted.
pub fn training_curves(title: &str, history: &[Epoch]) -> Plot {
    let mut plot = Plot::new();
    let exits = history.first().map_or(0, |epoch| epoch.train.loss.len());
    let epochs: Vec<usize> = history.iter().map(|epoch| epoch.epoch).collect();
    for exit in 0..exits {
        let name = exit_name(exit, exits);
        type Of = fn(&Epoch) -> &Scores;
        let splits: [(_, Of, _, _); 2] = [
            ("train", |epoch| &epoch.train, DashType::Dot, 1.5),
            (
                "validation",
                |epoch| &epoch.validation,
                DashType::Solid,
                2.0,
            ),
        ];
        for (split, scores, dash, width) in splits {
            let loss = history
                .iter()
                .map(|epoch| scores(epoch).loss[exit])
                .collect();
            let accuracy = history
                .iter()
                .map(|epoch| scores(epoch).accuracy[exit] * 100.0)
                .collect();
            let trace = |values: Vec<f64>| {
                Scatter::new(epochs.clone(), values)
                    .mode(if epochs.len() == 1 {
                        Mode::Markers
                    } else {
                        Mode::Lines
                    })
                    .name(format!("{name}, {split}"))
                    .legend_group(format!("{name}, {split}"))
                    .line(
                        Line::new()
                            .color(COLOURS[exit % COLOURS.len()])
                            .dash(dash.clone())
                            .width(width),
                    )
            };
            plot.add_trace(trace(loss));
            plot.add_trace(trace(accuracy).x_axis("x2").y_axis("y2").show_legend(false));
        }
    }
    plot.set_layout(
        layout(title)
            .grid(
                LayoutGrid::new()
                    .rows(1)
                    .columns(2)
                    .pattern(GridPattern::Independent),
            )
            .x_axis(axis("epoch"))
            .y_axis(axis("cross-entropy, nats (logarithmic)").type_(AxisType::Log))
            .x_axis2(axis("epoch"))
            .y_axis2(axis("accuracy, %"))
            .legend(legend()),
    );
    plot
}

/// How sure each exit is: the distribution of its entropy over the samples of a record, right and
/// wrong answers apart.
pub fn entropy_distribution<R: Role>(title: &str, record: &ExitRecord<R>) -> Plot {
    // Decades from 1e-8 to 10 nats in quarters; what is smaller counts in the first bin.
    const BINS: usize = 36;
    let bin = |entropy: f64| (((entropy.max(1e-8).log10() + 8.0) * 4.0) as usize).min(BINS - 1);
    let edges: Vec<f64> = (0..=BINS)
        .map(|i| 10f64.powf(i as f64 / 4.0 - 8.0))
        .collect();
    let mut plot = Plot::new();
    for exit in 0..record.exits() {
        for (right, dash) in [(true, DashType::Solid), (false, DashType::Dot)] {
            let mut counts = vec![0usize; BINS + 1];
            for (reading, &label) in record.readings(exit).iter().zip(record.labels()) {
                if (reading.label == usize::from(label)) == right {
                    counts[bin(reading.entropy)] += 1;
                }
            }
            let shares: Vec<f64> = counts
                .iter()
                .map(|&n| n as f64 / record.len() as f64 * 100.0)
                .collect();
            let name = format!(
                "{}, {}",
                exit_name(exit, record.exits()),
                if right { "right" } else { "wrong" }
            );
            plot.add_trace(
                Scatter::new(edges.clone(), shares)
                    .name(name)
                    .mode(Mode::Lines)
                    .line(
                        Line::new()
                            .color(COLOURS[exit % COLOURS.len()])
                            .dash(dash)
                            .shape(LineShape::Hv)
                            .width(2.0),
                    ),
            );
        }
    }
    plot.set_layout(
        layout(title)
            .x_axis(
                axis("entropy of the softmax, nats (logarithmic; 1e-8 and below in the first bin)")
                    .type_(AxisType::Log)
                    .dtick(1.0)
                    .exponent_format(plotly::common::ExponentFormat::Power),
            )
            .y_axis(
                axis(&format!("{} samples in bin, % (logarithmic)", R::NAME))
                    .type_(AxisType::Log)
                    .dtick(1.0),
            )
            .legend(legend()),
    );
    plot
}

/// Who leaves where, and the accuracy that goes with it: for two exits against the threshold, for
/// more, which have several, against the mean time of the outcomes of a Pareto front.
pub fn exit_shares(title: &str, outcomes: &[Outcome]) -> Plot {
    let mut plot = Plot::new();
    let exits = outcomes.first().map_or(0, |o| o.leaving.len());
    let by_threshold = exits == 2;
    let position = |o: &Outcome| {
        if by_threshold {
            o.thresholds[0]
        } else {
            o.cost
        }
    };
    let inside: Vec<&Outcome> = outcomes
        .iter()
        .filter(|o| !by_threshold || (position(o) > 1e-7 && position(o).is_finite()))
        .collect();
    let x: Vec<f64> = inside.iter().map(|o| position(o)).collect();
    for exit in 0..exits {
        let shares = inside.iter().map(|o| o.shares()[exit] * 100.0).collect();
        plot.add_trace(
            Scatter::new(x.clone(), shares)
                .name(format!("leave at exit {}", exit + 1))
                .mode(Mode::Lines)
                .stack_group("all")
                .fill(Fill::ToNextY)
                .line(Line::new().color(COLOURS[exit % COLOURS.len()]).width(0.5)),
        );
    }
    let accuracy = inside.iter().map(|o| o.accuracy() * 100.0).collect();
    plot.add_trace(
        Scatter::new(x, accuracy)
            .name("accuracy (right axis)")
            .mode(Mode::Lines)
            .y_axis("y2")
            .line(Line::new().color("#000000").width(2.0)),
    );
    let x_axis = if by_threshold {
        axis("threshold T, nats (logarithmic)")
            .type_(AxisType::Log)
            .dtick(1.0)
            .exponent_format(plotly::common::ExponentFormat::Power)
    } else {
        axis("mean time per sample, ms, along the front of thresholds")
    };
    plot.set_layout(
        layout(title)
            .margin(Margin::new().left(70).right(75).top(70).bottom(60))
            .x_axis(x_axis)
            .y_axis(axis("samples, %").range(vec![0, 100]))
            .y_axis2(
                axis("accuracy, %")
                    .tick_mode(TickMode::Auto)
                    .overlaying("y")
                    .side(plotly::common::AxisSide::Right)
                    .show_grid(false),
            )
            .legend(legend()),
    );
    plot
}

/// For every exit what those that leave there at these thresholds are taken for: the share in % of
/// each class (rows) that is answered with each class (columns). Shares of 4 % and more off the
/// diagonal are written out.
pub fn confusion<R: Role>(
    title: &str,
    record: &ExitRecord<R>,
    thresholds: &[f64],
    classes: &[&str],
) -> Result<Plot> {
    let answers = record.answers(thresholds)?;
    let (n, exits) = (classes.len(), record.exits());
    let mut plot = Plot::new();
    let mut annotations = Vec::new();
    let panel = |i: usize| {
        if i == 0 {
            String::new()
        } else {
            (i + 1).to_string()
        }
    };
    for exit in 0..exits {
        let mut counts = vec![vec![0usize; n]; n];
        for (answer, &label) in answers.iter().zip(record.labels()) {
            if answer.exit == exit {
                let cell = counts.get_mut(usize::from(label));
                match cell.and_then(|row| row.get_mut(answer.label)) {
                    Some(count) => *count += 1,
                    None => bail!("{n} class names, but a label is {label}"),
                }
            }
        }
        let share = |row: &Vec<usize>| -> Vec<f64> {
            let all = row.iter().sum::<usize>().max(1) as f64;
            row.iter().map(|&n| n as f64 / all * 100.0).collect()
        };
        let shares: Vec<Vec<f64>> = counts.iter().map(share).collect();
        let (x, y) = (format!("x{}", panel(exit)), format!("y{}", panel(exit)));
        let leaving: usize = counts.iter().flatten().sum();
        let heading = Annotation::new()
            .text(format!("exit {}: {leaving} samples", exit + 1))
            .x_ref(format!("{x} domain"))
            .y_ref(format!("{y} domain"))
            .x(0.5)
            .y(1.02)
            .y_anchor(Anchor::Bottom)
            .show_arrow(false);
        annotations.push(heading);
        for (row, shares) in shares.iter().enumerate() {
            for (column, share) in shares.iter().enumerate() {
                if row != column && *share >= 4.0 {
                    let number = Annotation::new()
                        .text(format!("{share:.0}"))
                        .x_ref(x.clone())
                        .y_ref(y.clone())
                        .x(column as f64)
                        .y(row as f64)
                        .show_arrow(false)
                        .font(Font::new().size(9));
                    annotations.push(number);
                }
            }
        }
        let names: Vec<String> = classes.iter().map(ToString::to_string).collect();
        plot.add_trace(
            HeatMap::new(names.clone(), names, shares)
                .color_scale(ColorScale::Vector(vec![
                    ColorScaleElement(0.0, "#ffffff".to_string()),
                    ColorScaleElement(0.3, "#9ecae1".to_string()),
                    ColorScaleElement(1.0, "#08519c".to_string()),
                ]))
                .zmin(0.0)
                .zmax(100.0)
                .x_axis(x)
                .y_axis(y)
                .show_scale(exit + 1 == exits)
                .color_bar(
                    plotly::common::ColorBar::new()
                        .title(Title::with_text("% of class"))
                        .thickness(12),
                ),
        );
    }
    let axes = |i: usize| {
        let across = axis("answer").tick_angle(-90.0).show_grid(false);
        let down = axis(if i == 0 { "label" } else { "" })
            .range(vec![n as f64 - 0.5, -0.5])
            .show_tick_labels(i == 0)
            .show_grid(false);
        (across, down)
    };
    let ((x1, y1), (x2, y2), (x3, y3)) = (axes(0), axes(1), axes(2));
    plot.set_layout(
        layout(title)
            .width(WIDTH + 200)
            .margin(Margin::new().left(100).right(20).top(110).bottom(110))
            .grid(
                LayoutGrid::new()
                    .rows(1)
                    .columns(exits)
                    .pattern(GridPattern::Independent),
            )
            .x_axis(x1)
            .y_axis(y1)
            .x_axis2(x2)
            .y_axis2(y2)
            .x_axis3(x3)
            .y_axis3(y3)
            .annotations(annotations),
    );
    Ok(plot)
}

/// Where the multiply-accumulates of a network go: for every exit what a sample that leaves there has
/// cost, by segments of the trunk and branches passed on the way. The dotted line is the trunk
/// alone, the baseline.
pub fn costs(title: &str, network: &Network) -> Plot {
    let (costs, exits) = (network.costs(), network.exits());
    let names: Vec<String> = (1..=exits).map(|exit| format!("exit {exit}")).collect();
    let mut plot = Plot::new();
    let mut add = |name: String, from: usize, macs: usize, colour: &str, branch: bool| {
        let bars = (0..exits).map(|exit| if exit >= from { macs as f64 / 1e6 } else { 0.0 });
        let pattern = if branch {
            PatternShape::LeftDiagonalLine
        } else {
            PatternShape::None
        };
        plot.add_trace(
            Bar::new(names.clone(), bars.collect()).name(name).marker(
                Marker::new()
                    .color(colour.to_string())
                    .pattern(Pattern::new().shape(pattern)),
            ),
        );
    };
    let mut before = 0;
    for (i, cost) in costs.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        add(
            format!("trunk, segment {}", i + 1),
            i,
            cost.trunk_macs - before,
            colour,
            false,
        );
        if cost.branch_macs > 0 {
            add(
                format!("branch {}", i + 1),
                i,
                cost.branch_macs,
                colour,
                true,
            );
        }
        before = cost.trunk_macs;
    }
    let baseline = before as f64 / 1e6;
    plot.add_trace(
        Scatter::new(names.clone(), vec![baseline; exits])
            .name("baseline")
            .mode(Mode::Lines)
            .line(Line::new().color("#000000").dash(DashType::Dot).width(2.0)),
    );
    plot.set_layout(
        layout(title)
            .bar_mode(BarMode::Stack)
            .x_axis(axis("a sample leaves at"))
            .y_axis(axis("million multiply-accumulates"))
            .legend(legend()),
    );
    plot
}

/// Samples of a record and their images: for every exit a row of up to `count` that leave there at
/// these thresholds. Early exits show the samples they were surest of, the last one those that the
/// first exit was least sure of. Under each image its label and, where the answer was wrong, that
/// answer.
///
/// `split` may be missing: then the plot says so. Fails where it is not what was recorded.
pub fn gallery<R: Role>(
    title: &str,
    split: Option<&Split<R>>,
    record: &ExitRecord<R>,
    thresholds: &[f64],
    count: usize,
    classes: &[&str],
) -> Result<Plot> {
    let Some(split) = split else {
        let text = Annotation::new()
            .text("the images are not here; `make datasets` fetches them")
            .x(0.5)
            .y(0.5)
            .x_ref("paper")
            .y_ref("paper")
            .show_arrow(false);
        let hidden = || Axis::new().visible(false);
        let mut plot = Plot::new();
        plot.add_trace(
            Scatter::new(vec![0.0], vec![0.0])
                .mode(Mode::Markers)
                .opacity(0.0),
        );
        let layout = layout(title).height(160).annotations(vec![text]);
        plot.set_layout(layout.x_axis(hidden()).y_axis(hidden()));
        return Ok(plot);
    };
    let [channels, height, width] = split.image_shape();
    let class = |label: usize| {
        classes
            .get(label)
            .map_or(label.to_string(), ToString::to_string)
    };
    if split.labels() != record.labels() {
        bail!("the record holds other samples than the {} split", R::NAME)
    }
    let answers = record.answers(thresholds)?;
    // Room for a caption of two lines below each image.
    let (cell_height, cell_width) = (height + height / 2, width + width / 10);
    let rows = record.exits();
    let white = Rgb::new(255, 255, 255);
    let mut sheet = vec![vec![white; count * cell_width]; rows * cell_height];
    let mut annotations = Vec::new();
    let text = |text: &str, x: usize, y: usize| {
        Annotation::new()
            .text(text)
            .x(x as f64)
            .y(y as f64)
            .show_arrow(false)
            .font(Font::new().size(10))
    };
    for exit in 0..rows {
        let last = exit + 1 == rows;
        let entropy = |i: usize| record.readings(if last { 0 } else { exit })[i].entropy;
        let mut leaving: Vec<usize> = (0..record.len())
            .filter(|&i| answers[i].exit == exit)
            .collect();
        leaving.sort_by(|&a, &b| entropy(a).total_cmp(&entropy(b)));
        if last {
            leaving.reverse();
        }
        let top = exit * cell_height + 2;
        let label = format!(
            "{} leave at<br>exit {}; the {}<br>sure",
            leaving.len(),
            exit + 1,
            if last { "least" } else { "most" }
        );
        annotations.push(
            text(&label, 0, top + height / 2)
                .x_shift(-8.0)
                .x_anchor(Anchor::Right),
        );
        for (column, &sample) in leaving.iter().take(count).enumerate() {
            let left = column * cell_width;
            let image = split.image(sample);
            for (i, pixel) in (0..height * width).map(|i| (i, i % width + left)) {
                // Colours as they are, digits in black on white.
                let value = |channel: usize| match channels {
                    3 => image[channel * height * width + i],
                    _ => 255 - image[i],
                };
                sheet[top + i / width][pixel] = Rgb::new(value(0), value(1), value(2));
            }
            let (label, answer) = (usize::from(split.labels()[sample]), answers[sample].label);
            let caption = if label == answer {
                class(label)
            } else {
                format!("{},<br>not {}", class(label), class(answer))
            };
            annotations.push(text(&caption, left + width / 2, top + height).y_anchor(Anchor::Top));
        }
    }
    let mut plot = Plot::new();
    plot.add_trace(Image::new(sheet));
    let hidden = || Axis::new().visible(false);
    plot.set_layout(
        layout(title)
            .height(100 + ((WIDTH - 130) * rows * cell_height).div_ceil(count.max(1) * cell_width))
            .margin(Margin::new().left(110).right(20).top(70).bottom(20))
            .x_axis(hidden())
            .y_axis(
                hidden()
                    .range(vec![(rows * cell_height) as f64, 0.0])
                    .scale_anchor("x"),
            )
            .annotations(annotations),
    );
    Ok(plot)
}

/// Writes a plot to `figures/<name>.json` (plotly) and `figures/<name>.html` (opens without a
/// network), and shows it in a notebook. `make figures` makes a PNG beside them where a Chromium is
/// installed.
pub fn show(plot: &Plot, name: &str) -> Result<()> {
    let json = plot.to_json();
    let path = |extension: &str| {
        project_dir()
            .join("figures")
            .join(format!("{name}.{extension}"))
    };
    write_atomically(&path("json"), json.as_bytes())?;
    let up = "../".repeat(name.matches('/').count());
    // "</" would end the script element; in JSON "<\/" is the same string.
    let safe = json.replace("</", "<\\/");
    let html = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n<script src=\"{up}plotly.min.js\"></script>\n<div id=\"plot\"></div>\n<script>const plot = {safe};\nPlotly.newPlot(\"plot\", plot.data, plot.layout, {{responsive: true}});</script>\n"
    );
    write_atomically(&path("html"), html.as_bytes())?;
    notebook::content(&[
        ("application/vnd.plotly.v1+json", &json),
        ("text/plain", &format!("figures/{name}.html")),
    ]);
    Ok(())
}
