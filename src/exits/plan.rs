//! Inference as fast as this machine allows, one image at a time or several.
//!
//! [`Network`] is for training. A plan is built from it once, with its weights packed, and runs the same
//! layers as [`crate::kernels::inference`] on one thread of the CPU.

use super::criterion::Prediction;
use super::policy::{Answer, ExitPolicy, Exits, answers, leave, with_logits};
use super::readout::Readout;
use super::watch::Watch;
use crate::kernels::inference::{Buffers, StepBuilder, StepTime, Steps, Threads, Tiling, View};
use crate::layers::{self, Node};
use crate::networks::Network;
use crate::{Result, bail};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Multiplications that take some tens of microseconds, which it takes to wake a thread.
const PAYS: usize = 1 << 20;

/// A network compiled for the CPU. Clones share the weights.
///
/// ```
/// use branchynet::prelude::*;
///
/// let network = Network::new("B-LeNet", [1, 28, 28], b_lenet(), 0, &Device::Cpu)?;
/// let mut plan = Plan::new(&network)?;
/// let answer = plan.classify(&[0.5; 784], &ExitPolicy::entropy([0.025]))?;
/// assert!(answer.label < 10 && answer.exit < 2);
/// # Ok::<(), branchynet::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    compiled: Arc<Compiled>,
    /// One for each thread that has been needed so far, at least one.
    states: Vec<Workspace>,
    /// For one image.
    threads: Threads,
}

#[derive(Debug)]
struct Compiled {
    steps: Steps,
    exits: Vec<Exit>,
    /// The most images that are loaded together.
    block: usize,
    /// Elements of an image, and classes.
    size: usize,
    classes: usize,
}

/// What one thread works with.
#[derive(Debug, Clone)]
struct Workspace {
    buffers: Buffers,
    /// Of each image in the buffers the logits of the exits that it has seen.
    seen: Vec<Vec<f32>>,
}

/// An exit, and the way to it.
#[derive(Debug, Clone)]
struct Exit {
    segment: Range<usize>,
    /// Empty at the last exit.
    branch: Range<usize>,
    /// What the segment gives.
    trunk: View,
    logits: View,
}

impl Plan {
    /// Compiles `network` with the parameters it has now; training it further does not change the
    /// plan. Convolutions of 3×3 and 5×5 pixels are computed with fewer multiplications (Winograd), which
    /// rounds differently; see [`Self::by_definition`]. A quantised network ([`Network::quantized`]) is computed in whole
    /// numbers, with the same bits on every processor.
    pub fn new(network: &Network) -> Result<Self> {
        Self::compile(network, Tiling::Alone)
    }

    /// The same for batches: multiplications are saved also where the weights of one image are then read more slowly than
    /// they are multiplied. What an image gets is the same in batches of all sizes, but rounded otherwise than by
    /// [`Self::new`].
    pub fn for_batches(network: &Network) -> Result<Self> {
        Self::compile(network, Tiling::Batches)
    }

    /// The same with all convolutions computed by their definition.
    pub fn by_definition(network: &Network) -> Result<Self> {
        Self::compile(network, Tiling::Definition)
    }

    fn compile(network: &Network, tiling: Tiling) -> Result<Self> {
        let (mut builder, mut view) = StepBuilder::new(network.image);
        let mut exits: Vec<Exit> = Vec::new();
        for (i, nodes) in network.segments.iter().enumerate() {
            let mut part = |nodes: &[Node], from: View, logits: bool| -> Result<(Range<usize>, View)> {
                let start = builder.steps();
                let view = layers::place(nodes, from, &mut builder)?;
                let view = if logits { builder.values(view) } else { view };
                Ok((start..builder.steps(), view))
            };
            let (segment, trunk) = part(nodes, view, false)?;
            let (branch, logits) = part(network.branches.get(i).map_or(&[], Vec::as_slice), trunk, true)?;
            exits.push(Exit { segment, branch, trunk, logits });
            view = trunk;
        }
        let logits: Vec<View> = exits.iter().map(|exit| exit.logits).collect();
        let steps = builder.build(tiling, &logits);
        let states = vec![Workspace { buffers: steps.buffers(1), seen: vec![Vec::new()] }];
        let (size, classes) = (network.input().len(), network.classes());
        Ok(Self {
            compiled: Arc::new(Compiled { steps, exits, block: tiling.block(), size, classes }),
            states,
            threads: Threads::ONE,
        })
    }

    /// The same with up to so many threads for one image: fewer where there is too little to do for each to be worth
    /// waking. They spin while they wait for each other, some microseconds at a time: that pays on cores that nobody else
    /// wants. Answers stay the same, bit for bit.
    pub fn threads(self, threads: usize) -> Self {
        self.share(threads, PAYS)
    }

