//! Honest time: what one image costs, end to end.
//!
//! The original's timer covered the trunk segments alone: branches, softmax, entropy and the
//! decision ran outside it, while the baseline's classifier ran inside; there was no warm-up and no
//! repetition. Here a sample is timed from its pixels to its answer, baseline and branchy network
//! take turns on the same images, and what the paper's timer would have shown stands beside it
//! under its own name.

use crate::early_exit::read;
use crate::error::bail;
use crate::experiment::Experiment;
use crate::network::Shape;
use crate::plan::Plan;
use crate::{Network, Pass, Result, Rng};
use candle_core::{Device, Tensor};
use polars::prelude::{DataFrame, df};
use rand::{Rng as _, SeedableRng};
use std::time::Instant;

/// Milliseconds a sample, over many samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// The median.
    pub median: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The mean over the images, for a mix of fast and slow samples the time that a stream of them
    /// takes each: the median of the rounds' means, so that a disturbed round does not count.
    pub mean: f64,
    /// How many times were measured.
    pub count: usize,
}

impl Latency {
    fn of(mut times: Vec<f64>, images: usize) -> Self {
        let count = times.len();
        let mean = |round: &[f64]| round.iter().sum::<f64>() / round.len() as f64;
        let mut means: Vec<f64> = times.chunks(images).map(mean).collect();
        means.sort_by(f64::total_cmp);
        times.sort_by(f64::total_cmp);
        let (median, p95) = (times[count / 2], times[count * 95 / 100]);
        Self {
            median,
            p95,
            mean: means[means.len() / 2],
            count,
        }
    }
}

/// Batch-1 times on one thread of the CPU.
#[derive(Debug, Clone)]
pub struct Timing {
    /// The baseline end to end: pixels to label.
    pub baseline: Latency,
    /// For each exit: end to end for a sample that leaves there, all branches on its way included.
    pub exits: Vec<Latency>,
    /// For each exit: the trunk alone, as the paper timed it.
    pub trunk_only: Vec<Latency>,
}

/// Batch-1 times over a mix of samples that leave at different exits.
#[derive(Debug, Clone)]
pub struct Mix {
    /// The baseline end to end, in the same run.
    pub baseline: Latency,
    /// End to end, each sample leaving where the mix says.
    pub mix: Latency,
    /// The trunk alone over the same mix, as the paper timed it.
    pub trunk_only: Latency,
}

impl Mix {
    /// The baseline's mean time over the mix's: how many times faster early exit is, end to end.
    pub fn gain(&self) -> f64 {
        self.baseline.mean / self.mix.mean
    }

    /// The gain as the paper accounts for it: the trunk alone.
    pub fn gain_trunk_only(&self) -> f64 {
        self.baseline.mean / self.trunk_only.mean
    }
}

impl Timing {
    /// Median milliseconds to leave at each exit: the costs for [`crate::record::ExitRecord`].
    pub fn costs(&self) -> Vec<f64> {
        self.exits.iter().map(|latency| latency.median).collect()
    }

    /// A table of what it costs to leave at each exit of `network`, and of `baseline`: MACs, end to
    /// end, and trunk only.
    pub fn frame(&self, network: &Network, baseline: &Network) -> Result<DataFrame> {
        let exits = (1..=network.exits()).map(|exit| format!("exit {exit}"));
        let macs = network
            .costs()
            .into_iter()
            .chain(baseline.costs().pop())
            .map(|cost| cost.macs as u64);
        // The baseline has no branch that the paper's timer could have left out.
        let microseconds = |of: &[Latency], part: fn(&Latency) -> f64| -> Vec<f64> {
            of.iter()
                .chain([&self.baseline])
                .map(|latency| part(latency) * 1e3)
                .collect()
        };
        Ok(df!(
            "leaves at" => exits.chain(["baseline".to_string()]).collect::<Vec<_>>(),
            "MACs" => macs.collect::<Vec<_>>(),
            "median, µs" => microseconds(&self.exits, |latency| latency.median),
            "95th percentile, µs" => microseconds(&self.exits, |latency| latency.p95),
            "trunk only (the paper's timer), median, µs" => microseconds(&self.trunk_only, |latency| latency.median),
        )?)
    }
}

