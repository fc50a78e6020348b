//! The promise of at most a share ε of changed answers, watched without labels while a network answers.
//!
//! An answer is changed where it is not the last exit's. A share of all images is drawn at random; one that left early is
//! sent on to the last exit, one that got there itself costs nothing more. Each image drawn so gives a loss of 0 or 1, and
//! a gambler bets that losses are more than promised: its wealth is multiplied by 1 + λ (loss − ε). As long as no image
//! is changed with a probability above ε, no bet gains in the mean, and the wealth, which begins at 1, ever reaches 1/δ
//! with a probability of at most δ (Ville 1939): the alarm. Betting is that of Waudby-Smith and Ramdas 2024
//! (<https://arxiv.org/abs/2010.09686>), for the risk of a model in use as in Podkopaev and Ramdas 2022
//! (<https://arxiv.org/abs/2110.06177>).
//!
//! One gambler is slow where images shift late: it has lost most of its wealth by then. So wealth is dealt out to
//! gamblers who begin at each image drawn, the t-th getting t^(−1/4) − (t + 1)^(−1/4), all of which add up to 1. The sum
//! of what they have and of what is not dealt out yet is still a supermartingale that begins at 1. (The e-detectors of
//! Shin, Ramdas and Rinaldo 2022, <https://arxiv.org/abs/2203.03532>, give every gambler 1: these are quicker, but then it
//! is the mean time to a false alarm that is bounded, and one comes sooner or later.) Each gambler divides what it gets
//! among bets of 1/2, 1/4, … 1/256 of the most that may be bet, which suit small and large shifts. Both were chosen on
//! simulated coins, against adaptive bets (aGRAPA) and other weights.

use crate::{Result, Rng, bail};
use rand::{Rng as _, SeedableRng};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The bets of 1/2, 1/4, … of the most that may be bet.
const BETS: usize = 8;

/// Watches whether at most a share ε of the answers is not the last exit's.
///
/// Let an image's rate be the probability, given all images before it, that its answer is changed. What holds: *the
/// probability of an alarm that comes while no rate has been above ε is at most δ, over any length of stream*, whatever
/// the thresholds do meanwhile. Images that are drawn independently from one world, in which thresholds keep the promise,
/// are such; it may be another world than that which chose, and may change. Not such are a finite pool in random order,
/// of which the last images are known from those before, and frames of a film, which are changed many in a row: their
/// alarm says that more were changed for a while. Thresholds of [`super::ExitRecord::learn_then_test`] may break their
/// promise without any shift, with a probability of their own δ, which adds to this one. No alarm proves nothing: a rate
/// little above ε takes tens of thousands of images drawn.
///
/// [`super::Plan::classify_watched`] does what there is to do for an image. The state is JSON, with which a stream goes on
/// as if it had not been interrupted, bit for bit:
///
/// ```
/// use branchynet::prelude::*;
///
/// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
/// let (mut plan, mut policy) = (Plan::new(&network)?, ExitPolicy::entropy([2.5]));
/// let mut watch = Watch::new(0.01, 0.05, 0.5, 0)?;
/// # let images = (0..200).map(|i| vec![(i as f32).sin(); 784]);
/// let answers = images.map(|image| -> Result<Answer> {
///     let answer = plan.classify_watched(&image, &policy, &mut watch)?;
///     if watch.alarmed() {
///         policy = policy.to_the_end(); // or stricter thresholds and watch.restart()?, or a message
///     }
///     Ok(answer)
/// });
/// assert_eq!(answers.collect::<Result<Vec<_>>>()?.len(), 200);
/// let restored: Watch = serde_json::from_str(&serde_json::to_string(&watch)?)?;
/// assert_eq!(restored, watch);
/// # Ok::<(), branchynet::Error>(())
/// ```
///
/// In batches, as on a GPU, with [`Self::draws`] and [`Self::see`]:
///
/// ```
/// # use branchynet::prelude::*;
/// # let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
/// # let (policy, mut watch) = (ExitPolicy::entropy([2.5]), Watch::new(0.01, 0.05, 0.5, 0)?);
/// # let images = Tensor::zeros((20, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let answers = network.classify(&images, &policy)?;
/// let drawn: Vec<u32> = (0..answers.len() as u32).filter(|_| watch.draws()).collect();
/// if !drawn.is_empty() {
///     let again = images.index_select(&Tensor::new(drawn.as_slice(), images.device())?, 0)?;
///     for (image, last) in drawn.into_iter().zip(network.classify(&again, &policy.to_the_end())?) {
///         watch.see(answers[image as usize].label != last.label);
///     }
/// }
/// # Ok::<(), branchynet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Watch {
    epsilon: f64,
    delta: f64,
    share: f64,
    seed: u64,
    /// What δ is divided among, and which of them is under way, from 1.
    tests: u32,
    test: u32,
    images: u64,
    /// In the test under way.
    drawn: u64,
    changed: u64,
    alarmed: bool,
    /// What all gamblers together have in each of the bets.
    wealth: [f64; BETS],
}

