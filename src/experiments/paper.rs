//! Numbers that others published, to stand beside ours. Those of figures are read off the plots.

use crate::Result;
use crate::error::bail;
use crate::exits::Outcome;

/// A point of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Time per sample.
    pub milliseconds: f64,
    /// In 0..=1.
    pub accuracy: f64,
}

impl From<&Outcome> for Point {
    /// Of an outcome whose costs are in milliseconds.
    fn from(outcome: &Outcome) -> Self {
        Self { milliseconds: outcome.cost, accuracy: outcome.accuracy() }
    }
}

/// Times of one device, in milliseconds per sample.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The trunk alone.
    pub baseline: f64,
    /// With early exits, by the paper's timer.
    pub branchy: f64,
    /// As the paper states it.
    pub gain: f64,
}

/// What the paper says of one network. Accuracies and shares are in 0..=1.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Paper {
    /// `B-LeNet`.
    pub network: &'static str,
    /// Accuracy of the baseline.
    pub baseline_accuracy: f64,
    /// Accuracy with early exits.
    pub accuracy: f64,
    /// The thresholds of Table I, on the entropy.
    pub thresholds: &'static [f64],
    /// The share that leaves at each exit.
    pub shares: &'static [f64],
    /// Intel CPU, 3.0 GHz.
    pub cpu: Times,
    /// NVIDIA GTX TITAN X.
    pub gpu: Times,
    /// Figure 3, GPU: points of the sweep over thresholds.
    pub curve: &'static [Point],
    /// Its baseline.
    pub baseline: Point,
    /// Figure 4, where samples leave at exit 1 or at the last exit: the share that leaves at exit 1, and the
    /// accuracy.
    pub accuracy_by_share: &'static [(f64, f64)],
    /// There too: the share that leaves at exit 1, and the largest entropy that does.
    pub entropy_by_share: &'static [(f64, f64)],
    /// Figure 5, with the first branch only: the number of convolutions in it, and the accuracy of the last
    /// exit.
    pub accuracy_by_convolutions: &'static [(&'static str, f64)],
    /// Figure 6, CPU, as the threshold varies: time per sample and cache-miss rate, each relative to its own
    /// baseline's.
    pub misses_by_time: &'static [(f64, f64)],
    /// The thresholds that the authors' script tries at every exit.
    pub grid: &'static [f64],
    /// Epochs of the baseline and of the joint training in the authors' scripts.
    pub epochs: [usize; 2],
    /// Images per step there.
    pub batch_size: usize,
    /// What others report for the same network: who, and what.
    pub others: &'static [(&'static str, &'static str)],
}

const fn point(milliseconds: f64, percent: f64) -> Point {
    Point { milliseconds, accuracy: percent / 100.0 }
}

const fn times(baseline: f64, branchy: f64, gain: f64) -> Times {
    Times { baseline, branchy, gain }
}

/// Grid of the authors' ResNet script; that of their LeNet is not known.
const FINE_GRID: [f64; 17] =
    [1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0];

const LENET: Paper = Paper {
    network: "B-LeNet",
    baseline_accuracy: 0.9920,
    accuracy: 0.9925,
    thresholds: &[0.025],
    shares: &[0.943, 0.0563],
    cpu: times(3.37, 0.62, 5.4),
    gpu: times(1.58, 0.34, 4.7),
    curve: &[
        point(0.26, 98.56),
        point(0.26, 98.63),
        point(0.27, 98.92),
        point(0.32, 99.23),
        point(0.34, 99.25),
        point(1.70, 99.27),
    ],
    baseline: point(1.58, 99.20),
    accuracy_by_share: &[],
    entropy_by_share: &[],
    accuracy_by_convolutions: &[],
    misses_by_time: &[],
    grid: &FINE_GRID,
    epochs: [50, 100],
    batch_size: 512,
    others: &[
        ("authors' own notebook", "99.07 %; 99.25 % at T = 0.025, leaving 93.95, 6.05 %"),
        ("a Chainer port on a K80", "98.85 %; 98.96 %, leaving 98.25, 1.75 %"),
        ("a PyTorch port", "exits 98.64, 98.84 %; 98.91 % with 94.6 % leaving early"),
    ],
};

