//! What thresholds give: accuracy against time, who leaves where, and how sure each exit is.

use super::style::{GREY, axis, colour, exit_name, layout, legend, log_axis};
use crate::data::Role;
use crate::exits::{Criterion, ExitRecord, Outcome};
use crate::experiments::{Choice, Paper, Point};
use plotly::common::{AxisSide, DashType, Fill, Line, LineShape, Marker, MarkerSymbol, Mode, TickMode};
use plotly::layout::{Axis, GridPattern, LayoutGrid, Margin};
use plotly::{Plot, Scatter};

/// Accuracy against time per sample (paper, figure 3): the outcomes of a sweep over thresholds, in
/// milliseconds, choices of thresholds (stars), and the baseline (diamond). On the left every time is
/// relative to that of its own baseline, so that the shape compares with the paper's points, in grey; on
/// the right are our milliseconds.
pub fn accuracy_against_time(
    sweep_name: &str,
    sweep: &[Outcome],
    choices: &[Choice],
    baseline: Point,
    paper: Option<&Paper>,
) -> Plot {
    let mut plot = Plot::new();
    let mut add = |points: &[Point], name: &str, unit: f64, left: bool, shown: bool, look: Look| {
        let x = points.iter().map(|p| p.milliseconds / unit).collect();
        let y = points.iter().map(|p| p.accuracy * 100.0).collect();
        let mut marker = Marker::new().color(look.colour).size(look.size);
        if let Some(symbol) = look.symbol {
            marker = marker.symbol(symbol);
        }
        let line = Line::new().color(look.colour).dash(look.dash).width(look.width);
        let trace = Scatter::<f64, f64>::new(x, y)
            .name(name)
            .legend_group(name)
            .show_legend(shown)
            .mode(look.mode)
            .marker(marker)
            .line(line);
        let (x, y) = if left { ("x", "y") } else { ("x2", "y2") };
        plot.add_trace(trace.x_axis(x).y_axis(y));
    };
    if let Some(paper) = paper {
        let mut grey = paper.curve.to_vec();
        grey.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
        let unit = paper.baseline.milliseconds;
        add(&grey, "paper (GPU, read off its figure)", unit, true, true, Look::line(GREY, DashType::Dot));
        add(
            &[paper.baseline],
            "paper's baseline",
            unit,
            true,
            true,
            Look::mark(GREY, MarkerSymbol::DiamondOpen),
        );
    }
    let point = |o: &Outcome| Point { milliseconds: o.cost, accuracy: o.accuracy() };
    let points: Vec<Point> = sweep.iter().map(point).collect();
    for (left, unit) in [(true, baseline.milliseconds), (false, 1.0)] {
        add(&points, sweep_name, unit, left, left, Look::line(colour(0), DashType::Solid));
        add(
            &[baseline],
            "baseline, measured",
            unit,
            left,
            left,
            Look::mark("#000000", MarkerSymbol::Diamond),
        );
        let symbols =
            [MarkerSymbol::Star, MarkerSymbol::TriangleUp, MarkerSymbol::Square, MarkerSymbol::Cross];
        let chosen = choices.iter().filter(|choice| choice.origin == "chosen on validation");
        for (i, choice) in chosen.enumerate() {
            let look = Look::mark(colour(i + 1), symbols[i % symbols.len()].clone());
            add(&[point(&choice.test)], &choice.name, unit, left, left, look);
        }
    }
    plot.set_layout(
        layout()
            .grid(LayoutGrid::new().rows(1).columns(2).pattern(GridPattern::Independent))
            .x_axis(axis("time relative to its own baseline"))
            .y_axis(axis("accuracy, %"))
            .x_axis2(axis("ms per sample"))
            .y_axis2(axis(""))
            .legend(legend()),
    );
    plot
}

/// How a trace of [`accuracy_against_time`] is drawn.
struct Look {
    colour: &'static str,
    mode: Mode,
    dash: DashType,
    width: f64,
    symbol: Option<MarkerSymbol>,
    size: usize,
}

impl Look {
    fn line(colour: &'static str, dash: DashType) -> Self {
        let grey = colour == GREY;
        Self {
            colour,
            mode: if grey { Mode::LinesMarkers } else { Mode::Lines },
            dash,
            width: if grey { 1.0 } else { 2.0 },
            symbol: None,
            size: 6,
        }
    }

    fn mark(colour: &'static str, symbol: MarkerSymbol) -> Self {
        Self {
            colour,
            mode: Mode::Markers,
            dash: DashType::Solid,
            width: 1.0,
            symbol: Some(symbol),
            size: 12,
        }
    }
}