    /// [`Self::threads`], each of which has at least so many multiplications to do on the way to an exit.
    pub fn share(self, threads: usize, multiplications: usize) -> Self {
        Self { threads: Threads { most: threads, least: multiplications }, ..self }
    }

    /// How long each step of the trunk and the branches takes, for so many images at a time on one thread.
    pub fn profile(&self, images: usize, rounds: usize) -> Vec<StepTime> {
        let mut buffers = self.compiled.steps.buffers(images);
        self.compiled.steps.profile(&mut buffers, images, rounds)
    }

    /// The number of exits.
    pub fn exits(&self) -> usize {
        self.compiled.exits.len()
    }

    /// Classifies one image (channels, height, width; as [`crate::data::Split::batch`] scales it):
    /// trunk, branches, criterion and decision. Fails when the image has another size or the policy does not
    /// fit the exits.
    pub fn classify(&mut self, image: &[f32], policy: &ExitPolicy) -> Result<Answer> {
        policy.check(self.exits())?;
        let (compiled, state) = (&*self.compiled, &mut self.states[0]);
        compiled.load(state, &[image])?;
        let mut block = Block { compiled, state, readout: &policy.readout, threads: self.threads };
        // Nothing is allocated for a single image.
        let mut answer = [Answer::NONE];
        leave(&mut block, policy, &mut [0], &mut answer)?;
        Ok(answer[0])
    }

    /// [`Self::classify`] of the next image of a stream that is watched. An image that `watch` draws and that leaves early
    /// goes on from there to the last exit, which adds what the cost of that exit is more; the answer stays that of `policy`.
    /// Fails likewise; the image then does not count.
    pub fn classify_watched(
        &mut self,
        image: &[f32],
        policy: &ExitPolicy,
        watch: &mut Watch,
    ) -> Result<Answer> {
        let answer = self.classify(image, policy)?;
        if watch.draws() {
            let (compiled, state) = (&*self.compiled, &mut self.states[0]);
            let mut block = Block { compiled, state, readout: &policy.readout, threads: self.threads };
            let mut last = answer.label;
            for exit in answer.exit + 1..compiled.exits.len() {
                block.advance(exit, &[0])?;
                last = block.prediction(exit, 0, 0).label;
            }
            watch.see(last != answer.label);
        }
        Ok(answer)
    }

    /// Classifies images that lie one after another, some at a time, on all threads (`RAYON_NUM_THREADS`):
    /// a layer's weights are read once for several images that have not left before it. One answer for
    /// each image, the same as [`Self::classify`]'s. Fails likewise.
    pub fn classify_all(&mut self, images: &[f32], policy: &ExitPolicy) -> Result<Vec<Answer>> {
        Ok(self.answers(images, policy, false)?.into_iter().map(|(answer, _)| answer).collect())
    }

    /// [`Self::classify_all`], each answer with the logits that it was read from if `keep`.
    pub(super) fn answers(
        &mut self,
        images: &[f32],
        policy: &ExitPolicy,
        keep: bool,
    ) -> Result<Vec<(Answer, Vec<f32>)>> {
        policy.check(self.exits())?;
        let blocks = self.in_blocks(images, |compiled, state, images| {
            let mut block = Block { compiled, state, readout: &policy.readout, threads: Threads::ONE };
            let answers = answers(&mut block, policy, images)?;
            Ok(with_logits(answers, &block.state.seen, compiled.classes, keep))
        })?;
        Ok(blocks.into_iter().flatten().collect())
    }

    /// The logits of every exit for images that lie one after another, on all threads: for each exit a row
    /// for each image. Fails where the last image is not whole.
    pub fn logits(&mut self, images: &[f32]) -> Result<Vec<Vec<f32>>> {
        let mut logits = vec![Vec::new(); self.exits()];
        let blocks = self.in_blocks(images, |compiled, state, images| {
            let exits = (0..compiled.exits.len()).map(|exit| {
                compiled.run(state, exit, true, images, Threads::ONE);
                let rows = (0..images).map(|place| compiled.logits(&state.buffers, exit, place));
                rows.collect::<Vec<_>>().concat()
            });
            Ok(exits.collect::<Vec<_>>())
        })?;
        for block in blocks {
            logits.iter_mut().zip(block).for_each(|(all, of_block)| all.extend(of_block));
        }
        Ok(logits)
    }

