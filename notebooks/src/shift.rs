//! Notebook 11: what early exit does on images that are not like those it was made for, and what notices.

pub use crate::corruption::Corruption;
pub use crate::criteria::in_parallel;
use crate::figures::style::{
    GREY, axis, colour, dot, framed, line, log_axis, measured, points, stroke, symbol,
};
use branchynet::data::Test;
use branchynet::exits::{ExitPolicy, ExitRecord, Loss, Watch, percentile};
use branchynet::{Result, error};
use plotly::Plot;
use plotly::common::DashType;
use polars::prelude::DataFrame;

// For `random_range` and `random_bool`; the prelude's `Rng` is a generator.
pub use rand::Rng as _;

/// The images of a test split as they are or corrupted, and what every exit says about them.
#[derive(Debug, Clone)]
pub struct World {
    /// `noise`.
    pub what: String,
    /// 0 for the images as they are, 1 to 5 for corrupted ones.
    pub severity: usize,
    /// What the exits say.
    pub record: ExitRecord<Test>,
}

impl World {
    /// The one of these that is `what` with this severity. Fails where there is none.
    pub fn find(worlds: &[Self], what: &str, severity: usize) -> Result<Self> {
        let found = worlds.iter().find(|world| world.what == what && world.severity == severity);
        found
            .cloned()
            .ok_or_else(|| error!(Missing, "no images were changed by {what} of severity {severity}"))
    }

    /// Where an image leaves by a policy, from 0, and whether its answer is not the last exit's.
    pub fn leaves(&self, image: usize, policy: &ExitPolicy) -> (usize, bool) {
        let (said, last) = (|exit: usize| self.record.predictions(exit)[image], self.record.exits() - 1);
        let exit = (0..last).find(|&exit| policy.leaves(exit, said(exit).uncertainty)).unwrap_or(last);
        (exit, said(exit).label != said(last).label)
    }
}

/// What early exit did at fixed thresholds on other images.
#[derive(Debug, Clone, PartialEq)]
pub struct Shifted {
    /// `noise`.
    pub what: String,
    /// 0 for the images as they are, 1 to 5 for corrupted ones.
    pub severity: usize,
    /// Accuracy (0..=1) at the thresholds.
    pub accuracy: f64,
    /// Accuracy of the last exit, were all to go there.
    pub last_exit: f64,
    /// The share (0..=1) that leaves before the last exit.
    pub early: f64,
    /// The share (0..=1) of answers that are not the last exit's.
    pub different: f64,
    /// The mean cost.
    pub cost: f64,
}

impl Shifted {
    /// What happens at these thresholds to the images of a record, given what it costs to leave at each exit.
    pub fn new(
        what: &str,
        severity: usize,
        record: &ExitRecord<Test>,
        thresholds: &[f64],
        costs: &[f64],
    ) -> Result<Self> {
        let outcome = record.operating_point(thresholds, costs)?;
        Ok(Self {
            what: what.to_string(),
            severity,
            accuracy: outcome.accuracy(),
            last_exit: record.last_accuracy(),
            early: 1.0 - outcome.shares().last().copied().unwrap_or(f64::NAN),
            different: record.lost(Loss::Different, thresholds)? as f64 / record.len() as f64,
            cost: outcome.cost,
        })
    }

    /// What happens at these thresholds in each of these worlds.
    pub fn all(worlds: &[World], thresholds: &[f64], costs: &[f64]) -> Result<Vec<Self>> {
        worlds.iter().map(|w| Self::new(&w.what, w.severity, &w.record, thresholds, costs)).collect()
    }

    /// A table of all of them.
    pub fn table(all: &[Self]) -> Result<DataFrame> {
        rows!(all, s =>
            "images" => s.what.clone(),
            "severity" => s.severity as u64,
            "accuracy" => s.accuracy,
            "accuracy of the last exit" => s.last_exit,
            "leave early" => s.early,
            "answers that differ" => s.different,
            "mean cost" => s.cost,
        )
    }
}

/// A quantity of corrupted images against the severity, a line for each corruption, and a grey line at `promised`, if
/// there is one.
pub fn by_severity(all: &[Shifted], title: &str, promised: Option<f64>, of: fn(&Shifted) -> f64) -> Plot {
    let mut plot = Plot::new();
    for (i, alike) in all.chunk_by(|a, b| a.what == b.what).enumerate() {
        let severities: Vec<usize> = alike.iter().map(|shifted| shifted.severity).collect();
        let values = alike.iter().map(of).collect();
        plot.add_trace(measured(&alike[0].what, severities, values, colour(i), symbol(i)));
    }
    if let Some(promised) = promised {
        let dashed = stroke(GREY, 1.0).dash(DashType::Dash);
        let name = "promised for images like those that chose";
        plot.add_trace(line(name, vec![0, 5], vec![promised; 2], dashed));
    }
    plot.set_layout(framed(axis("severity of the corruption"), axis(title)));
    plot
}

