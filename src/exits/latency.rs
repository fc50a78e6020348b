//! Honest time: what one image costs, end to end.
//!
//! The original's timer covered the trunk segments alone: branches, softmax, entropy and the
//! decision ran outside it, while the baseline's classifier ran inside; there was no warm-up and no
//! repetition. Here a sample is timed from its pixels to its answer, baseline and branchy network
//! take turns on the same images, and what the paper's timer would have shown stands beside it
//! under its own name. All times are in milliseconds, of a machine whose speed is that of the median
//! of the baseline's times: each time counts by its ratio to the baseline's on the same image in the
//! same round, as a processor that changes its clock in between, or has neighbours, changes both.

use super::classify::Engine;
use super::plan::Plan;
use super::policy::ExitPolicy;
use super::readout::Readout;
use super::record::ExitRecord;
use super::shares;
use crate::data::Validation;
use crate::networks::Network;
use crate::{Result, bail};
use candle_core::Tensor;
use std::ops::Range;
use std::time::Instant;

/// Milliseconds per sample, over many samples.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Latency {
    /// The median.
    pub median: f64,
    /// The 95th percentile, as the clock showed it.
    pub p95: f64,
    /// The mean over the images, for a mix of fast and slow samples the time that a stream of them
    /// takes each: of each image the median over the rounds.
    pub mean: f64,
    /// How many times were measured.
    pub count: usize,
}

impl Latency {
    /// Of the times of `images` images in each of several rounds, and those of the baseline.
    fn of(times: &[f64], baseline: &[f64], images: usize) -> Self {
        let median = percentile(baseline, 0.5) * percentile(&ratios(times, baseline), 0.5);
        let mean = of_images(times, baseline, images).iter().sum::<f64>() / images as f64;
        Self { median, p95: percentile(times, 0.95), mean, count: times.len() }
    }
}

fn ratios(times: &[f64], baseline: &[f64]) -> Vec<f64> {
    times.iter().zip(baseline).map(|(time, baseline)| time / baseline).collect()
}

/// The time of each of `images` images: of its ratios to the baseline's in several rounds the median.
fn of_images(times: &[f64], baseline: &[f64], images: usize) -> Vec<f64> {
    let ratios = ratios(times, baseline);
    let rounds = |image: usize| ratios.iter().skip(image).step_by(images).copied().collect::<Vec<_>>();
    let unit = percentile(baseline, 0.5);
    (0..images).map(|image| unit * percentile(&rounds(image), 0.5)).collect()
}

/// The value that this share of the values (0..=1) does not exceed.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (share * (sorted.len().max(1) - 1) as f64).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Batch-1 times on one thread of the CPU.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timing {
    /// The baseline end to end: pixels to label.
    pub baseline: Latency,
    /// For each exit: end to end for a sample that leaves there, all branches on its way included.
    pub exits: Vec<Latency>,
    /// For each exit: the trunk alone, as the paper timed it.
    pub trunk_only: Vec<Latency>,
    /// For each exit the time of each image, of several rounds the median: what the machine does beside shows in
    /// [`Latency::p95`], not here.
    pub exit_times: Vec<Vec<f64>>,
}

/// Batch-1 times over a mix of samples that leave at different exits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Mix {
    /// The baseline end to end, in the same run: that of all mixes that are timed together.
    pub baseline: Latency,
    /// End to end, each sample leaving where the mix says.
    pub mix: Latency,
    /// The trunk alone over the same mix, as the paper timed it.
    pub trunk_only: Latency,
    /// Trunk and branches over the same mix, without criterion and decision.
    pub undecided: Latency,
}

impl Mix {
    /// The baseline's mean time over the mix's: how many times faster early exit is, end to end.
    pub fn speedup(&self) -> f64 {
        self.baseline.mean / self.mix.mean
    }

    /// The speedup as the paper accounts for it: the trunk alone.
    pub fn speedup_trunk_only(&self) -> f64 {
        self.baseline.mean / self.trunk_only.mean
    }
}