/// Pixels of the first `count` test images of an experiment, as its networks see them, and a word
/// for what they are; random ones where the data set is missing, which take the same time.
pub fn images(experiment: &Experiment, count: usize) -> Result<(Vec<Vec<f32>>, String)> {
    match experiment.load() {
        Ok(data) => {
            let pixels = (0..count.min(data.test.len()))
                .map(|i| {
                    Ok(data
                        .test
                        .batch(&[i], &Device::Cpu)?
                        .flatten_all()?
                        .to_vec1()?)
                })
                .collect::<Result<_>>()?;
            let name = data.name.split(" (").next().unwrap_or_default();
            Ok((pixels, format!("{name} test images")))
        }
        Err(_) => {
            let mut rng = Rng::seed_from_u64(0);
            let size: usize = experiment.data.image.iter().product();
            let mut image = || (0..size).map(|_| rng.random::<f32>()).collect();
            let pixels = (0..count).map(|_| image()).collect();
            Ok((
                pixels,
                "random images, for want of the data set".to_string(),
            ))
        }
    }
}

/// Times leaving `network` at each exit, and `baseline`, `rounds` times over `images` (pixels of one
/// image each), one image at a time, all contenders in turn on each. What the weights are makes no
/// difference. Fails without images or rounds, or where images have another size.
pub fn measure(
    network: &Network,
    baseline: &Network,
    images: &[Vec<f32>],
    rounds: usize,
) -> Result<Timing> {
    let (mut contest, exits) = (Contest::new(network, baseline)?, network.exits());
    // Baseline, then for each exit end to end and trunk only.
    let times = rounds_over(images, rounds, |image, _| {
        let mut turn = vec![contest.baseline(image)?];
        for exit in 0..exits {
            turn.push(contest.leave(image, exit)?);
            turn.push(contest.trunk(image, exit)?);
        }
        Ok(turn)
    })?;
    let mut times = times.into_iter();
    let mut next = || times.next().expect("one for each contender");
    let baseline = next();
    let (exits, trunk_only) = (0..exits).map(|_| (next(), next())).unzip();
    Ok(Timing {
        baseline,
        exits,
        trunk_only,
    })
}

/// Times `network` against `baseline` as in [`measure`], the images leaving at the exits in these
/// shares, early and late ones mixed evenly. Fails where shares do not fit the exits.
pub fn measure_mix(
    network: &Network,
    baseline: &Network,
    images: &[Vec<f32>],
    shares: &[f64],
    rounds: usize,
) -> Result<Mix> {
    check_shares(network, shares)?;
    // Each image leaves at the exit that is furthest behind its share.
    let mut counts = vec![0.0; shares.len()];
    let leaves: Vec<usize> = (1..=images.len())
        .map(|n| {
            let behind = |exit: usize| shares[exit] * n as f64 - counts[exit];
            let exit = (0..shares.len())
                .max_by(|&a, &b| behind(a).total_cmp(&behind(b)))
                .unwrap_or(0);
            counts[exit] += 1.0;
            exit
        })
        .collect();
    let mut contest = Contest::new(network, baseline)?;
    let times = rounds_over(images, rounds, |image, i| {
        Ok(vec![
            contest.baseline(image)?,
            contest.leave(image, leaves[i])?,
            contest.trunk(image, leaves[i])?,
        ])
    })?;
    Ok(Mix {
        baseline: times[0],
        mix: times[1],
        trunk_only: times[2],
    })
}

/// What a batch of one size costs, from pixels in the computer's memory to answers there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchTime {
    /// Images a batch.
    pub batch: usize,
    /// Milliseconds of a batch for the baseline: the mean over all images, of the rounds the median.
    pub baseline: f64,
    /// Likewise with early exits.
    pub early_exit: f64,
}