impl Watch {
    /// Watches whether at most the share `epsilon` of the answers is changed, with a probability of at most `delta` of ever
    /// raising a false alarm; `share` of all images is drawn, by coins that follow from `seed`. Fails unless epsilon and
    /// delta are between 0 and 1, and the share above 0 and at most 1.
    pub fn new(epsilon: f64, delta: f64, share: f64, seed: u64) -> Result<Self> {
        let (tests, test, images, drawn, changed, alarmed) = (1, 1, 0, 0, 0, false);
        let wealth = [0.0; BETS];
        Self { epsilon, delta, share, seed, tests, test, images, drawn, changed, alarmed, wealth }.checked()
    }

    /// The same with δ divided equally among a first test and so many more, each after a [`Self::restart`]: the probability
    /// that any of them raises a false alarm stays at most δ.
    pub fn restarts(self, restarts: u32) -> Self {
        Self { tests: restarts.saturating_add(1), ..self }
    }

    fn checked(self) -> Result<Self> {
        let Self { epsilon, delta, share, .. } = self;
        for (name, value) in [("epsilon", epsilon), ("delta", delta)] {
            if !(value > 0.0 && value < 1.0) {
                bail!(Setting, "{name} must be between 0 and 1, got {value}")
            }
        }
        if !(share > 0.0 && share <= 1.0) {
            bail!(Setting, "the share of images that is drawn must be above 0 and at most 1, got {share}")
        }
        let counts = self.changed <= self.drawn && self.drawn <= self.images;
        if !(1..=self.tests).contains(&self.test)
            || !counts
            || self.wealth.iter().any(|w| w.is_nan() || *w < 0.0)
        {
            bail!(Setting, "this is no state of a watch: its numbers contradict each other")
        }
        Ok(self)
    }

    /// Whether the next image is drawn; to be asked once for each, in their order, whatever is known of it. After an alarm
    /// none is, until [`Self::restart`].
    pub fn draws(&mut self) -> bool {
        // A coin for each image, so that counts are all that there is to save. Streams of neighbouring seeds have no
        // coins in common.
        let coin = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.images);
        self.images += 1;
        !self.alarmed && Rng::seed_from_u64(coin).random_bool(self.share)
    }

    /// Takes in an image that was drawn: whether its answer is not the last exit's, which it cannot be where the image went
    /// there itself. Returns whether this raises the alarm.
    pub fn see(&mut self, changed: bool) -> bool {
        if self.alarmed {
            return false;
        }
        let before = self.reserve();
        self.drawn += 1;
        self.changed += u64::from(changed);
        let dealt = (before - self.reserve()) / BETS as f64;
        let mut part = 1.0;
        for wealth in &mut self.wealth {
            part /= 2.0;
            // 1 + λ (loss − ε) with λ = part / ε.
            let times = if changed { 1.0 + part * (1.0 - self.epsilon) / self.epsilon } else { 1.0 - part };
            *wealth = (*wealth + dealt) * times;
        }
        self.alarmed = self.wealth() * self.delta >= f64::from(self.tests);
        self.alarmed
    }

    /// What is not dealt out yet. By roots, which are the same on every machine.
    fn reserve(&self) -> f64 {
        1.0 / ((self.drawn + 1) as f64).sqrt().sqrt()
    }

    /// What all gamblers have: 1 at the beginning, and at an alarm at least 1/δ times the tests that δ is divided among.
    /// Where nothing is changed too often, 1 over the largest so far is a p-value at any time.
    pub fn wealth(&self) -> f64 {
        self.reserve() + self.wealth.iter().sum::<f64>()
    }

    /// Whether the promise is refuted, in the test under way.
    pub fn alarmed(&self) -> bool {
        self.alarmed
    }

    /// The images seen so far.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// The images drawn in the test under way, and how many of them were changed.
    pub fn drawn(&self) -> (u64, u64) {
        (self.drawn, self.changed)
    }

    /// Begins the next test, for thresholds that are stricter or chosen anew. Fails where none is left of those that δ is
    /// divided among: see [`Self::restarts`].
    pub fn restart(&mut self) -> Result<()> {
        if self.test == self.tests {
            bail!(
                Setting,
                "delta is divided among {} tests, and this was the last: ask for more with `restarts`, or send all images to the last exit",
                self.tests
            )
        }
        (self.test, self.drawn, self.changed, self.alarmed) = (self.test + 1, 0, 0, false);
        self.wealth = [0.0; BETS];
        Ok(())
    }
}