impl Timing {
    /// Median milliseconds to leave at each exit: the costs for [`super::ExitRecord`].
    pub fn costs(&self) -> Vec<f64> {
        self.exits.iter().map(|latency| latency.median).collect()
    }

    /// The milliseconds that this share of the samples (`within`, 0..=1) does not exceed when they leave at the exits in
    /// these shares (of 1). Fails where shares do not fit the exits.
    pub fn percentile(&self, shares: &[f64], within: f64) -> Result<f64> {
        shares::check(shares, self.exit_times.len())?;
        let of_exit = |(times, share): (&Vec<f64>, &f64)| {
            let each = share / times.len() as f64;
            times.iter().map(|&time| (time, each)).collect::<Vec<_>>()
        };
        let mut weighed: Vec<(f64, f64)> = self.exit_times.iter().zip(shares).flat_map(of_exit).collect();
        weighed.retain(|(_, weight)| *weight > 0.0);
        weighed.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A share that is reached but for rounding is reached.
        let mut below = 0.0;
        let reached = |(_, weight): &&(f64, f64)| {
            below += weight;
            below >= within - 1e-9
        };
        Ok(weighed.iter().find(reached).or(weighed.last()).map_or(f64::NAN, |(time, _)| *time))
    }
}

/// What a batch of one size costs, from pixels in the computer's memory to answers there.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BatchTime {
    /// Images per batch.
    pub batch: usize,
    /// Milliseconds per image for the baseline: the mean over all batches, of each the median over the rounds.
    pub baseline: f64,
    /// Likewise with early exits.
    pub early_exit: f64,
    /// Threads that share a batch: on the CPU all, but one for a single image; on a GPU one.
    pub threads: usize,
}

impl BatchTime {
    /// How many times faster early exit is; below 1 it is slower.
    pub fn speedup(&self) -> f64 {
        self.baseline / self.early_exit
    }
}

/// Times a network with early exits against its baseline on the same images.
///
/// ```
/// use branchynet::prelude::*;
///
/// let layers = b_lenet();
/// let baseline = Network::new("LeNet", [1, 28, 28], without_branches(&layers), 0, &Device::Cpu)?;
/// let network = Network::new("B-LeNet", [1, 28, 28], layers, 0, &Device::Cpu)?;
/// let images = vec![vec![0.5; 784]; 20];
/// let timer = Timer::new(&network, &baseline, images, 2)?;
/// assert_eq!(timer.exits()?.exits.len(), 2);
/// println!("{:.2} times faster", timer.mixes(&[[0.9, 0.1]])?[0].speedup());
/// # Ok::<(), branchynet::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Timer {
    network: Network,
    baseline: Network,
    images: Vec<Vec<f32>>,
    rounds: usize,
    readout: Readout,
}

impl Timer {
    /// A timer that goes `rounds` times over `images`, the pixels of one image each (channels, height,
    /// width; as [`crate::data::Split::batch`] scales them). What the weights are makes no difference.
    /// Fails without images or rounds, or where images have another size.
    pub fn new(network: &Network, baseline: &Network, images: Vec<Vec<f32>>, rounds: usize) -> Result<Self> {
        let size = network.input().len();
        if rounds == 0 || images.is_empty() || images.iter().any(|image| image.len() != size) {
            bail!(
                Setting,
                "timing needs at least one round and one image, each of {size} values, got {rounds} and {} of {} values",
                images.len(),
                images.first().map_or(0, Vec::len)
            )
        }
        Ok(Self {
            network: network.clone(),
            baseline: baseline.clone(),
            images,
            rounds,
            readout: Readout::default(),
        })
    }

    /// The network with branches that is timed.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The same with the time that another criterion takes, or a whole readout.
    pub fn by(mut self, readout: impl Into<Readout>) -> Self {
        self.readout = readout.into();
        self
    }