impl BatchTime {
    /// Microseconds an image: of the baseline, and with early exits.
    pub fn per_image(&self) -> [f64; 2] {
        [self.baseline, self.early_exit].map(|time| time / self.batch as f64 * 1e3)
    }

    /// How many times faster early exit is; below 1 it is slower.
    pub fn gain(&self) -> f64 {
        self.baseline / self.early_exit
    }
}

/// Times whole batches of these sizes on the device of the networks: `network`, whose thresholds are set
/// so that `shares` of `images` (pixels of one image each) leave at each exit, against `baseline`. In a
/// round both take turns on all images, batch by batch, or on one batch of images used again where they
/// are too few; one round warms up. The device has finished before the clock starts and before it stops.
/// On the CPU with as many threads as it has cores. Fails where shares do not fit the exits, or without
/// images, sizes or rounds.
pub fn measure_batches(
    network: &Network,
    baseline: &Network,
    images: &[Vec<f32>],
    shares: &[f64],
    sizes: &[usize],
    rounds: usize,
) -> Result<Vec<BatchTime>> {
    check_shares(network, shares)?;
    if images.is_empty() || rounds == 0 || sizes.is_empty() || sizes.contains(&0) {
        bail!(
            "timing needs images, rounds and sizes of at least 1, got {} images, {rounds} rounds and the sizes {sizes:?}",
            images.len()
        )
    }
    crate::settle();
    let device = network.device();
    let thresholds = thresholds_for(network, images, shares)?;
    let mut times = Vec::new();
    for &batch in sizes {
        let count = batch.max(images.len());
        let pixels: Vec<f32> = images
            .iter()
            .cycle()
            .take(count)
            .flatten()
            .copied()
            .collect();
        let batches: Vec<&[f32]> = pixels.chunks_exact(batch * images[0].len()).collect();
        let run = |network: &Network, pixels: &[f32], thresholds: &[f64]| -> Result<f64> {
            device.synchronize()?;
            timed(|| {
                network.classify(&tensor(network, pixels, batch)?, thresholds)?;
                Ok(device.synchronize()?)
            })
        };
        let mut means = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let mut sums = (0.0, 0.0);
            for pixels in &batches {
                sums.0 += run(baseline, pixels, &[])?;
                sums.1 += run(network, pixels, &thresholds)?;
            }
            if round > 0 {
                means.0.push(sums.0 / batches.len() as f64);
                means.1.push(sums.1 / batches.len() as f64);
            }
        }
        times.push(BatchTime {
            batch,
            baseline: Latency::of(means.0, rounds).median,
            early_exit: Latency::of(means.1, rounds).median,
        });
    }
    Ok(times)
}

/// A table of [`measure_batches`].
pub fn batches_frame(times: &[BatchTime]) -> Result<DataFrame> {
    let each = |which: usize| {
        times
            .iter()
            .map(|t| t.per_image()[which])
            .collect::<Vec<_>>()
    };
    Ok(df!(
        "batch" => times.iter().map(|t| t.batch as u64).collect::<Vec<_>>(),
        "baseline, µs an image" => each(0),
        "early exit, µs an image" => each(1),
        "gain" => times.iter().map(|t| format!("{:.2}x", t.gain())).collect::<Vec<_>>(),
    )?)
}

fn tensor(network: &Network, pixels: &[f32], batch: usize) -> Result<Tensor> {
    let Shape::Image(channels, height, width) = network.input() else {
        bail!("{} takes no images", network.name())
    };
    let shape = (batch, channels, height, width);
    Ok(Tensor::from_slice(pixels, shape, network.device())?)
}