impl Serialize for Watch {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

/// Fails where the numbers cannot be those of a watch.
impl<'de> Deserialize<'de> for Watch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Self::deserialize(from)?.checked().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch of all images.
    fn watch(epsilon: f64, delta: f64) -> Watch {
        Watch::new(epsilon, delta, 1.0, 0).unwrap()
    }

    /// The wealth after each loss.
    fn wealths(mut watch: Watch, losses: &[bool]) -> Vec<f64> {
        let see = |&loss| {
            watch.see(loss);
            watch.wealth()
        };
        losses.iter().map(see).collect()
    }

    #[test]
    fn the_wealth_of_two_images_is_as_computed_by_hand() {
        // The reserve: 1, 2^(−1/4) = 0.840896…, 3^(−1/4) = 0.759835…; at ε = 1/4 a bet of f is multiplied by 1 + 3f or 1 − f.
        let (first, second) = (0.8408964152537145, 0.7598356856515925);
        let f: Vec<f64> = (1..=8).map(|j| 0.5f64.powi(j)).collect();
        let sum = |of: &dyn Fn(f64) -> f64| f.iter().map(|&f| of(f)).sum::<f64>() / 8.0;
        let expected = [
            first + (1.0 - first) * sum(&|f| 1.0 + 3.0 * f),
            second + sum(&|f| ((1.0 - first) * (1.0 + 3.0 * f) + first - second) * (1.0 - f)),
        ];
        for (found, expected) in wealths(watch(0.25, 1e-9), &[true, false]).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
    }

    #[test]
    fn over_all_sequences_the_wealth_is_one_in_the_mean_and_alarms_are_rare() {
        const N: u32 = 12;
        for (epsilon, rate) in [(0.3f64, 0.3f64), (0.3, 0.1), (0.02, 0.02)] {
            for delta in [0.5, 0.2, 0.05] {
                let (mut mean, mut alarms, mut total) = (0.0, 0.0, 0.0);
                for sequence in 0..1u32 << N {
                    let losses: Vec<bool> = (0..N).map(|i| (sequence >> i) & 1 == 1).collect();
                    let ones = sequence.count_ones() as i32;
                    let probability = rate.powi(ones) * (1.0 - rate).powi(N as i32 - ones);
                    // Without an alarm in between the wealth goes on; with a real delta the first alarm counts.
                    mean += probability * wealths(watch(epsilon, 1e-300), &losses)[N as usize - 1];
                    let mut watch = watch(epsilon, delta);
                    alarms += if losses.iter().any(|&loss| watch.see(loss)) { probability } else { 0.0 };
                    total += probability;
                }
                assert!((total - 1.0).abs() < 1e-12);
                let fair = (mean - 1.0).abs() < 1e-12;
                assert!(if rate == epsilon { fair } else { mean < 1.0 }, "{epsilon} {rate}: {mean}");
                assert!(
                    alarms <= delta && (rate < epsilon || delta < 0.2 || alarms > 0.0),
                    "{alarms} {delta}"
                );
            }
        }
    }

    /// After how many images drawn there is an alarm: at `rates` before and from image `shift` on.
    fn alarm(mut watch: Watch, shift: usize, rates: [f64; 2], length: usize, seed: u64) -> Option<usize> {
        let mut rng = Rng::seed_from_u64(seed);
        (0..length).find(|&i| watch.see(rng.random_bool(rates[usize::from(i >= shift)])))
    }