    /// Times leaving at each exit, one image at a time on one thread of the CPU, all contenders in turn
    /// on the same images.
    pub fn exits(&self) -> Result<Timing> {
        let leaves: Vec<_> = (0..self.network.exits()).map(|exit| vec![exit; self.images.len()]).collect();
        let (baseline, times) = self.contest(&leaves, [Run::EarlyExit, Run::Trunk])?;
        let count = self.images.len();
        let latency = |times: &Vec<f64>| Latency::of(times, &baseline, count);
        Ok(Timing {
            baseline: latency(&baseline),
            exits: times.iter().map(|[exit, _]| latency(exit)).collect(),
            trunk_only: times.iter().map(|[_, trunk]| latency(trunk)).collect(),
            exit_times: times.iter().map(|[exit, _]| of_images(exit, &baseline, count)).collect(),
        })
    }

    /// Times images that leave at the exits in these shares (of 1), early and late ones mixed evenly,
    /// otherwise as [`Self::exits`]: all mixes take turns, so that their gains can be compared. Fails where
    /// shares do not fit the exits.
    pub fn mixes<S: AsRef<[f64]>>(&self, shares: &[S]) -> Result<Vec<Mix>> {
        let leaves = shares.iter().map(|shares| self.leaves(shares.as_ref())).collect::<Result<Vec<_>>>()?;
        let (baseline, times) = self.contest(&leaves, [Run::EarlyExit, Run::Trunk, Run::Undecided])?;
        let latency = |times: &Vec<f64>| Latency::of(times, &baseline, self.images.len());
        let mix = |times: &Times<3>| {
            let [mix, trunk_only, undecided] = times.each_ref().map(latency);
            Mix { baseline: latency(&baseline), mix, trunk_only, undecided }
        };
        Ok(times.iter().map(mix).collect())
    }

    /// Where each image leaves so that these shares do: at the exit that is furthest behind its share.
    fn leaves(&self, shares: &[f64]) -> Result<Vec<usize>> {
        shares::check(shares, self.network.exits())?;
        let mut counts = vec![0.0; shares.len()];
        let leaves = (1..=self.images.len()).map(|n| {
            let behind = |exit: usize| shares[exit] * n as f64 - counts[exit];
            let exit = (0..shares.len()).max_by(|&a, &b| behind(a).total_cmp(&behind(b))).unwrap_or(0);
            counts[exit] += 1.0;
            exit
        });
        Ok(leaves.collect())
    }

    /// Runs all images once, leaving in these shares, or the baseline where there are none: what
    /// [`Self::mixes`] times, for other measures than time.
    pub fn stream(&self, shares: Option<&[f64]>) -> Result<()> {
        let mut plans = Plans::new(self)?;
        let (run, leaves) = match shares {
            None => (Run::Baseline, vec![0; self.images.len()]),
            Some(shares) => (Run::EarlyExit, self.leaves(shares)?),
        };
        self.images.iter().zip(leaves).try_for_each(|(image, exit)| plans.time(run, image, exit).map(drop))
    }

    /// Times whole batches of these sizes on the device of the networks, thresholds set so that `shares`
    /// of the images leave at each exit. In a round both take turns on all images, batch by batch, or on
    /// one batch of images used again where they are too few; one round warms up. The device has finished
    /// before the clock starts and before it stops. On the CPU with as many threads as it has cores.
    /// Fails where shares do not fit the exits, or for sizes of 0.
    pub fn batches(&self, shares: &[f64], sizes: &[usize]) -> Result<Vec<BatchTime>> {
        shares::check(shares, self.network.exits())?;
        if sizes.is_empty() || sizes.contains(&0) {
            bail!(Setting, "the sizes of batches must be at least 1, got {sizes:?}")
        }
        let policy = self.policy_for(shares)?;
        let (criterion, exits) = (&self.readout.criterion, self.baseline.exits());
        let never = ExitPolicy::new(criterion.clone(), criterion.leaving_at(exits - 1, exits));
        sizes.iter().map(|&batch| self.batches_of(batch, &policy, &never)).collect()
    }

