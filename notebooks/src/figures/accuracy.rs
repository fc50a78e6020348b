//! What thresholds give: accuracy against time, who leaves where, and how sure each exit is.

use super::style::{GREY, TOP, axis, band, colour, exit_name, layout, legend, log_axis};
use crate::paper::{Paper, Point};
use branchynet::Result;
use branchynet::data::Role;
use branchynet::exits::{Criterion, ExitRecord, OperatingPoint};
use branchynet::runs::{Choice, Results, Seeds, Spread};
use plotly::common::{
    AxisSide, DashType, ErrorData, ErrorType, Fill, Line, LineShape, Marker, MarkerSymbol, Mode, TickMode,
};
use plotly::layout::{Axis, GridPattern, LayoutGrid, Margin};
use plotly::{Plot, Scatter};

/// Accuracy on Test against time per sample (paper, figure 3), given what it costs to leave at each exit
/// and what the baseline costs, in milliseconds: the front of thresholds found on Validation, the choices
/// made there, and the baselines (diamonds). Of several seeds it shows the mean with a band of one standard
/// deviation, and each seed thinly. On the left every time is relative to that of its own baseline, so that
/// the shape compares with the paper's points, in grey; on the right are our milliseconds.
pub fn accuracy_against_time(
    seeds: &Seeds,
    costs: &[f64],
    baseline: f64,
    paper: Option<&Paper>,
) -> Result<Plot> {
    let mut panels = Panels { plot: Plot::new(), baseline };
    if let Some(paper) = paper {
        panels.paper(paper);
    }
    let mut fronts = Vec::new();
    let mut choices = Vec::new();
    for results in seeds.results() {
        let front = results.validation.pareto_front(costs)?;
        let mut points: Vec<Point> =
            results.test.operating_points(&front, costs)?.iter().map(Point::from).collect();
        points.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
        fronts.push(points);
        choices.push(results.choices(costs)?);
    }
    let name = "front of validation, on test";
    match &fronts[..] {
        [front] => panels.add(name, front, Look::line(colour(0), 2.0)),
        fronts => panels.band(name, fronts),
    }
    let of_first = seeds.results()[0].baselines();
    for (i, (name, _)) in of_first.iter().enumerate() {
        let of_seed = |results: &Results| results.baselines().get(i).map(|(_, b)| b.accuracy());
        let accuracies: Vec<f64> = seeds.results().iter().filter_map(of_seed).collect();
        let points: Vec<Point> =
            accuracies.into_iter().map(|accuracy| Point { milliseconds: baseline, accuracy }).collect();
        // The one with as many epochs as the network is the one to compare with.
        let symbol = if i + 1 == of_first.len() { MarkerSymbol::Diamond } else { MarkerSymbol::DiamondOpen };
        panels.mean(name, &points, Look::mark("#000000", symbol));
    }
    let symbols = [MarkerSymbol::Star, MarkerSymbol::TriangleUp, MarkerSymbol::Square, MarkerSymbol::Cross];
    let on_validation = |choice: &&Choice| choice.origin == Choice::ON_VALIDATION;
    for (i, choice) in choices[0].iter().filter(on_validation).enumerate() {
        let of_seed = |all: &Vec<Choice>| Some(Point::from(&Choice::named(all, &choice.name).ok()?.test));
        // What not all seeds reach, such as the baseline's accuracy, has no mean to compare.
        let Some(points) = choices.iter().map(of_seed).collect::<Option<Vec<Point>>>() else {
            continue;
        };
        panels.mean(&choice.name, &points, Look::mark(colour(i + 1), symbols[i % symbols.len()].clone()));
    }
    Ok(panels.finish())
}

/// The two panels of [`accuracy_against_time`].
struct Panels {
    plot: Plot,
    /// Milliseconds, 1 on the left.
    baseline: f64,
}

impl Panels {
    /// Points in milliseconds, on both sides under one name.
    fn add(&mut self, name: &str, points: &[Point], look: Look) {
        self.trace(name, points, self.baseline, true, look.clone());
        self.trace(name, points, 1.0, false, look);
    }

    fn trace(&mut self, name: &str, points: &[Point], unit: f64, left: bool, look: Look) {
        let x = points.iter().map(|p| p.milliseconds / unit).collect();
        let y = points.iter().map(|p| p.accuracy * 100.0).collect();
        let mut marker = Marker::new().color(look.colour).size(look.size);
        if let Some(symbol) = look.symbol {
            marker = marker.symbol(symbol);
        }
        let line = Line::new().color(look.colour).dash(look.dash).width(look.width);
        let (x_axis, y_axis) = if left { ("x", "y") } else { ("x2", "y2") };
        let mut trace = Scatter::<f64, f64>::new(x, y)
            .name(name)
            .legend_group(name)
            .show_legend(left)
            .mode(look.mode)
            .marker(marker)
            .line(line)
            .x_axis(x_axis)
            .y_axis(y_axis);
        if let Some(deviation) = look.deviation {
            trace = trace.error_y(ErrorData::new(ErrorType::Data).array(vec![deviation * 100.0]));
        }
        self.plot.add_trace(trace);
    }