    #[test]
    fn false_alarms_keep_to_delta_and_shifts_are_noticed_late_as_well() {
        let streams = 1_000;
        let false_alarms =
            (0..streams).filter(|&seed| alarm(watch(0.05, 0.1), 0, [0.05; 2], 5_000, seed).is_some()).count();
        // 10 % and three standard deviations of 1,000 streams; a test that never sounds would be of no use.
        assert!((5..=128).contains(&false_alarms), "{false_alarms}");
        for shift in [0, 2_000] {
            let delay = |seed| alarm(watch(0.01, 0.05), shift, [0.005, 0.2], shift + 100, seed);
            let noticed = (0..200).filter_map(delay).filter(|&at| at >= shift).count();
            assert!(noticed >= 190, "{noticed} of 200 streams that shift after {shift} images");
        }
    }

    #[test]
    fn a_share_of_the_images_is_drawn_by_coins_of_the_seed() {
        let coins = |share: f64, seed: u64| -> Vec<bool> {
            let mut watch = Watch::new(0.01, 0.05, share, seed).unwrap();
            (0..20_000).map(|_| watch.draws()).collect()
        };
        let (one, other) = (coins(0.1, 3), coins(0.1, 4));
        for coins in [&one, &other] {
            let drawn = coins.iter().filter(|&&drawn| drawn).count();
            // Three standard deviations.
            assert!((1_873..=2_127).contains(&drawn), "{drawn}");
        }
        let both = one.iter().zip(&other).filter(|(a, b)| **a && **b).count();
        assert!((158..=242).contains(&both), "{both}");
        assert!(one[1..] != other[..19_999] && coins(1.0, 0).iter().all(|&drawn| drawn));
    }

    #[test]
    fn a_restored_watch_goes_on_bit_for_bit() -> Result<()> {
        let run = |interrupted: bool| -> Result<(Watch, Vec<u64>)> {
            let mut watch = Watch::new(0.03, 0.1, 0.3, u64::MAX)?.restarts(2);
            let (mut rng, mut alarms) = (Rng::seed_from_u64(5), Vec::new());
            for _ in 0..3_000 {
                if watch.draws() && watch.see(rng.random_bool(0.08)) {
                    alarms.push(watch.images());
                    if alarms.len() < 3 {
                        watch.restart()?;
                    }
                }
                if interrupted {
                    watch = serde_json::from_str(&serde_json::to_string(&watch)?)?;
                }
            }
            Ok((watch, alarms))
        };
        let (whole, interrupted) = (run(false)?, run(true)?);
        assert_eq!(whole, interrupted);
        assert_eq!(whole.0.wealth().to_bits(), interrupted.0.wealth().to_bits());
        assert_eq!(whole.1.len(), 3, "{:?}", whole.1);
        Ok(())
    }

    #[test]
    fn restarts_divide_delta_and_end() -> Result<()> {
        let until = |watch: Watch| alarm(watch, 0, [1.0; 2], 100, 0).unwrap();
        let mut divided = watch(0.01, 0.05).restarts(9);
        assert_eq!(until(divided.clone()), until(watch(0.01, 0.005)));
        for _ in 0..9 {
            assert!((0..100).any(|_| divided.see(true)));
            // After an alarm nothing is drawn, and nothing counts.
            assert!(divided.alarmed() && !divided.draws() && !divided.see(true));
            divided.restart()?;
            assert_eq!((divided.drawn(), divided.wealth(), divided.alarmed()), ((0, 0), 1.0, false));
        }
        let refused = divided.restart().unwrap_err().to_string();
        assert!(refused.contains("divided among 10 tests"), "{refused}");
        Ok(())
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for (epsilon, delta, share, named) in [
            (0.0, 0.05, 0.1, "epsilon"),
            (1.0, 0.05, 0.1, "epsilon"),
            (f64::NAN, 0.05, 0.1, "epsilon"),
            (0.01, 0.0, 0.1, "delta"),
            (0.01, 1.5, 0.1, "delta"),
            (0.01, 0.05, 0.0, "share"),
            (0.01, 0.05, 1.1, "share"),
            (0.01, 0.05, f64::NAN, "share"),
        ] {
            let refused = Watch::new(epsilon, delta, share, 0).unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
        let json = serde_json::to_string(&watch(0.01, 0.05)).unwrap();
        assert!(serde_json::from_str::<Watch>(&json).is_ok());
        for (from, to) in [("0.05", "5.0"), ("\"test\":1", "\"test\":2"), ("\"drawn\":0", "\"drawn\":7")] {
            assert!(serde_json::from_str::<Watch>(&json.replace(from, to)).is_err(), "{json}");
        }
    }
}