    /// What `work` makes of the images, of which so many at a time are loaded, on all threads; in the order of the
    /// images. A thread takes the next block when it is done with one: nobody knows before how many images of a block leave
    /// early. Small batches go in smaller blocks, so that there are enough to even that out.
    fn in_blocks<T: Send>(
        &mut self,
        images: &[f32],
        work: impl Fn(&Compiled, &mut Workspace, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let (compiled, size) = (&*self.compiled, self.compiled.size);
        if !images.len().is_multiple_of(size) {
            bail!(Shape, "the network takes images of {size} values, got {} values", images.len())
        }
        let threads = rayon::current_num_threads();
        let few = if compiled.block > 4 { 2 } else { 4 };
        let block = (images.len() / size).div_ceil(few * threads).clamp(1, compiled.block);
        let images: Vec<&[f32]> = images.chunks(size).collect();
        let blocks: Vec<&[&[f32]]> = images.chunks(block).collect();
        let threads = threads.min(blocks.len()).max(1);
        if threads > self.states.len() {
            self.states.resize(threads, self.states[0].clone());
        }
        let next = AtomicUsize::new(0);
        let run = |state: &mut Workspace| -> Result<Vec<(usize, T)>> {
            let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            let numbers = numbers.take_while(|&number| number < blocks.len());
            let work = |number: usize| {
                compiled.load(state, blocks[number])?;
                Ok((number, work(compiled, state, blocks[number].len())?))
            };
            numbers.map(work).collect()
        };
        let mut done = match &mut self.states[..threads] {
            [state] => run(state)?,
            states => {
                states.par_iter_mut().map(run).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
            }
        };
        done.sort_by_key(|&(number, _)| number);
        Ok(done.into_iter().map(|(_, made)| made).collect())
    }

    /// The logits that exit `exit` (from 0) gave in the last run of one image; stale where that run left
    /// before it. Panics where there is no such exit.
    pub fn logits_at(&self, exit: usize) -> &[f32] {
        self.compiled.logits(&self.states[0].buffers, exit, 0)
    }

    /// Runs the trunk up to where exit `exit` (from 0) branches off, without criterion or decision: alone, which is what
    /// the paper's timer covered, or with the branches on the way and its own. Fails when the image has another size.
    /// Panics where there is no such exit.
    pub(super) fn run_undecided(&mut self, image: &[f32], exit: usize, branches: bool) -> Result<()> {
        let (compiled, state) = (&*self.compiled, &mut self.states[0]);
        compiled.load(state, &[image])?;
        for i in 0..=exit {
            compiled.run(state, i, branches, 1, self.threads);
        }
        Ok(())
    }
}

impl Compiled {
    fn load(&self, state: &mut Workspace, images: &[&[f32]]) -> Result<()> {
        if let Some(image) = images.iter().find(|image| image.len() != self.size) {
            bail!(Shape, "the network takes images of {} values, got {}", self.size, image.len())
        }
        if state.seen.len() < images.len() {
            *state =
                Workspace { buffers: self.steps.buffers(images.len()), seen: vec![Vec::new(); images.len()] };
        }
        for (number, image) in images.iter().enumerate() {
            self.steps.load(&mut state.buffers, number, image);
            state.seen[number].clear();
        }
        Ok(())
    }

    /// Runs segment `exit` of the trunk on as many images, and its branch.
    fn run(&self, state: &mut Workspace, exit: usize, branch: bool, images: usize, threads: Threads) {
        let exit = &self.exits[exit];
        self.steps.run(exit.segment.clone(), &mut state.buffers, images, threads);
        if branch {
            self.steps.run(exit.branch.clone(), &mut state.buffers, images, threads);
        }
    }

    fn logits<'a>(&self, buffers: &'a Buffers, exit: usize, place: usize) -> &'a [f32] {
        self.steps.read(buffers, self.exits[exit].logits, place)
    }
}

/// The exits for images that have been loaded.
struct Block<'a> {
    compiled: &'a Compiled,
    state: &'a mut Workspace,
    readout: &'a Readout,
    threads: Threads,
}

impl Exits for Block<'_> {
    fn advance(&mut self, exit: usize, staying: &[usize]) -> Result<()> {
        self.compiled.run(self.state, exit, true, staying.len(), self.threads);
        Ok(())
    }

    fn prediction(&mut self, exit: usize, place: usize, image: usize) -> Prediction {
        let Workspace { buffers, seen } = &mut *self.state;
        self.readout.read(&mut seen[image], self.compiled.logits(buffers, exit, place))
    }

    fn stay(&mut self, exit: usize, place: usize, to: usize) {
        if place > to {
            let trunk = self.compiled.exits[exit].trunk;
            self.compiled.steps.copy(&mut self.state.buffers, trunk, place, to);
        }
    }
}