/// A test that takes in one loss after the other and says whether there is an alarm.
pub type Alarm = Box<dyn FnMut(bool) -> bool>;

/// Tests of whether losses are more than the share `epsilon`, whose false alarms are at most `delta`: bets that begin at
/// every draw, the same bets at the first draw alone, an adaptive bet, and a bound that is no bet.
pub fn alarms(epsilon: f64, delta: f64) -> Result<[(&'static str, Alarm); 4]> {
    let mut watch = Watch::new(epsilon, delta, 1.0, 0)?;
    let mut wealth = [0.125; 8];
    let from_the_first = move |loss: bool| {
        for (i, wealth) in wealth.iter_mut().enumerate() {
            let part = 0.5f64.powi(i as i32 + 1);
            *wealth *= if loss { 1.0 + part * (1.0 - epsilon) / epsilon } else { 1.0 - part };
        }
        wealth.iter().sum::<f64>() >= 1.0 / delta
    };
    Ok([
        ("bets from every draw on (Watch)", Box::new(move |loss| watch.see(loss))),
        ("the same bets from the first draw", Box::new(from_the_first)),
        ("adaptive bet from the first draw (aGRAPA)", Box::new(adaptive(epsilon, delta))),
        ("Hoeffding's confidence sequence", Box::new(hoeffding(epsilon, delta))),
    ])
}

/// The approximate GRAPA bet of Waudby-Smith and Ramdas 2024 (<https://arxiv.org/abs/2010.09686>), from
/// 0 to half of the most that may be bet; mean and variance begin as if one loss of `epsilon` had been seen.
fn adaptive(epsilon: f64, delta: f64) -> impl FnMut(bool) -> bool {
    let (mut wealth, mut n, mut losses, mut squares) = (0.0, 1.0, epsilon, epsilon * (1.0 - epsilon));
    move |loss| {
        let (loss, off) = (f64::from(u8::from(loss)), losses / n - epsilon);
        let bet = (off / (squares / n + off * off)).clamp(0.0, 0.5 / epsilon);
        wealth += (bet * (loss - epsilon)).ln_1p();
        n += 1.0;
        losses += loss;
        squares += (loss - losses / n).powi(2);
        wealth >= -delta.ln()
    }
}

/// Whether the lower end of the confidence sequence for the mean by Hoeffding's bound with predictable weights (the
/// predictable plug-in one of the same source, one-sided) is above `epsilon`.
fn hoeffding(epsilon: f64, delta: f64) -> impl FnMut(bool) -> bool {
    let (mut n, mut sum) = (0.0f64, 0.0);
    move |loss| {
        n += 1.0;
        let weight = (-8.0 * delta.ln() / (n * (n + 1.0).ln())).sqrt().min(1.0);
        sum += weight * (f64::from(u8::from(loss)) - epsilon) - weight * weight / 8.0;
        sum >= -delta.ln()
    }
}

/// The median of delays, of which some have no end; none where that is so for half of them.
pub fn median(delays: &[Option<usize>]) -> Option<f64> {
    let delays: Vec<f64> = delays.iter().map(|delay| delay.map_or(f64::INFINITY, |d| d as f64)).collect();
    Some(percentile(&delays, 0.5)).filter(|median| median.is_finite())
}

/// Draws from a shift until the alarm, the median, against the draws before the shift, for each test of [`alarms`].
pub fn delays(names: &[&str], before: &[usize], medians: &[Vec<Option<f64>>]) -> Plot {
    let mut plot = Plot::new();
    for (i, (name, medians)) in names.iter().zip(medians).enumerate() {
        plot.add_trace(measured(name, before.to_vec(), medians.clone(), colour(i), symbol(i)));
    }
    let x = log_axis("images drawn before the shift", before.iter().map(|&n| n as f64));
    let y = log_axis("images drawn from the shift to the alarm", medians.iter().flatten().flatten().copied());
    plot.set_layout(framed(x, y));
    plot
}

/// What became of a stream of images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stream {
    /// The images until the first alarm, with that which raised it, and how many of them were changed.
    pub alarm: Option<(usize, usize)>,
    /// All images, and how many of them were changed.
    pub images: usize,
    /// Those that were changed.
    pub changed: usize,
    /// The cost of all images at the exits where they left.
    pub cost: f64,
    /// What watching cost beside it.
    pub more: f64,
}

impl Stream {
    /// Takes in the next image: what it cost, and whether its answer is changed.
    pub fn add(&mut self, cost: f64, changed: bool) {
        self.images += 1;
        self.changed += usize::from(changed);
        self.cost += cost;
    }

