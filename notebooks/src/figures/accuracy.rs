//! What thresholds give: accuracy against time, who leaves where, and how sure each exit is.

use super::style::{
    self, Axes, FIRST, GREY, SECOND, TOP, axis, band, bars, colour, dot, exit_name, framed, line, log_axis,
    panels, points, stroke,
};
use crate::paper::Paper;
use branchynet::Result;
use branchynet::data::Role;
use branchynet::exits::{Criterion, ExitRecord, OperatingPoint};
use branchynet_runs::{Choice, Seeds, Spread};
use plotly::Plot;
use plotly::common::{AxisSide, DashType, Fill, LineShape, MarkerSymbol, TickMode};
use plotly::layout::{Axis, Margin};

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
    let mut plot = Plot::new();
    if let Some(paper) = paper {
        let mut curve = paper.curve.clone();
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ms, accuracy) = paper.baseline;
        let (x, y) = curve.into_iter().map(|point| (point.0 / ms, point.1 * 100.0)).unzip();
        plot.add_trace(style::paper::<f64, f64>("paper (GPU, read off its figure)", x, y));
        let mark = dot(GREY, 12, MarkerSymbol::DiamondOpen);
        plot.add_trace(points("paper's baseline", vec![1.0], vec![accuracy * 100.0], mark));
    }
    let (mut fronts, mut choices) = (Vec::new(), Vec::new());
    for results in seeds.runs() {
        let front = results.validation.pareto_front(costs)?;
        let mut front = results.test.operating_points(&front, costs)?;
        front.sort_by(|a, b| a.cost.total_cmp(&b.cost));
        fronts.push(front);
        choices.push(results.choices(costs)?);
    }
    // For each name its (milliseconds, accuracy) of all seeds.
    let mut marks = Vec::new();
    let of_first = seeds.runs()[0].baselines();
    for (i, (name, _)) in of_first.iter().enumerate() {
        let all = seeds.runs().iter().filter_map(|results| Some(results.baselines().get(i)?.1.accuracy()));
        // The one with as many epochs as the network is the one to compare with.
        let symbol = if i + 1 == of_first.len() { MarkerSymbol::Diamond } else { MarkerSymbol::DiamondOpen };
        let points: Vec<(f64, f64)> = all.map(|accuracy| (baseline, accuracy)).collect();
        marks.push((name.clone(), points, "#000000", symbol));
    }
    let symbols = [MarkerSymbol::Star, MarkerSymbol::TriangleUp, MarkerSymbol::Square, MarkerSymbol::Cross];
    for (i, (Choice { name, .. }, symbol)) in choices[0].iter().zip(symbols).enumerate() {
        let of_seed =
            |all: &Vec<Choice>| Choice::named(all, name).map(|found| (found.cost, found.accuracy)).ok();
        // What not all seeds reach, such as the baseline's accuracy, has no mean to compare.
        if let Some(points) = choices.iter().map(of_seed).collect() {
            marks.push((name.clone(), points, colour(i + 1), symbol));
        }
    }
    for (unit, named, axes) in [(baseline, true, FIRST), (1.0, false, SECOND)] {
        add_front(&mut plot, &fronts, unit, named, axes);
        for (name, seeds, colour, symbol) in &marks {
            let times = Spread::of(&seeds.iter().map(|point| point.0 / unit).collect::<Vec<_>>());
            let right = Spread::of(&seeds.iter().map(|point| point.1 * 100.0).collect::<Vec<_>>());
            let mark = dot(colour, 12, symbol.clone());
            let mut trace = points(name, vec![times.mean], vec![right.mean], mark);
            if seeds.len() > 1 {
                trace = trace.error_y(bars(vec![right.deviation]));
            }
            plot.add_trace(trace.legend_group(name).show_legend(named).x_axis(axes.0).y_axis(axes.1));
        }
    }
    let layout = framed(axis("time relative to its own baseline"), axis("accuracy, %"));
    plot.set_layout(layout.grid(panels(1, 2)).x_axis2(axis("ms per sample")).y_axis2(axis("")));
    Ok(plot)
}

