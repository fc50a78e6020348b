//! Honest time: what one image costs, end to end.
//!
//! The original's timer covered the trunk segments alone: branches, softmax, entropy and the
//! decision ran outside it, while the baseline's classifier ran inside; there was no warm-up and no
//! repetition. Here a sample is timed from its pixels to its answer, baseline and branchy network
//! take turns on the same images, and what the paper's timer would have shown stands beside it
//! under its own name.

use crate::data::{Role, Split};
use crate::early_exit::check_thresholds;
use crate::error::bail;
use crate::plan::Plan;
use crate::{Network, Result};
use candle_core::Device;
use polars::prelude::{DataFrame, df};
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
    /// End to end over the test images at the thresholds given, each leaving where it does.
    pub mix: Latency,
    /// The trunk alone over the same mix, as the paper timed it.
    pub mix_trunk_only: Latency,
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

    /// The baseline's mean time over the mix's: how many times faster early exit is, end to end.
    pub fn gain(&self) -> f64 {
        self.baseline.mean / self.mix.mean
    }

    /// The gain as the paper accounts for it: the trunk alone.
    pub fn gain_trunk_only(&self) -> f64 {
        self.baseline.mean / self.mix_trunk_only.mean
    }
}

/// Images timed before anything counts.
const WARM_UP: usize = 200;

/// Times `network` against `baseline` on the images of `split` at `thresholds`, `rounds` times over
/// up to 2,000 images, one image at a time, all contenders in turn on each image. Fails for an
/// empty split, thresholds that do not fit, or other image sizes.
pub fn measure<R: Role>(
    network: &Network,
    baseline: &Network,
    split: &Split<R>,
    thresholds: &[f64],
    rounds: usize,
) -> Result<Timing> {
    check_thresholds(thresholds, network.exits())?;
    if split.is_empty() || rounds == 0 {
        bail!(
            "timing needs at least one image and one round, got {} and {rounds}",
            split.len()
        )
    }
    let images = split.take(2000);
    let pixels: Vec<Vec<f32>> = (0..images.len())
        .map(|i| Ok(images.batch(&[i], &Device::Cpu)?.flatten_all()?.to_vec1()?))
        .collect::<Result<_>>()?;
    let (mut plan, mut base) = (Plan::new(network)?, Plan::new(baseline)?);
    let exits = network.exits();
    // Thresholds that make every sample leave at one exit: nobody before it, everybody at it.
    let forced: Vec<Vec<f64>> = (0..exits)
        .map(|exit| {
            (0..exits - 1)
                .map(|i| if i < exit { 0.0 } else { f64::INFINITY })
                .collect()
        })
        .collect();
    let last = vec![0.0; baseline.exits() - 1];
    let leaves: Vec<usize> = pixels
        .iter()
        .map(|image| Ok(plan.classify(image, thresholds)?.exit))
        .collect::<Result<_>>()?;
    let timed = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // Baseline, mix, trunk-only mix, then for each exit end to end and trunk only.
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); 3 + 2 * exits];
    for (i, (image, leaves)) in pixels
        .iter()
        .zip(&leaves)
        .cycle()
        .take(WARM_UP + rounds * pixels.len())
        .enumerate()
    {
        let mut turn = vec![
            timed(&mut || base.classify(image, &last).map(drop))?,
            timed(&mut || plan.classify(image, thresholds).map(drop))?,
            timed(&mut || plan.run_trunk(image, *leaves))?,
        ];
        for (exit, forced) in forced.iter().enumerate() {
            turn.push(timed(&mut || plan.classify(image, forced).map(drop))?);
            turn.push(timed(&mut || plan.run_trunk(image, exit))?);
        }
        if i >= WARM_UP {
            times
                .iter_mut()
                .zip(turn)
                .for_each(|(times, time)| times.push(time));
        }
    }
    let mut latencies = times
        .into_iter()
        .map(|times| Latency::of(times, pixels.len()));
    let mut next = || latencies.next().expect("one for each contender");
    let (baseline, mix, mix_trunk_only) = (next(), next(), next());
    let (exits, trunk_only) = (0..exits).map(|_| (next(), next())).unzip();
    Ok(Timing {
        baseline,
        exits,
        trunk_only,
        mix,
        mix_trunk_only,
    })
}