/// How sure each exit is: the distribution of its uncertainty over the samples of a record, right and
/// wrong answers apart.
pub fn certainty<R: Role>(record: &ExitRecord<R>) -> Plot {
    const BINS: usize = 36;
    let all = (0..record.exits()).flat_map(|exit| record.readings(exit));
    let finite = all.map(|reading| reading.uncertainty).filter(|x| x.is_finite());
    let (least, most) = finite.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
    // Decades from 1e-8 in quarters; what is smaller counts in the first bin.
    let logarithmic = is_logarithmic(record.criterion());
    let place = |x: f64| match logarithmic {
        true => (x.max(1e-8).log10() + 8.0) * 4.0,
        false => (x - least) / (most - least).max(f64::MIN_POSITIVE) * BINS as f64,
    };
    let edge = |i: usize| match logarithmic {
        true => 10f64.powf(i as f64 / 4.0 - 8.0),
        false => least + (most - least) * i as f64 / BINS as f64,
    };
    let edges: Vec<f64> = (0..=BINS).map(edge).collect();
    let mut plot = Plot::new();
    let mut drawn = Vec::new();
    for exit in 0..record.exits() {
        for (right, dash) in [(true, DashType::Solid), (false, DashType::Dot)] {
            let mut counts = vec![0usize; BINS + 1];
            for (reading, &label) in record.readings(exit).iter().zip(record.labels()) {
                let x = reading.uncertainty;
                if (reading.label == usize::from(label)) == right && x.is_finite() {
                    counts[(place(x) as usize).min(BINS - 1)] += 1;
                }
            }
            let share = |&n: &usize| n as f64 / record.len() as f64 * 100.0;
            let shares: Vec<f64> = counts.iter().map(share).collect();
            drawn.extend_from_slice(&shares);
            let name =
                format!("{}, {}", exit_name(exit, record.exits()), if right { "right" } else { "wrong" });
            plot.add_trace(
                Scatter::new(edges.clone(), shares)
                    .name(name)
                    .mode(Mode::Lines)
                    .line(Line::new().color(colour(exit)).dash(dash).shape(LineShape::Hv).width(2.0)),
            );
        }
    }
    let name = record.criterion().axis();
    let x_axis = match logarithmic {
        true => {
            let title = format!("{name} (logarithmic; 1e-8 and below in the first bin)");
            log_axis(&title, edges.into_iter())
        }
        false => axis(name),
    };
    let y_axis = format!("{} samples in bin, % (logarithmic)", R::NAME);
    plot.set_layout(layout().x_axis(x_axis).y_axis(log_axis(&y_axis, drawn.into_iter())).legend(legend()));
    plot
}

/// Whether a criterion's values span many decades.
fn is_logarithmic(criterion: &Criterion) -> bool {
    matches!(criterion, Criterion::Entropy | Criterion::Probability | Criterion::Margin)
}

/// Who leaves where, and the accuracy that goes with it: for two exits against the threshold, for
/// more, which have several, against the mean time of the outcomes of a Pareto front.
pub fn exit_shares(criterion: &Criterion, outcomes: &[Outcome]) -> Plot {
    let mut plot = Plot::new();
    let exits = outcomes.first().map_or(0, |o| o.leaving.len());
    let by_threshold = exits == 2;
    let logarithmic = is_logarithmic(criterion);
    let position = |o: &Outcome| match by_threshold {
        true => o.thresholds[0],
        false => o.cost,
    };
    let shown = |x: f64| x.is_finite() && (!by_threshold || !logarithmic || x > 1e-7);
    let inside = outcomes.iter().filter(|o| shown(position(o)));
    let inside: Vec<&Outcome> = inside.collect();
    let x: Vec<f64> = inside.iter().map(|o| position(o)).collect();
    for exit in 0..exits {
        let shares = inside.iter().map(|o| o.shares()[exit] * 100.0).collect();
        plot.add_trace(
            Scatter::new(x.clone(), shares)
                .name(format!("leave at exit {}", exit + 1))
                .mode(Mode::Lines)
                .stack_group("all")
                .fill(Fill::ToNextY)
                .line(Line::new().color(colour(exit)).width(0.5)),
        );
    }
    let accuracy = inside.iter().map(|o| o.accuracy() * 100.0).collect();
    plot.add_trace(
        Scatter::new(x.clone(), accuracy)
            .name("accuracy (right axis)")
            .mode(Mode::Lines)
            .y_axis("y2")
            .line(Line::new().color("#000000").width(2.0)),
    );
    let x_axis: Axis = match (by_threshold, logarithmic) {
        (true, true) => {
            log_axis(&format!("threshold T on the {} (logarithmic)", criterion.axis()), x.into_iter())
        }
        (true, false) => axis(&format!("threshold T on {}", criterion.axis())),
        (false, _) => axis("mean time per sample, ms, along the front of thresholds"),
    };
    plot.set_layout(
        layout()
            .margin(Margin::new().left(70).right(75).top(70).bottom(60))
            .x_axis(x_axis)
            .y_axis(axis("samples, %").range(vec![0, 100]))
            .y_axis2(
                axis("accuracy, %")
                    .tick_mode(TickMode::Auto)
                    .overlaying("y")
                    .side(AxisSide::Right)
                    .show_grid(false),
            )
            .legend(legend()),
    );
    plot
}
