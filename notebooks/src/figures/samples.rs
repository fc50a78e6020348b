//! Which samples leave where, and what they are taken for.

use super::style::{HEIGHT, INK, TOP, WIDTH, axis, layout, note, panels};
use branchynet::data::{Role, Split};
use branchynet::exits::ExitRecord;
use branchynet::{Error, ErrorKind, Result, bail};
use plotly::color::Rgb;
use plotly::common::{Anchor, ColorBar, ColorScale, ColorScaleElement, Font, Title};
use plotly::layout::{Axis, Margin};
use plotly::{HeatMap, Image, Layout, Plot};

/// For every exit what those that leave there at these thresholds are taken for: the share in % of
/// each class (rows) that is answered with each class (columns). Shares of 4 % and more off the
/// diagonal are written out.
pub fn confusion<R: Role>(record: &ExitRecord<R>, thresholds: &[f64], classes: &[String]) -> Result<Plot> {
    let (answers, n, exits) = (record.answers(thresholds)?, classes.len(), record.exits());
    let wrong = |message| Error::new(ErrorKind::Setting, message);
    if exits > 8 {
        return Err(wrong(format!("confusion is drawn for up to 8 exits, this record has {exits}")));
    }
    let labels = record.labels().iter().map(|&label| label as usize + 1);
    let needed = labels.fold(record.classes(), usize::max);
    if needed > n {
        return Err(wrong(format!("{n} class names for {needed} classes")));
    }
    let (mut plot, mut annotations) = (Plot::new(), Vec::new());
    let rows = exits.div_ceil(COLUMNS);
    let mut layout = layout()
        .width(WIDTH + 100)
        .height(HEIGHT + 300 * (rows - 1))
        .margin(Margin::new().left(100).right(20).top(110).bottom(110))
        .grid(panels(rows, exits.min(COLUMNS)));
    let colours = [(0.0, "#ffffff"), (0.3, "#9ecae1"), (1.0, "#08519c")];
    let colours = colours.map(|(share, colour)| ColorScaleElement(share, colour.to_string()));
    for exit in 0..exits {
        let mut counts = vec![vec![0usize; n]; n];
        for (answer, &label) in answers.iter().zip(record.labels()).filter(|(answer, _)| answer.exit == exit)
        {
            counts[label as usize][answer.label] += 1;
        }
        let share = |row: &Vec<usize>| -> Vec<f64> {
            let all = row.iter().sum::<usize>().max(1) as f64;
            row.iter().map(|&n| n as f64 / all * 100.0).collect()
        };
        let shares: Vec<Vec<f64>> = counts.iter().map(share).collect();
        let panel = if exit == 0 { String::new() } else { (exit + 1).to_string() };
        let (x, y) = (format!("x{panel}"), format!("y{panel}"));
        let heading = format!("exit {}: {} samples", exit + 1, counts.iter().flatten().sum::<usize>());
        let heading = note(&heading, 0.5, 1.02).y_anchor(Anchor::Bottom);
        annotations.push(heading.x_ref(format!("{x} domain")).y_ref(format!("{y} domain")));
        for (row, column) in (0..n * n).map(|i| (i / n, i % n)) {
            let share = shares[row][column];
            if row != column && share >= 4.0 {
                let font = Font::new().size(9).color(if share > 50.0 { "#ffffff" } else { INK });
                let number = note(&format!("{share:.0}"), column as f64, row as f64).font(font);
                annotations.push(number.x_ref(x.clone()).y_ref(y.clone()));
            }
        }
        plot.add_trace(
            HeatMap::new(classes.to_vec(), classes.to_vec(), shares)
                .color_scale(ColorScale::Vector(colours.to_vec()))
                .zmin(0.0)
                .zmax(100.0)
                .x_axis(x)
                .y_axis(y)
                .show_scale(exit + 1 == exits)
                .color_bar(ColorBar::new().title(Title::with_text("% of class")).thickness(12)),
        );
        let (first, lowest) = (exit % COLUMNS == 0, exit + COLUMNS >= exits);
        let across = axis(if lowest { "answer" } else { "" }).tick_angle(-90.0).show_tick_labels(lowest);
        let down = axis(if first { "label" } else { "" }).range(vec![n as f64 - 0.5, -0.5]);
        let down = down.show_tick_labels(first).show_grid(false);
        layout = with_axes(layout, exit, across.show_grid(false), down);
    }
    plot.set_layout(layout.annotations(annotations));
    Ok(plot)
}