    /// The paper's points, whose times are relative to its own baseline only.
    fn paper(&mut self, paper: &Paper) {
        let mut curve = paper.curve.clone();
        curve.sort_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds));
        let unit = paper.baseline.milliseconds;
        let line = Look { mode: Mode::LinesMarkers, dash: DashType::Dot, ..Look::line(GREY, 1.0) };
        self.trace("paper (GPU, read off its figure)", &curve, unit, true, line);
        let mark = Look::mark(GREY, MarkerSymbol::DiamondOpen);
        self.trace("paper's baseline", &[paper.baseline], unit, true, mark);
    }

    /// The mean of some points, with their standard deviation as error bar where there are several.
    fn mean(&mut self, name: &str, points: &[Point], look: Look) {
        let of = |part: fn(&Point) -> f64| Spread::of(&points.iter().map(part).collect::<Vec<_>>());
        let (time, accuracy) = (of(|p| p.milliseconds), of(|p| p.accuracy));
        let mean = Point { milliseconds: time.mean, accuracy: accuracy.mean };
        let deviation = Some(accuracy.deviation).filter(|deviation| deviation.is_finite());
        self.add(name, &[mean], Look { deviation, ..look });
    }

    /// Fronts of several seeds, each in ascending order of time: the mean accuracy that each time buys,
    /// one standard deviation around it, and the fronts themselves.
    fn band(&mut self, name: &str, fronts: &[Vec<Point>]) {
        const STEPS: usize = 200;
        let first = fronts.iter().map(|front| front[0].milliseconds).fold(0.0, f64::max);
        let last = fronts.iter().filter_map(|front| front.last()).map(|p| p.milliseconds);
        let last = last.fold(0.0, f64::max);
        let step = |step: usize| first + (last - first) * step as f64 / STEPS as f64;
        let times: Vec<f64> = (0..=STEPS).map(step).collect();
        let bought = |front: &Vec<Point>| {
            let at = |milliseconds: &f64| {
                let affordable = front.partition_point(|p| p.milliseconds <= *milliseconds);
                front[affordable.max(1) - 1].accuracy * 100.0
            };
            times.iter().map(at).collect()
        };
        let runs: Vec<Vec<f64>> = fronts.iter().map(bought).collect();
        let name = format!("{name}: mean and deviation of {} seeds", fronts.len());
        for (unit, named, axes) in [(self.baseline, true, ("x", "y")), (1.0, false, ("x2", "y2"))] {
            let x: Vec<f64> = times.iter().map(|milliseconds| milliseconds / unit).collect();
            band(&mut self.plot, &name, &x, &runs, (colour(0), named), axes);
        }
    }

    fn finish(mut self) -> Plot {
        self.plot.set_layout(
            layout()
                .grid(LayoutGrid::new().rows(1).columns(2).pattern(GridPattern::Independent))
                .x_axis(axis("time relative to its own baseline"))
                .y_axis(axis("accuracy, %"))
                .x_axis2(axis("ms per sample"))
                .y_axis2(axis(""))
                .legend(legend()),
        );
        self.plot
    }
}

/// How a trace of [`accuracy_against_time`] is drawn.
#[derive(Clone)]
struct Look {
    colour: &'static str,
    mode: Mode,
    dash: DashType,
    width: f64,
    symbol: Option<MarkerSymbol>,
    size: usize,
    /// Length of the error bar.
    deviation: Option<f64>,
}

impl Look {
    fn line(colour: &'static str, width: f64) -> Self {
        Self {
            colour,
            mode: Mode::Lines,
            dash: DashType::Solid,
            width,
            symbol: None,
            size: 6,
            deviation: None,
        }
    }

    fn mark(colour: &'static str, symbol: MarkerSymbol) -> Self {
        Self { mode: Mode::Markers, symbol: Some(symbol), size: 12, ..Self::line(colour, 1.0) }
    }
}

/// How sure each exit is: the distribution of its uncertainty over the samples of a record, right and
/// wrong answers apart.
pub fn certainty<R: Role>(record: &ExitRecord<R>) -> Plot {
    const BINS: usize = 36;
    let all = (0..record.exits()).flat_map(|exit| record.predictions(exit));
    let finite = all.map(|prediction| prediction.uncertainty).filter(|x| x.is_finite());
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
            for (prediction, &label) in record.predictions(exit).iter().zip(record.labels()) {
                let x = prediction.uncertainty;
                if (prediction.label == label as usize) == right && x.is_finite() {
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
pub fn exit_shares(criterion: &Criterion, outcomes: &[OperatingPoint]) -> Plot {
    let mut plot = Plot::new();
    let exits = outcomes.first().map_or(0, |o| o.leaving.len());
    let by_threshold = exits == 2;
    let logarithmic = is_logarithmic(criterion);
    let position = |o: &OperatingPoint| match by_threshold {
        true => o.thresholds[0],
        false => o.cost,
    };
    let shown = |x: f64| x.is_finite() && (!by_threshold || !logarithmic || x > 1e-7);
    let inside = outcomes.iter().filter(|o| shown(position(o)));
    let inside: Vec<&OperatingPoint> = inside.collect();
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
            .margin(Margin::new().left(70).right(75).top(TOP).bottom(60))
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