/// Fronts of several seeds, each in ascending order of time: the mean accuracy that each time buys, one standard deviation
/// around it, and the fronts themselves; a single front as it is.
fn add_front(plot: &mut Plot, fronts: &[Vec<OperatingPoint>], unit: f64, named: bool, axes: Axes) {
    const STEPS: usize = 200;
    let name = "front of validation, on test";
    if let [front] = fronts {
        let (x, y) = front.iter().map(|o| (o.cost / unit, o.accuracy() * 100.0)).unzip();
        let trace = line::<f64, f64>(name, x, y, stroke(colour(0), 2.0)).legend_group(name);
        return plot.add_trace(trace.show_legend(named).x_axis(axes.0).y_axis(axes.1));
    }
    let first = fronts.iter().map(|front| front[0].cost).fold(0.0, f64::max);
    let last = fronts.iter().filter_map(|front| front.last()).map(|o| o.cost).fold(0.0, f64::max);
    let times: Vec<f64> =
        (0..=STEPS).map(|step| first + (last - first) * step as f64 / STEPS as f64).collect();
    let bought = |front: &Vec<OperatingPoint>| {
        let at = |&time: &f64| {
            let affordable = front.partition_point(|outcome| outcome.cost <= time);
            front[affordable.max(1) - 1].accuracy() * 100.0
        };
        times.iter().map(at).collect()
    };
    let runs: Vec<Vec<f64>> = fronts.iter().map(bought).collect();
    let name = format!("{name}: mean and deviation of {} seeds", fronts.len());
    let x: Vec<f64> = times.iter().map(|time| time / unit).collect();
    band(plot, &name, &x, &runs, named, axes);
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
    let (from, to) = if logarithmic { (-8.0, 1.0) } else { (least, most) };
    let per_bin = (to - from).max(f64::MIN_POSITIVE) / BINS as f64;
    let place = |x: f64| if logarithmic { x.max(1e-8).log10() } else { x };
    let edge = |i: usize| from + i as f64 * per_bin;
    let edge = |i: usize| if logarithmic { 10f64.powf(edge(i)) } else { edge(i) };
    let edges: Vec<f64> = (0..=BINS).map(edge).collect();
    let mut plot = Plot::new();
    let mut drawn = Vec::new();
    for exit in 0..record.exits() {
        for (right, said, dash) in [(true, "right", DashType::Solid), (false, "wrong", DashType::Dot)] {
            let mut counts = vec![0usize; BINS + 1];
            for (sample, prediction) in record.predictions(exit).iter().enumerate() {
                let x = prediction.uncertainty;
                if record.right(exit, sample) == right && x.is_finite() {
                    counts[(((place(x) - from) / per_bin) as usize).min(BINS - 1)] += 1;
                }
            }
            let share = |&n: &usize| n as f64 / record.len() as f64 * 100.0;
            let shares: Vec<f64> = counts.iter().map(share).collect();
            drawn.extend_from_slice(&shares);
            let name = format!("{}, {said}", exit_name(exit, record.exits()));
            let stroke = stroke(colour(exit), 2.0).dash(dash).shape(LineShape::Hv);
            plot.add_trace(line(&name, edges.clone(), shares, stroke));
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
    plot.set_layout(framed(x_axis, log_axis(&y_axis, drawn.into_iter())));
    plot
}

/// Whether a criterion's values span many decades.
fn is_logarithmic(criterion: &Criterion) -> bool {
    !matches!(criterion, Criterion::Patience | Criterion::Gate(_) | Criterion::Own(_))
}

/// Who leaves where, and the accuracy that goes with it: for two exits against the threshold, for
/// more, which have several, against the mean time of the outcomes of a Pareto front.
pub fn exit_shares(criterion: &Criterion, outcomes: &[OperatingPoint]) -> Plot {
    let mut plot = Plot::new();
    let exits = outcomes.first().map_or(0, |o| o.leaving.len());
    let by_threshold = exits == 2;
    let logarithmic = is_logarithmic(criterion);
    let position = |o: &OperatingPoint| if by_threshold { o.thresholds[0] } else { o.cost };
    let shown = |x: f64| x.is_finite() && (!by_threshold || !logarithmic || x > 1e-7);
    let inside: Vec<&OperatingPoint> = outcomes.iter().filter(|o| shown(position(o))).collect();
    // Ten thousand thresholds are more than there are pixels, and than a repository should hold.
    let (every, last) = (inside.len().div_ceil(1000).max(1), inside.len().saturating_sub(1));
    let drawn = inside.into_iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last);
    let inside: Vec<&OperatingPoint> = drawn.map(|(_, o)| o).collect();
    let x: Vec<f64> = inside.iter().map(|o| position(o)).collect();
    for exit in 0..exits {
        let shares = inside.iter().map(|o| o.shares()[exit] * 100.0).collect();
        let name = format!("leave at exit {}", exit + 1);
        let trace = line(&name, x.clone(), shares, stroke(colour(exit), 0.5));
        plot.add_trace(trace.stack_group("all").fill(Fill::ToNextY));
    }
    let accuracy = inside.iter().map(|o| o.accuracy() * 100.0).collect();
    let black = stroke("#000000", 2.0);
    plot.add_trace(line("accuracy (right axis)", x.clone(), accuracy, black).y_axis("y2"));
    let x_axis: Axis = match (by_threshold, logarithmic) {
        (true, true) => {
            log_axis(&format!("threshold T on the {} (logarithmic)", criterion.axis()), x.into_iter())
        }
        (true, false) => axis(&format!("threshold T on {}", criterion.axis())),
        (false, _) => axis("mean time per sample, ms, along the front of thresholds"),
    };
    let right = axis("accuracy, %").tick_mode(TickMode::Auto).overlaying("y").side(AxisSide::Right);
    plot.set_layout(
        framed(x_axis, axis("samples, %").range(vec![0, 100]))
            .margin(Margin::new().left(70).right(75).top(TOP).bottom(60))
            .y_axis2(right.show_grid(false)),
    );
    plot
}