const ALEXNET: Paper = Paper {
    network: "B-AlexNet",
    baseline_accuracy: 0.7838,
    accuracy: 0.7919,
    thresholds: &[0.0001, 0.05],
    shares: &[0.656, 0.252, 0.092],
    cpu: times(9.56, 6.32, 1.5),
    gpu: times(3.15, 1.30, 2.4),
    curve: &[
        point(0.91, 74.9),
        point(0.98, 76.0),
        point(1.05, 77.05),
        point(1.15, 78.1),
        point(1.30, 79.19),
        point(3.2, 79.15),
    ],
    baseline: point(3.15, 78.38),
    accuracy_by_share: &[
        (0.0, 0.7915),
        (0.40, 0.793),
        (0.45, 0.795),
        (0.65, 0.793),
        (0.80, 0.779),
        (0.90, 0.768),
        (1.0, 0.749),
    ],
    accuracy_by_convolutions: &[("0", 0.766), ("1", 0.778), ("2", 0.780), ("3", 0.779), ("4", 0.774)],
    misses_by_time: &[
        (4.1 / 9.56, 0.05 / 0.221),
        (4.45 / 9.56, 0.05 / 0.221),
        (4.9 / 9.56, 0.05 / 0.221),
        (6.32 / 9.56, 0.113 / 0.221),
        (9.8 / 9.56, 0.225 / 0.221),
    ],
    entropy_by_share: &[(0.0, 0.0), (0.80, 0.0), (0.87, 0.12), (0.95, 0.55), (1.0, 1.5)],
    grid: &[1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 0.75, 1.0, 5.0, 10.0],
    epochs: [50, 100],
    batch_size: 512,
    others: &[
        ("authors' own notebook", "77.76 %; 79.36 % at the paper's T, leaving 43.6, 35.8, 20.6 %"),
        ("a Chainer port on a K80", "76.25 %; 76.25 %, leaving 51.7, 46.6, 1.8 %"),
    ],
};

const RESNET110: Paper = Paper {
    network: "B-ResNet-110",
    baseline_accuracy: 0.8070,
    accuracy: 0.7917,
    thresholds: &[0.3, 0.2],
    shares: &[0.415, 0.138, 0.447],
    cpu: times(137.20, 73.5, 1.9),
    gpu: times(70.9, 37.2, 1.9),
    curve: &[
        point(2.0, 63.8),
        point(18.0, 69.4),
        point(18.5, 71.9),
        point(20.0, 73.4),
        point(32.3, 78.1),
        point(37.2, 79.17),
        point(61.0, 81.6),
        point(73.0, 81.8),
    ],
    baseline: point(70.9, 80.70),
    accuracy_by_share: &[],
    entropy_by_share: &[],
    accuracy_by_convolutions: &[],
    misses_by_time: &[],
    grid: &FINE_GRID,
    epochs: [100, 100],
    batch_size: 64,
    others: &[
        ("a Chainer port on a K80", "80.06 %; 74.96 %, leaving 43, 30, 27 %, gain 1.02x"),
        ("He et al. 2016, plain ResNet-110, augmented", "about 93.6 %"),
    ],
};

/// What the paper says of `network`: `B-LeNet`, `B-AlexNet` or `B-ResNet-110`, whatever follows the
/// name.
pub fn paper(network: &str) -> Result<&'static Paper> {
    match [&LENET, &ALEXNET, &RESNET110].into_iter().find(|paper| network.starts_with(paper.network)) {
        Some(paper) => Ok(paper),
        None => bail!(Missing, "the paper has no {network:?}: it has B-LeNet, B-AlexNet and B-ResNet-110"),
    }
}
