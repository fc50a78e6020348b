//! Inference one image at a time, as fast as this machine allows.
//!
//! [`Network`] is for training and batches. A plan is built from it once and runs the same layers as
//! [`crate::kernels::steps`] on one thread. It gives the same logits, bit for bit.

use super::classify::{Answer, Rule};
use super::criterion::{Criterion, Reading, Seen};
use crate::Result;
use crate::error::bail;
use crate::kernels::steps::{Buffers, Steps, View};
use crate::networks::{Layer, Network, Node, Shape};
use candle_core::Var;

/// A network compiled for single images on the CPU.
///
/// ```
/// use branchynet::prelude::*;
///
/// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
/// let mut plan = Plan::new(&network)?;
/// let answer = plan.classify(&[0.5; 784], &Rule::entropy([0.025]))?;
/// assert!(answer.label < 10 && answer.exit < 2);
/// # Ok::<(), branchynet::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    segments: Vec<Steps>,
    branches: Vec<Steps>,
    input: View,
    /// Where the logits of each exit end up.
    logits: Vec<View>,
    buffers: Buffers,
    size: usize,
    /// The logits of the exits that have seen the image.
    seen: Vec<f32>,
}

impl Plan {
    /// Compiles `network` with the parameters it has now; training it further does not change the
    /// plan.
    pub fn new(network: &Network) -> Result<Self> {
        let mut buffers = Buffers::default();
        let shape = match network.input() {
            Shape::Image(channels, height, width) => [channels, height, width],
            Shape::Flat(len) => [1, 1, len],
        };
        let input = buffers.dense(shape);
        let (mut segments, mut branches, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        let mut view = input;
        for (i, nodes) in network.segments.iter().enumerate() {
            let mut part = |nodes: &[Node], mut view: View| -> Result<(Steps, View)> {
                let mut steps = Steps::default();
                for node in nodes {
                    view = place(node, view, &mut steps, &mut buffers)?;
                }
                Ok((steps, view))
            };
            let (steps, end) = part(nodes, view)?;
            segments.push(steps);
            view = end;
            logits.push(match network.branches.get(i) {
                Some(nodes) => {
                    let (steps, end) = part(nodes, view)?;
                    branches.push(steps);
                    end
                }
                None => view,
            });
        }
        Ok(Self {
            segments,
            branches,
            input,
            seen: Vec::with_capacity(logits.len() * network.classes()),
            logits,
            buffers,
            size: network.input().len(),
        })
    }

    /// The number of exits.
    pub fn exits(&self) -> usize {
        self.segments.len()
    }

    fn load(&mut self, image: &[f32]) -> Result<()> {
        if image.len() != self.size {
            bail!(Shape, "the network takes images of {} values, got {}", self.size, image.len())
        }
        self.buffers.write(self.input, image);
        self.seen.clear();
        Ok(())
    }

    /// Classifies one image (channels, height, width; as [`crate::data::Split::batch`] scales it):
    /// trunk, branches, criterion and decision. The same answer as [`Network::classify`]. Fails when the
    /// image has another size or the rule does not fit the exits.
    pub fn classify(&mut self, image: &[f32], rule: &Rule) -> Result<Answer> {
        rule.check(self.exits())?;
        self.load(image)?;
        let last = self.exits() - 1;
        for exit in 0..last {
            self.segments[exit].run(&mut self.buffers);
            self.branches[exit].run(&mut self.buffers);
            let reading = self.read(&rule.criterion, exit);
            if rule.leaves(exit, reading.uncertainty) {
                return Ok(reading.at(exit));
            }
        }
        self.segments[last].run(&mut self.buffers);
        Ok(self.read(&rule.criterion, last).at(last))
    }

    fn read(&mut self, criterion: &Criterion, exit: usize) -> Reading {
        let logits = self.buffers.read(self.logits[exit]);
        self.seen.extend_from_slice(logits);
        criterion.read(Seen::new(&self.seen, logits.len()))
    }

    /// The logits that exit `exit` (from 0) gave in the last run; stale where that run left before
    /// it. Panics where there is no such exit.
    pub fn logits_at(&self, exit: usize) -> &[f32] {
        self.buffers.read(self.logits[exit])
    }

    /// Runs the trunk alone up to where exit `exit` (from 0) branches off, without branches, criterion
    /// or decision: what the paper's timer covered. Fails when the image has another size. Panics where
    /// there is no such exit.
    pub fn run_trunk(&mut self, image: &[f32], exit: usize) -> Result<()> {
        self.run_undecided(image, exit, 0)
    }

    /// Runs the trunk up to exit `exit` (from 0) with the branches on the way and its own, without criterion
    /// or decision. Fails and panics as [`Self::run_trunk`].
    pub fn run_with_branches(&mut self, image: &[f32], exit: usize) -> Result<()> {
        self.run_undecided(image, exit, exit + 1)
    }

    fn run_undecided(&mut self, image: &[f32], exit: usize, branches: usize) -> Result<()> {
        self.load(image)?;
        for (i, segment) in self.segments[..=exit].iter_mut().enumerate() {
            segment.run(&mut self.buffers);
            if let Some(branch) = self.branches.get_mut(i).filter(|_| i < branches) {
                branch.run(&mut self.buffers);
            }
        }
        Ok(())
    }
}

/// Appends one layer that reads `from`; returns where it writes.
fn place(node: &Node, from: View, steps: &mut Steps, buffers: &mut Buffers) -> Result<View> {
    let values = |pair: &Option<(Var, Var)>| -> Result<[Vec<f32>; 2]> {
        let (a, b) = pair.as_ref().expect("built with what the layer needs");
        Ok([a.flatten_all()?.to_vec1()?, b.to_vec1()?])
    };
    Ok(match node.layer {
        Layer::Conv { kernel, padding, stride, .. } => {
            let [weight, bias] = values(&node.parameters)?;
            steps.conv(buffers, from, (kernel, padding, stride), &weight, bias)?
        }
        Layer::Linear { .. } => {
            let [weight, bias] = values(&node.parameters)?;
            steps.linear(buffers, from, weight, bias)
        }
        Layer::Relu => steps.relu(buffers, from),
        Layer::Pool { kind, kernel, stride } => steps.pool(buffers, from, kind, (kernel, stride))?,
        Layer::Lrn(lrn) => steps.lrn(buffers, from, lrn),
        Layer::BatchNorm { .. } => {
            let [weight, bias] = values(&node.parameters)?;
            let [mean, variance] = values(&node.statistics)?;
            steps.batch_norm(buffers, from, [&weight, &bias], [&mean, &variance])
        }
        Layer::Residual(_) => {
            let input = steps.dense(buffers, from);
            let mut end = input;
            for node in &node.inner {
                end = place(node, end, steps, buffers)?;
            }
            steps.shortcut(buffers, end, input)?
        }
        Layer::Dropout(_) => from,
        Layer::Branch(_) => unreachable!("branches are not nodes"),
    })
}