    /// The sum over streams, less the alarms.
    pub fn sum(streams: &[Self]) -> Self {
        streams.iter().fold(Self::default(), |sum, s| Self {
            alarm: None,
            images: sum.images + s.images,
            changed: sum.changed + s.changed,
            cost: sum.cost + s.cost,
            more: sum.more + s.more,
        })
    }
}

/// A network in use: its policy, the worlds that its images may come from, and what happens to them there.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// The network's name.
    pub network: String,
    /// The first is that of the images as they are.
    pub worlds: Vec<World>,
    /// In each world.
    pub shifted: Vec<Shifted>,
    /// With the thresholds that were chosen.
    pub policy: ExitPolicy,
    /// Of leaving at each exit.
    pub costs: Vec<f64>,
}

/// Streams from one world into another, watched.
#[derive(Debug, Clone)]
pub struct Noticed {
    /// The network's name.
    pub network: String,
    /// What the second world is, its severity, and the share of its answers (0..=1) that is changed.
    pub what: String,
    /// From 0.
    pub severity: usize,
    /// Of the images of the second world.
    pub changed: f64,
    /// The share of images that is drawn.
    pub share: f64,
    /// The images before the shift.
    pub before: usize,
    /// The streams.
    pub streams: Vec<Stream>,
}

impl Noticed {
    /// Streams of a network that shift to what `shifted` is about after so many images.
    pub fn new(network: &str, shifted: &Shifted, share: f64, before: usize, streams: Vec<Stream>) -> Self {
        let Shifted { what, severity, different: changed, .. } = shifted.clone();
        Self { network: network.to_string(), what, severity, changed, share, before, streams }
    }

    /// The images from the shift to the alarm, for each stream; none where there is no alarm, or one before.
    fn delays(&self) -> Vec<Option<usize>> {
        let delay = |s: &Stream| s.alarm.and_then(|(at, _)| at.checked_sub(self.before)).filter(|&d| d > 0);
        self.streams.iter().map(delay).collect()
    }

    /// A table of all of them.
    pub fn table(all: &[Self]) -> Result<DataFrame> {
        let share = |n: &Self, of: &dyn Fn(&Stream) -> bool| {
            n.streams.iter().filter(|s| of(s)).count() as f64 / n.streams.len() as f64
        };
        // Of all images until the alarm.
        let changed = |n: &Self| {
            let alarms = n.streams.iter().filter_map(|s| s.alarm);
            let (images, changed) = alarms.fold((0, 0), |sum, alarm| (sum.0 + alarm.0, sum.1 + alarm.1));
            (images > 0).then(|| changed as f64 / images as f64)
        };
        rows!(all, n =>
            "network" => n.network.clone(),
            "images" => n.what.clone(),
            "severity" => n.severity as u64,
            "share drawn" => n.share,
            "answers changed after the shift" => n.changed,
            "streams with an alarm" => share(n, &|s| s.alarm.is_some()),
            "with one before the shift" => share(n, &|s| s.alarm.is_some_and(|(at, _)| at <= n.before)),
            "images until the alarm, median" => median(&n.delays()),
            "answers changed until the alarm" => changed(n),
        )
    }
}

/// Images from the shift until the alarm (the median) against the share of answers that the shift changes, for each network
/// and share that is drawn; at `after` where half of the streams has no alarm until then.
pub fn until_the_alarm(all: &[Noticed], after: usize) -> Plot {
    let mut plot = Plot::new();
    let mut groups: Vec<(&str, f64)> = all.iter().map(|n| (&*n.network, n.share)).collect();
    groups.sort_by(|a, b| a.0.cmp(b.0).then(a.1.total_cmp(&b.1)));
    groups.dedup();
    let delay = |n: &Noticed| median(&n.delays()).unwrap_or(after as f64);
    for (i, (network, share)) in groups.into_iter().enumerate() {
        let here = all.iter().filter(|n| (&*n.network, n.share) == (network, share));
        let (x, y): (Vec<f64>, Vec<f64>) = here.map(|n| (n.changed * 100.0, delay(n))).unzip();
        let name = format!("{network}, {} % drawn", share * 100.0);
        plot.add_trace(points(&name, x, y, dot(colour(i), 10, symbol(i))));
    }
    let x = log_axis("answers changed after the shift, %", all.iter().map(|n| n.changed * 100.0));
    let y = log_axis("images from the shift to the alarm", all.iter().map(delay));
    plot.set_layout(framed(x, y));
    plot
}