/// Thresholds at which these shares of the images leave, whatever the weights are: at each exit
/// between the entropies of the last image that leaves and the first that stays.
fn thresholds_for(network: &Network, images: &[Vec<f32>], shares: &[f64]) -> Result<Vec<f64>> {
    let images = &images[..images.len().min(1000)];
    let mut x = tensor(network, &images.concat(), images.len())?;
    let (mut thresholds, mut left) = (Vec::new(), 0.0);
    for (exit, share) in shares[..shares.len() - 1].iter().enumerate() {
        x = network.segment(exit, &x, &mut Pass::Evaluate)?;
        let logits = network
            .exit(exit, &x, &mut Pass::Evaluate)?
            .to_vec2::<f32>()?;
        let entropies: Vec<f64> = logits.iter().map(|z| read(z).entropy).collect();
        let mut sorted = entropies.clone();
        sorted.sort_by(f64::total_cmp);
        left += share;
        let already = images.len() - entropies.len();
        let leaving = ((left * images.len() as f64).round() as usize)
            .saturating_sub(already)
            .min(entropies.len());
        let threshold = match leaving {
            0 => 0.0,
            n if n == sorted.len() => f64::INFINITY,
            n => (sorted[n - 1] + sorted[n]) / 2.0,
        };
        thresholds.push(threshold);
        let staying: Vec<u32> = (0u32..)
            .zip(&entropies)
            .filter(|(_, entropy)| **entropy >= threshold)
            .map(|(i, _)| i)
            .collect();
        if staying.is_empty() {
            thresholds.resize(shares.len() - 1, f64::INFINITY);
            break;
        }
        x = x.index_select(&Tensor::new(staying, x.device())?, 0)?;
    }
    Ok(thresholds)
}

fn check_shares(network: &Network, shares: &[f64]) -> Result<()> {
    let off = (shares.iter().sum::<f64>() - 1.0).abs();
    if shares.len() != network.exits() || off.is_nan() || off > 1e-6 {
        bail!(
            "{} exits need as many shares that add up to 1, got {shares:?}",
            network.exits()
        )
    }
    Ok(())
}

/// The contenders' plans.
struct Contest {
    plan: Plan,
    baseline: Plan,
    /// For each exit thresholds that make every sample leave there: nobody before it, everybody at
    /// it.
    forced: Vec<Vec<f64>>,
    last: Vec<f64>,
}

impl Contest {
    fn new(network: &Network, baseline: &Network) -> Result<Self> {
        let exits = network.exits();
        let at = |exit: usize, i: usize| if i < exit { 0.0 } else { f64::INFINITY };
        Ok(Self {
            plan: Plan::new(network)?,
            baseline: Plan::new(baseline)?,
            forced: (0..exits)
                .map(|exit| (0..exits - 1).map(|i| at(exit, i)).collect())
                .collect(),
            last: vec![0.0; baseline.exits() - 1],
        })
    }

    fn baseline(&mut self, image: &[f32]) -> Result<f64> {
        timed(|| self.baseline.classify(image, &self.last).map(drop))
    }

    fn leave(&mut self, image: &[f32], exit: usize) -> Result<f64> {
        timed(|| self.plan.classify(image, &self.forced[exit]).map(drop))
    }

    fn trunk(&mut self, image: &[f32], exit: usize) -> Result<f64> {
        timed(|| self.plan.run_trunk(image, exit))
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Lets all contenders take their turn on each image, `rounds` times over, after a warm-up on a tenth
/// of the images.
fn rounds_over(
    images: &[Vec<f32>],
    rounds: usize,
    mut turn: impl FnMut(&[f32], usize) -> Result<Vec<f64>>,
) -> Result<Vec<Latency>> {
    if images.is_empty() || rounds == 0 {
        bail!(
            "timing needs at least one image and one round, got {} and {rounds}",
            images.len()
        )
    }
    for (i, image) in images.iter().enumerate().take(images.len().div_ceil(10)) {
        turn(image, i)?;
    }
    let mut times: Vec<Vec<f64>> = Vec::new();
    for _ in 0..rounds {
        for (i, image) in images.iter().enumerate() {
            let turn = turn(image, i)?;
            times.resize(turn.len(), Vec::new());
            times
                .iter_mut()
                .zip(turn)
                .for_each(|(times, time)| times.push(time));
        }
    }
    Ok(times
        .into_iter()
        .map(|times| Latency::of(times, images.len()))
        .collect())
}