    fn batches_of(&self, batch: usize, policy: &ExitPolicy, never: &ExitPolicy) -> Result<BatchTime> {
        let device = self.network.device();
        let images = self.images.iter().cycle();
        let pixels = images.take(batch.max(self.images.len()));
        let pixels: Vec<f32> = pixels.flatten().copied().collect();
        let batches: Vec<&[f32]> = pixels.chunks_exact(batch * self.images[0].len()).collect();
        let mut engines = (Engine::new(&self.baseline)?, Engine::new(&self.network)?);
        let run = |engine: &mut Engine<'_>, pixels: &[f32], policy: &ExitPolicy| -> Result<f64> {
            device.synchronize()?;
            timed(|| {
                engine.classify(&tensor(&self.network, pixels, batch)?, policy, false)?;
                Ok(device.synchronize()?)
            })
        };
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..=self.rounds {
            for pixels in &batches {
                times.0.push(run(&mut engines.0, pixels, never)?);
                times.1.push(run(&mut engines.1, pixels, policy)?);
            }
        }
        // The first round warms up.
        let [all, early] = [&times.0, &times.1].map(|times| &times[batches.len()..]);
        let per_image = |times| Latency::of(times, all, batches.len()).mean / batch as f64;
        let threads = if device.is_cpu() { batch.min(rayon::current_num_threads()) } else { 1 };
        let (baseline, early_exit) = (per_image(all), per_image(early));
        Ok(BatchTime { batch, baseline, early_exit, threads })
    }

    /// A policy by which these shares of the images leave, whatever the weights are.
    fn policy_for(&self, shares: &[f64]) -> Result<ExitPolicy> {
        let images = &self.images[..self.images.len().min(1000)];
        let logits =
            Engine::new(&self.network)?.logits(&tensor(&self.network, &images.concat(), images.len())?)?;
        // Labels make no difference.
        let record = ExitRecord::<Validation>::from_logits(logits, vec![0; images.len()])?;
        let record = record.read_by(&self.readout)?;
        Ok(record.policy(&record.thresholds_for(shares)?))
    }

    /// Lets the baseline, and for each of `leaves`, which says where each image leaves, all of `runs` take their turn on
    /// the same images, over all rounds, after a warm-up on a tenth of the images; their times in milliseconds. A turn is a block of images: in a
    /// stream a network finds its weights in the cache, and those behind an exit come back only with the first image
    /// that passes it. In blocks of 20 the decision seemed to cost AlexNet 4 %, in blocks of 100 2 %.
    fn contest<const N: usize>(
        &self,
        leaves: &[Vec<usize>],
        runs: [Run; N],
    ) -> Result<(Vec<f64>, Vec<Times<N>>)> {
        const BLOCK: usize = 100;
        let mut plans = Plans::new(self)?;
        let nowhere = vec![0; self.images.len()];
        let mut contenders = vec![(Run::Baseline, &nowhere)];
        contenders.extend(leaves.iter().flat_map(|leaves| runs.map(|run| (run, leaves))));
        let mut turn = |(run, leaves): (Run, &Vec<usize>), images: Range<usize>| {
            images.map(|i| plans.time(run, &self.images[i], leaves[i])).collect::<Result<Vec<f64>>>()
        };
        let count = self.images.len();
        for &contender in &contenders {
            turn(contender, 0..count.div_ceil(10))?;
        }
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for _ in 0..self.rounds {
            for start in (0..count).step_by(BLOCK) {
                for (&contender, times) in contenders.iter().zip(&mut times) {
                    times.extend(turn(contender, start..count.min(start + BLOCK))?);
                }
            }
        }
        let mut times = times.into_iter();
        let baseline = times.next().unwrap_or_default();
        let of_runs = leaves.iter().map(|_| runs.map(|_| times.next().unwrap_or_default()));
        let of_runs = of_runs.collect();
        Ok((baseline, of_runs))
    }
}