/// What all gamblers have against the images of a stream, for each stream with its name; a grey line at the alarm.
pub fn wealths(paths: &[(String, Vec<(usize, f64)>)], alarm: f64) -> Plot {
    let mut plot = Plot::new();
    for (i, (name, path)) in paths.iter().enumerate() {
        let (x, y): (Vec<usize>, Vec<f64>) = path.iter().copied().unzip();
        plot.add_trace(line(name, x, y, stroke(colour(i), 2.0)));
    }
    let last = paths.iter().flat_map(|(_, path)| path.last()).map(|(image, _)| *image).max().unwrap_or(0);
    let dashed = stroke(GREY, 1.0).dash(DashType::Dash);
    plot.add_trace(line("alarm", vec![0, last], vec![alarm; 2], dashed));
    let wealth = paths.iter().flat_map(|(_, path)| path.iter().map(|(_, wealth)| *wealth));
    plot.set_layout(framed(axis("images"), log_axis("wealth", wealth.chain([alarm]))));
    plot
}

/// The share (0..=1) of `hits` among `of`, and its 95 % interval (Wilson 1927).
pub fn share_of(hits: usize, of: usize) -> [f64; 3] {
    let (n, share, z) = (of as f64, hits as f64 / of as f64, 1.959_963_985f64);
    let (middle, scale) = (share + z * z / (2.0 * n), 1.0 + z * z / n);
    let half = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    [share, ((middle - half) / scale).max(0.0), (middle + half) / scale]
}

/// Where the images of a stream left, from 0, and whether their answers were changed; by one way to set thresholds.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// `thresholds that stay`.
    pub name: String,
    /// In the order of the images.
    pub images: Vec<(usize, bool)>,
}

impl Answered {
    /// These images by this way.
    pub fn new(name: &str, images: Vec<(usize, bool)>) -> Self {
        Self { name: name.to_string(), images }
    }

    /// A table: before and after image `shift`, for each way.
    pub fn table(all: &[Self], shift: usize, costs: &[f64]) -> Result<DataFrame> {
        let parts: Vec<_> = all
            .iter()
            .flat_map(|way| {
                let (before, after) = way.images.split_at(shift);
                [(way.name.clone(), "before", before), (way.name.clone(), "after", after)]
            })
            .collect();
        let mean = |images: &[(usize, bool)], of: &dyn Fn(&(usize, bool)) -> f64| {
            images.iter().map(of).sum::<f64>() / images.len() as f64
        };
        let last = costs.len() - 1;
        rows!(parts, (name, when, images) =>
            "thresholds" => name.clone(),
            "the shift" => when.to_string(),
            "leave early" => mean(images, &|(exit, _)| f64::from(u8::from(*exit < last))),
            "mean cost" => mean(images, &|(exit, _)| costs[*exit]),
            "answers that differ" => mean(images, &|(_, changed)| f64::from(u8::from(*changed))),
        )
    }
}

/// The share of the last `window` images that left before the last exit, against the images, for each way.
pub fn early_so_far(all: &[Answered], last: usize, window: usize, shift: usize) -> Plot {
    let mut plot = Plot::new();
    for (i, answered) in all.iter().enumerate() {
        let early: Vec<f64> =
            answered.images.iter().map(|(exit, _)| f64::from(u8::from(*exit < last))).collect();
        // A point in fifty is enough for the eye.
        let ends = (window..=early.len()).step_by(50);
        let share = |end: usize| early[end - window..end].iter().sum::<f64>() / window as f64 * 100.0;
        let y: Vec<f64> = ends.clone().map(share).collect();
        plot.add_trace(line(&answered.name, ends.collect::<Vec<_>>(), y, stroke(colour(i), 2.0)));
    }
    let dashed = stroke(GREY, 1.0).dash(DashType::Dash);
    plot.add_trace(line("shift", vec![shift; 2], vec![0.0, 100.0], dashed));
    plot.set_layout(framed(axis("images"), axis(&format!("left early of the last {window} images, %"))));
    plot
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_shares_are_wilsons() {
        // statsmodels.stats.proportion.proportion_confint(10, 100, method="wilson"), and for 0 of 1,000.
        for ((hits, of), expected) in
            [((10, 100), [0.1, 0.0552291370, 0.1743657]), ((0, 1000), [0.0, 0.0, 0.0038267])]
        {
            for (found, expected) in share_of(hits, of).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    /// The conditions of Ville's inequality: over all sequences of losses the bets are worth 1 in the mean, and no test
    /// alarms with a probability above delta.
    #[test]
    fn no_test_alarms_too_often() -> Result<()> {
        let (epsilon, delta, n) = (0.3f64, 0.2, 12);
        let mut sums = [0.0; 4];
        for sequence in 0..1u32 << n {
            let ones = sequence.count_ones() as i32;
            let probability = epsilon.powi(ones) * (1.0 - epsilon).powi(n - ones);
            for (sum, (_, mut alarm)) in sums.iter_mut().zip(alarms(epsilon, delta)?) {
                *sum += if (0..n).any(|i| alarm((sequence >> i) & 1 == 1)) { probability } else { 0.0 };
            }
        }
        assert!(sums.iter().all(|&sum| sum <= delta) && sums[0] > 0.0 && sums[1] > 0.0, "{sums:?}");
        Ok(())
    }
}