/// Panels side by side.
const COLUMNS: usize = 3;

/// Gives panel `i`, from 0, its axes.
fn with_axes(layout: Layout, i: usize, x: Axis, y: Axis) -> Layout {
    match i {
        0 => layout.x_axis(x).y_axis(y),
        1 => layout.x_axis2(x).y_axis2(y),
        2 => layout.x_axis3(x).y_axis3(y),
        3 => layout.x_axis4(x).y_axis4(y),
        4 => layout.x_axis5(x).y_axis5(y),
        5 => layout.x_axis6(x).y_axis6(y),
        6 => layout.x_axis7(x).y_axis7(y),
        7 => layout.x_axis8(x).y_axis8(y),
        _ => layout,
    }
}

/// Samples of a record and their images: for every exit a row of up to `count` that leave there at
/// these thresholds. Early exits show the samples they were surest of, the last one those that the
/// first exit was least sure of. Under each image its label and, where the answer was wrong, that
/// answer.
///
/// `split` may be missing: then the plot says so. Fails where it is not what was recorded.
pub fn gallery<R: Role>(
    split: Option<&Split<R>>,
    record: &ExitRecord<R>,
    thresholds: &[f64],
    count: usize,
    classes: &[String],
) -> Result<Plot> {
    let hidden = || Axis::new().visible(false);
    let mut plot = Plot::new();
    let Some(split) = split else {
        let text = note("the images are not here; `make datasets` fetches them", 0.5, 0.5);
        let layout = layout().height(160).annotations(vec![text.x_ref("paper").y_ref("paper")]);
        plot.set_layout(layout.x_axis(hidden()).y_axis(hidden()));
        return Ok(plot);
    };
    let [channels, height, width] = split.image_shape();
    let class = |label: usize| classes.get(label).map_or(label.to_string(), ToString::to_string);
    if split.labels() != record.labels() {
        bail!(Setting, "the record holds other samples than the {} split", R::NAME)
    }
    let answers = record.answers(thresholds)?;
    // Room for a caption of two lines (36 pixels of the figure) below each image.
    let cell_width = width + width / 10;
    let sheet_width = count.max(1) * cell_width;
    let cell_height = height + (36 * sheet_width).div_ceil(WIDTH - 130);
    let rows = record.exits();
    let white = Rgb::new(255, 255, 255);
    let mut sheet = vec![vec![white; sheet_width]; rows * cell_height];
    let mut annotations = Vec::new();
    let text = |text: &str, x: usize, y: usize| note(text, x as f64, y as f64).font(Font::new().size(9));
    for exit in 0..rows {
        let last = exit + 1 == rows;
        let unsure = |i: usize| record.predictions(if last { 0 } else { exit })[i].uncertainty;
        let mut leaving: Vec<usize> = (0..record.len()).filter(|&i| answers[i].exit == exit).collect();
        leaving.sort_by(|&a, &b| unsure(a).total_cmp(&unsure(b)));
        if last {
            leaving.reverse();
        }
        let top = exit * cell_height + 2;
        let (count_here, which) = (leaving.len(), if last { "least" } else { "most" });
        let label = format!("{count_here} leave at<br>exit {}; the {which}<br>sure", exit + 1);
        annotations.push(text(&label, 0, top + height / 2).x_shift(-8.0).x_anchor(Anchor::Right));
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
            let (label, answer) = (split.labels()[sample] as usize, answers[sample].label);
            let caption = match label == answer {
                true => class(label),
                false => format!("{}<br>not {}", class(label), class(answer)),
            };
            annotations.push(text(&caption, left + width / 2, top + height).y_anchor(Anchor::Top));
        }
    }
    plot.add_trace(Image::new(sheet));
    plot.set_layout(
        layout()
            .height(100 + ((WIDTH - 130) * rows * cell_height).div_ceil(sheet_width))
            .margin(Margin::new().left(110).right(20).top(TOP).bottom(20))
            .x_axis(hidden())
            .y_axis(hidden().range(vec![(rows * cell_height) as f64, 0.0]).scale_anchor("x"))
            .annotations(annotations),
    );
    Ok(plot)
}
