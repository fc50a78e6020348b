//! Numbers that others published, to stand beside ours. Those of figures are read off the plots.

use crate::Result;
use crate::error::bail;

/// A point of a figure: milliseconds a sample, accuracy in %.
pub type Point = (f64, f64);

/// What the paper says of one network.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    /// `B-LeNet`.
    pub network: &'static str,
    /// Accuracy in % of the baseline and of the network with branches.
    pub accuracy: (f64, f64),
    /// The thresholds of Table I.
    pub thresholds: &'static [f64],
    /// Share in % that leaves at each exit.
    pub shares: &'static [f64],
    /// On the CPU: milliseconds a sample of both, and the gain.
    pub cpu: (f64, f64, f64),
    /// On the GPU.
    pub gpu: (f64, f64, f64),
    /// Figure 3, GPU: points of the sweep over thresholds.
    pub curve: &'static [Point],
    /// Its baseline.
    pub baseline: Point,
    /// The thresholds that the authors' script tries at every exit.
    pub grid: &'static [f64],
    /// What others report for the same network: who, and what.
    pub others: &'static [(&'static str, &'static str)],
}

/// Grid of the authors' ResNet script; that of their LeNet is not known.
const FINE_GRID: [f64; 17] = [
    1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0,
    10.0,
];

const LENET: Paper = Paper {
    network: "B-LeNet",
    accuracy: (99.20, 99.25),
    thresholds: &[0.025],
    shares: &[94.3, 5.63],
    cpu: (3.37, 0.62, 5.4),
    gpu: (1.58, 0.34, 4.7),
    curve: &[
        (0.26, 98.56),
        (0.26, 98.63),
        (0.27, 98.92),
        (0.32, 99.23),
        (0.34, 99.25),
        (1.70, 99.27),
    ],
    baseline: (1.58, 99.20),
    grid: &FINE_GRID,
    others: &[
        (
            "authors' own notebook",
            "99.07 %; 99.25 % at T = 0.025, leaving 93.95, 6.05 %",
        ),
        (
            "a Chainer port on a K80",
            "98.85 %; 98.96 %, leaving 98.25, 1.75 %",
        ),
        (
            "a PyTorch port",
            "exits 98.64, 98.84 %; 98.91 % with 94.6 % leaving early",
        ),
    ],
};

const ALEXNET: Paper = Paper {
    network: "B-AlexNet",
    accuracy: (78.38, 79.19),
    thresholds: &[0.0001, 0.05],
    shares: &[65.6, 25.2, 9.2],
    cpu: (9.56, 6.32, 1.5),
    gpu: (3.15, 1.30, 2.4),
    curve: &[
        (0.91, 74.9),
        (0.98, 76.0),
        (1.05, 77.05),
        (1.15, 78.1),
        (1.30, 79.19),
        (3.2, 79.15),
    ],
    baseline: (3.15, 78.38),
    grid: &[1e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5, 0.75, 1.0, 5.0, 10.0],
    others: &[
        (
            "authors' own notebook",
            "77.76 %; 79.36 % at the paper's T, leaving 43.6, 35.8, 20.6 %",
        ),
        (
            "a Chainer port on a K80",
            "76.25 %; 76.25 %, leaving 51.7, 46.6, 1.8 %",
        ),
    ],
};

const RESNET110: Paper = Paper {
    network: "B-ResNet-110",
    accuracy: (80.70, 79.17),
    thresholds: &[0.3, 0.2],
    shares: &[41.5, 13.8, 44.7],
    cpu: (137.20, 73.5, 1.9),
    gpu: (70.9, 37.2, 1.9),
    curve: &[
        (2.0, 63.8),
        (18.0, 69.4),
        (18.5, 71.9),
        (20.0, 73.4),
        (32.3, 78.1),
        (37.2, 79.17),
        (61.0, 81.6),
        (73.0, 81.8),
    ],
    baseline: (70.9, 80.70),
    grid: &FINE_GRID,
    others: &[
        (
            "a Chainer port on a K80",
            "80.06 %; 74.96 %, leaving 43, 30, 27 %, gain 1.02x",
        ),
        (
            "He et al. 2016, plain ResNet-110, augmented",
            "about 93.6 %",
        ),
    ],
};

/// What the paper says of `network`: `B-LeNet`, `B-AlexNet` or `B-ResNet-110`, whatever follows the
/// name.
pub fn paper(network: &str) -> Result<&'static Paper> {
    match [&LENET, &ALEXNET, &RESNET110]
        .into_iter()
        .find(|paper| network.starts_with(paper.network))
    {
        Some(paper) => Ok(paper),
        None => bail!("the paper has no {network:?}: it has B-LeNet, B-AlexNet and B-ResNet-110"),
    }
}