/// The times of each of so many runs.
type Times<const N: usize> = [Vec<f64>; N];

fn tensor(network: &Network, pixels: &[f32], batch: usize) -> Result<Tensor> {
    let [channels, height, width] = network.image;
    Ok(Tensor::from_slice(pixels, (batch, channels, height, width), network.device())?)
}

/// What is timed of an image.
#[derive(Debug, Clone, Copy)]
enum Run {
    Baseline,
    EarlyExit,
    /// The trunk alone, up to the exit.
    Trunk,
    /// Trunk and branches up to the exit, without criterion and decision.
    Undecided,
}

/// The contenders' plans.
struct Plans {
    plan: Plan,
    baseline: Plan,
    /// For each exit a policy by which every sample leaves there: nobody before it, everybody at it.
    forced: Vec<ExitPolicy>,
    last: ExitPolicy,
}

impl Plans {
    fn new(timer: &Timer) -> Result<Self> {
        let (readout, criterion) = (&timer.readout, &timer.readout.criterion);
        let (exits, of_baseline) = (timer.network.exits(), timer.baseline.exits());
        let leave_at = |exit| ExitPolicy::new(readout.clone(), criterion.leaving_at(exit, exits));
        Ok(Self {
            plan: Plan::new(&timer.network)?,
            baseline: Plan::new(&timer.baseline)?,
            forced: (0..exits).map(leave_at).collect(),
            last: ExitPolicy::new(criterion.clone(), criterion.leaving_at(of_baseline - 1, of_baseline)),
        })
    }

    /// Milliseconds for an image that leaves at `exit`.
    fn time(&mut self, run: Run, image: &[f32], exit: usize) -> Result<f64> {
        timed(|| match run {
            Run::Baseline => self.baseline.classify(image, &self.last).map(drop),
            Run::EarlyExit => self.plan.classify(image, &self.forced[exit]).map(drop),
            Run::Trunk | Run::Undecided => {
                self.plan.run_undecided(image, exit, matches!(run, Run::Undecided))
            }
        })
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_changes_its_speed_changes_nothing() {
        // Two images, three rounds; the second round takes twice as long, and one time is disturbed.
        let baseline = [4.0, 4.0, 8.0, 8.0, 4.0, 4.0];
        let times = [1.0, 3.0, 2.0, 6.0, 9.0, 3.0];
        let latency = Latency::of(&times, &baseline, 2);
        assert_eq!((latency.mean, latency.median, latency.count), (2.0, 3.0, 6));
        assert_eq!(latency.p95, 9.0);
        assert_eq!(Latency::of(&baseline, &baseline, 2).mean, 4.0);
        assert_eq!(of_images(&times, &baseline, 2), [1.0, 3.0]);
    }

    #[test]
    fn a_mix_has_the_percentiles_of_its_exits() -> Result<()> {
        let latency = Latency { median: 1.0, p95: 1.0, mean: 1.0, count: 2 };
        let timing = Timing {
            baseline: latency,
            exits: vec![latency; 2],
            trunk_only: vec![latency; 2],
            exit_times: vec![vec![1.0, 2.0], vec![8.0, 6.0, 7.0, 9.0]],
        };
        // 45 % of the samples take 1 ms, as many 2, and 2.5 % each 6, 7, 8 and 9.
        for (within, ms) in [(0.0, 1.0), (0.45, 1.0), (0.46, 2.0), (0.925, 6.0), (0.95, 7.0), (0.99, 9.0)] {
            assert_eq!(timing.percentile(&[0.9, 0.1], within)?, ms, "{within}");
        }
        assert_eq!(timing.percentile(&[1.0, 0.0], 1.0)?, 2.0);
        assert!(timing.percentile(&[1.0], 0.5).is_err());
        Ok(())
    }
}
