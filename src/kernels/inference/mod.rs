//! Inference on the CPU: a network compiled into steps over buffers that are laid out beforehand.
//!
//! The bookkeeping of tensors takes longer than the arithmetic of one image. Here weights are packed once
//! and every activation has its place, so that running the steps is arithmetic alone. All of them have one
//! layout (`Image`): the channels of a pixel side by side, zeros around the image. So the inner
//! product of convolutions finds channels in whole registers, no step copies or transposes, and a
//! convolution adds bias, shortcut and rectifier to its sums before it stores them.
//!
//! Several images go through each step together, as weights are then read from memory once for all of
//! them. What an image gets does not depend on the others, bit for bit.
//!
//! Behind a rounding ([`StepBuilder::quantize`]) activations are whole numbers of a byte. Convolutions and fully connected
//! layers whose weights are whole numbers too sum whole numbers, and what they give is rounded before it is stored.

// Iterators over arrays of registers compile to calls, plain indices to registers.
#![allow(clippy::needless_range_loop)]

mod barrier;
mod bytes;
mod layers;

pub use crate::conv::{Grid, peak, weight_scale};

use self::barrier::Barrier;
use self::bytes::Sum;
use self::layers::{Linear, Map};
use crate::conv::{Conv, Finish, Image, Integer, Results, Share, Shared, Tiles, Whole, whole_numbers};
use crate::normal::Normal;
use crate::simd::{self, Aligned};
use crate::{EPSILON, Lrn, Pool, Pooling, Shortcut, Zeros};
use candle_core::Result;
use std::ops::Range;
use std::time::Instant;

/// Bytes of weights, and of activations, that are taken to stay in the second-level cache.
const CACHE: usize = 2 << 20;

/// How convolutions are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiling {
    /// By their definition.
    Definition,
    /// With the fewest multiplications that pay where weights are read for every image.
    Alone,
    /// With the fewest multiplications that pay where weights are read once for a block of images.
    Batches,
}

impl Tiling {
    /// The most images that go through the steps together, so that weights are read once for all of them.
    pub fn block(self) -> usize {
        if self == Self::Batches { 32 } else { 4 }
    }
}

/// An activation, by its number, and the grid that its bytes lie on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View(usize, Option<Grid>);

/// What a step is to do, before it is compiled.
enum Draft {
    Conv {
        sizes: [usize; 3],
        weight: Vec<f32>,
        /// Factor of each output channel.
        scale: Vec<f32>,
        bias: Vec<f32>,
        relu: bool,
        addend: Option<View>,
    },
    Linear {
        weight: Vec<f32>,
        bias: Vec<f32>,
        relu: bool,
    },
    Pool {
        pool: Pool,
        relu: bool,
    },
    Lrn(Lrn),
    Affine {
        lines: Vec<(f32, f32)>,
        relu: bool,
    },
    Map(Map),
    Shortcut {
        input: View,
        strides: [usize; 2],
    },
    /// Sums of whole numbers.
    Whole(Whole),
    Quantize(Grid),
    /// Bytes by the f32 value of each, and by the byte.
    Values(Box<[f32; 256]>),
    Numbers(Box<[u8; 256]>),
    Sum {
        input: View,
        sum: Sum,
        to: Option<Grid>,
    },
}

/// Collects the layers of a network. Each method appends a layer that reads `from`, and returns what it
/// writes.
pub struct StepBuilder {
    images: Vec<Image>,
    steps: Vec<(Draft, View, View)>,
    /// The first step that the next layer may become part of.
    open: usize,
    /// Steps that something else may come before.
    cuts: Vec<usize>,
}

impl StepBuilder {
    /// A builder, and the input (channels, height, width) of its network.
    pub fn new(shape: [usize; 3]) -> (Self, View) {
        let image = Image::planar(shape);
        (Self { images: vec![image], steps: Vec::new(), open: 0, cuts: Vec::new() }, View(0, None))
    }

    fn push(&mut self, draft: Draft, from: View, shape: [usize; 3]) -> View {
        self.images.push(Image::new(shape));
        let to = View(self.images.len() - 1, None);
        self.steps.push((draft, from, to));
        to
    }

    /// Whether so few channels lie side by side that they are not filled up to whole registers.
    fn few(&self, view: View) -> bool {
        let image = &self.images[view.0];
        image.depth < image.channels.next_multiple_of(simd::SLACK)
    }

    fn shape(&self, view: View) -> [usize; 3] {
        self.images[view.0].shape()
    }

    /// The last step, where the next layer may become part of it.
    fn last(&mut self) -> Option<&mut Draft> {
        let open = &mut self.steps[self.open..];
        open.last_mut().map(|(draft, ..)| draft)
    }

    /// Keeps what has been written so far as it is: it is read again later.
    pub fn keep(&mut self) {
        self.open = self.steps.len();
    }

    /// Rounds to the nearest values of a grid.
    pub fn quantize(&mut self, from: View, grid: Grid) -> View {
        let shape = self.shape(from);
        let image = Image::of_bytes(shape, grid.zero);
        let to = View(from.0, Some(grid));
        if let Some(before) = from.1 {
            let table: [u8; 256] = std::array::from_fn(|n| grid.number(before.value(n as u8)));
            // The numbers stay what they are where another scale rounds to the same ones.
            if before.zero == grid.zero
                && table.iter().enumerate().all(|(n, &number)| n == usize::from(number))
            {
                return to;
            }
            return self.push_bytes(Draft::Numbers(Box::new(table)), from, image, grid);
        }
        if self.steps[self.open..].last().is_some_and(|(.., last)| last.0 == from.0) {
            match self.last() {
                Some(Draft::Whole(Whole { to, .. }) | Draft::Sum { to, .. }) => *to = Some(grid),
                Some(last @ Draft::Values(_)) => {
                    let Draft::Values(values) = last else { unreachable!("it has been matched") };
                    *last = Draft::Numbers(Box::new(values.map(|value| grid.number(value))));
                }
                _ => return self.push_bytes(Draft::Quantize(grid), from, image, grid),
            }
            self.images[from.0] = image;
            return to;
        }
        // Few channels, as a network's input has, are not filled up: the pixels of a row lie side by side.
        let few = self.images[from.0].planar && shape[0] < 4;
        let image = if few { Image { depth: shape[0], ..image } } else { image };
        self.push_bytes(Draft::Quantize(grid), from, image, grid)
    }

    fn push_bytes(&mut self, draft: Draft, from: View, image: Image, grid: Grid) -> View {
        let View(to, _) = self.push(draft, from, image.shape());
        self.images[to] = image;
        View(to, Some(grid))
    }

    /// The same in f32.
    pub fn values(&mut self, from: View) -> View {
        if from.1.is_some() { self.map(from, |x| x) } else { from }
    }

    /// The same in f32 with the channels of a pixel side by side, which a network's input does not have.
    fn pixels(&mut self, from: View) -> View {
        let from = self.values(from);
        if self.images[from.0].planar { self.scale(from, 1.0) } else { from }
    }

    /// A convolution, or fully connected layer, of whole numbers, where input and weights are; otherwise gives them back.
    fn whole(
        &mut self,
        from: View,
        [kernel, [padding, stride]]: [[usize; 2]; 2],
        weight: &[f32],
        bias: &[f32],
        shape: [usize; 3],
    ) -> Option<View> {
        let grid = from.1?;
        let (numbers, scales) = whole_numbers(weight, bias.len())?;
        let bias = bias.to_vec();
        let whole =
            Whole { kernel, padding, stride, numbers, scales, bias, relu: false, from: grid, to: None };
        Some(self.push(Draft::Whole(whole), from, shape))
    }

    /// A convolution with `weight` (outputs, inputs, kernel, kernel); kernel, padding, stride.
    pub fn conv(&mut self, from: View, sizes: [usize; 3], weight: Vec<f32>, bias: Vec<f32>) -> View {
        let ([_, height, width], [kernel, padding, stride]) = (self.shape(from), sizes);
        let size = |length: usize| (length + 2 * padding - kernel) / stride + 1;
        let shape = [bias.len(), size(height), size(width)];
        if let Some(to) = self.whole(from, [[kernel; 2], [padding, stride]], &weight, &bias, shape) {
            return to;
        }
        let from = self.values(from);
        let scale = vec![1.0; bias.len()];
        self.push(Draft::Conv { sizes, weight, scale, bias, relu: false, addend: None }, from, shape)
    }

    /// A fully connected layer with `weight` (outputs, inputs).
    pub fn linear(&mut self, from: View, weight: Vec<f32>, bias: Vec<f32>) -> View {
        let (shape, [_, height, width]) = ([bias.len(), 1, 1], self.shape(from));
        if let Some(to) = self.whole(from, [[height, width], [0, 1]], &weight, &bias, shape) {
            return to;
        }
        let from = self.values(from);
        self.push(Draft::Linear { weight, bias, relu: false }, from, shape)
    }

    /// A rectifier.
    pub fn relu(&mut self, from: View) -> View {
        if let Some(grid) = from.1 {
            let rectified = self.map(from, |x| x.max(0.0));
            return self.quantize(rectified, grid);
        }
        if let Some(
            Draft::Whole(Whole { relu, to: None, .. })
            | Draft::Conv { relu, .. }
            | Draft::Linear { relu, .. }
            | Draft::Pool { relu, .. }
            | Draft::Affine { relu, .. },
        ) = self.last()
        {
            *relu = true;
            return from;
        }
        let lines = vec![(1.0, 0.0); self.shape(from)[0]];
        self.push(Draft::Affine { lines, relu: true }, from, self.shape(from))
    }

    /// A Gaussian error linear unit.
    pub fn gelu(&mut self, from: View) -> View {
        self.map(
            from,
            #[inline(always)]
            |x| x * x.below(),
        )
    }

    /// `f` of every element, in vectors where it is made of what they have, and `#[inline(always)]`.
    pub fn map(&mut self, from: View, f: impl Fn(f32) -> f32 + Send + Sync + 'static) -> View {
        if let Some(grid) = from.1 {
            let values = Box::new(std::array::from_fn(|number| f(grid.value(number as u8))));
            return self.push(Draft::Values(values), from, self.shape(from));
        }
        let from = self.pixels(from);
        self.push(Draft::Map(Map::new(f)), from, self.shape(from))
    }

    /// A multiplication by `factor`.
    pub fn scale(&mut self, from: View, factor: f32) -> View {
        if from.1.is_some() {
            return self.map(from, move |x| x * factor);
        }
        let lines = vec![(factor, 0.0); self.shape(from)[0]];
        self.push(Draft::Affine { lines, relu: false }, from, self.shape(from))
    }

    /// A pooling.
    pub fn pool(&mut self, from: View, kind: Pooling, kernel: usize, stride: usize) -> Result<View> {
        let [channels, height, width] = self.shape(from);
        let pool = Pool::new(kind, height, width, kernel, stride)?;
        if let Some(grid) = from.1.filter(|_| kind != Pooling::Average) {
            if self.few(from) {
                let values = self.values(from);
                let largest = self.pool(values, kind, kernel, stride)?;
                return Ok(self.quantize(largest, grid));
            }
            let [height, width] = [pool.out_height, pool.out_width];
            let image = Image { height, width, border: 0, ..self.images[from.0] };
            return Ok(self.push_bytes(Draft::Pool { pool, relu: false }, from, image, grid));
        }
        let from = self.pixels(from);
        self.push(Draft::Pool { pool, relu: false }, from, [channels, pool.out_height, pool.out_width]);
        // The largest of rectified values is the largest, rectified.
        let relu_before = self.steps.len() > self.open + 1
            && kind != Pooling::Average
            && matches!(&self.steps[self.steps.len() - 2], (Draft::Affine { lines, relu: true }, from, _)
                if !self.images[from.0].planar && lines.iter().all(|&line| line == (1.0, 0.0)));
        if relu_before {
            let (_, from, _) = self.steps.remove(self.steps.len() - 2);
            if let Some((Draft::Pool { relu, .. }, source, _)) = self.steps.last_mut() {
                (*relu, *source) = (true, from);
            }
        }
        Ok(View(self.images.len() - 1, None))
    }

    /// Local response normalisation.
    pub fn lrn(&mut self, from: View, lrn: Lrn) -> View {
        let from = self.pixels(from);
        self.push(Draft::Lrn(lrn), from, self.shape(from))
    }

    /// A batch normalisation by running statistics: weight and bias, mean and variance for each
    /// channel. After a convolution it becomes part of its weights.
    pub fn batch_norm(
        &mut self,
        from: View,
        [weight, bias]: [&[f32]; 2],
        [mean, variance]: [&[f32]; 2],
    ) -> View {
        let line = |c: usize| {
            let slope = f64::from(weight[c]) / (f64::from(variance[c]) + EPSILON).sqrt();
            let start = f64::from(bias[c]) - f64::from(mean[c]) * slope;
            (slope as f32, start as f32)
        };
        let lines: Vec<(f32, f32)> = (0..weight.len()).map(line).collect();
        let from = self.values(from);
        if let Some(Draft::Conv { scale, bias, relu: false, addend: None, .. }) = self.last() {
            for ((scale, bias), (slope, start)) in scale.iter_mut().zip(bias).zip(lines) {
                *scale *= slope;
                *bias = *bias * slope + start;
            }
            return from;
        }
        self.push(Draft::Affine { lines, relu: false }, from, self.shape(from))
    }

    /// The end of a residual block: the rectified sum of `from` and the block's `input`.
    pub fn shortcut(&mut self, from: View, input: View, zeros: Zeros) -> Result<View> {
        let shortcut = Shortcut::new(self.shape(input), self.shape(from), zeros)?;
        if let (Some(body), Some(of_input)) = (from.1, input.1)
            && !self.few(input)
        {
            let sum = Sum { strides: shortcut.strides(), grids: [body, of_input] };
            return Ok(self.push(Draft::Sum { input, sum, to: None }, from, self.shape(from)));
        }
        let (from, input) = (self.values(from), self.pixels(input));
        // A convolution of planes adds nothing to its sums.
        let planes = self.steps.last().is_some_and(|(_, from, _)| self.images[from.0].planar);
        if shortcut.is_identity()
            && !planes
            && let Some(Draft::Conv { relu: relu @ false, addend: addend @ None, .. }) = self.last()
        {
            (*relu, *addend) = (true, Some(input));
            return Ok(from);
        }
        Ok(self.push(Draft::Shortcut { input, strides: shortcut.strides() }, from, self.shape(from)))
    }

    /// The number of steps so far. Layers that follow become no part of them.
    pub fn steps(&mut self) -> usize {
        self.keep();
        self.cuts.push(self.steps.len());
        self.steps.len()
    }

    /// Compiles the steps. `last` are the activations that are read when all steps have run.
    pub fn build(mut self, tiling: Tiling, last: &[View]) -> Steps {
        // Zeros around the images, as many as their readers want.
        let mut tiles = Vec::new();
        let weights = self.steps.iter().map(|(draft, ..)| match draft {
            Draft::Conv { weight, .. } => weight.len(),
            _ => 0,
        });
        // What the second-level cache does not keep from image to image comes from further away.
        let read = if 4 * weights.sum::<usize>() > CACHE { 8 } else { 2 };
        for (draft, from, to) in &self.steps {
            if let Draft::Whole(whole) = draft {
                let image = &mut self.images[from.0];
                image.border = image.border.max(whole.padding);
            }
            let &Draft::Conv { sizes, .. } = draft else {
                tiles.push(None);
                continue;
            };
            let (outputs, image) = (self.images[to.0], &mut self.images[from.0]);
            let [kernel, padding, _] = sizes;
            image.border = image.border.max(padding);
            let together = if tiling == Tiling::Batches { tiling.block() } else { 1 };
            let suited = Tiles::suit(image, &outputs, sizes, (together, read))
                .filter(|_| tiling != Tiling::Definition);
            if let Some(tiles) = suited {
                for length in [image.height, image.width] {
                    image.beyond = image.beyond.max(tiles.beyond(length + 2 * padding, kernel));
                }
            }
            tiles.push(suited);
        }
        let groups = self.groups(tiling.block());
        let (slots, sizes) = self.slots(last, &groups, tiling.block());
        let images = &self.images;
        let steps = self.steps.into_iter().zip(tiles).map(|((draft, from, to), tiles)| {
            let (input, outputs) = (&images[from.0], &images[to.0]);
            let op = match draft {
                Draft::Conv { sizes, weight, scale, mut bias, relu, addend } => {
                    let (kernel, inputs) = (sizes[0], input.channels);
                    let at = |o: usize, c: usize, y: usize, x: usize| {
                        weight[((o * inputs + c) * kernel + y) * kernel + x] * scale[o]
                    };
                    let conv = Conv::new(input, outputs, sizes, tiles, at);
                    bias.resize(outputs.depth, 0.0);
                    Op::Conv { conv, bias, relu, addend }
                }
                Draft::Linear { weight, bias, relu } => Op::Linear(Linear::new(input, &weight, &bias), relu),
                Draft::Pool { pool, relu } => Op::Pool(pool, relu),
                Draft::Lrn(lrn) => Op::Lrn(lrn),
                Draft::Affine { lines, relu } => Op::Affine(lines, relu),
                Draft::Map(map) => Op::Map(map),
                Draft::Shortcut { input, strides } => Op::Shortcut { input, strides },
                Draft::Whole(whole) => Op::Integer(Integer::new(input, &whole)),
                Draft::Quantize(grid) => Op::Quantize(grid),
                Draft::Values(values) => Op::Values(values),
                Draft::Numbers(numbers) => Op::Numbers(numbers),
                Draft::Sum { input, sum, to } => Op::Sum { input, sum, to },
            };
            let (_, _, multiplications) = op.products(outputs);
            Step { op, from, to, multiplications }
        });
        let steps: Vec<Step> = steps.collect();
        let scratch = steps.iter().map(|step| step.op.scratch(&self.images[step.from.0])).max();
        Steps { steps, scratch: scratch.unwrap_or(0), images: self.images, slots, sizes, groups }
    }

    /// The steps that a few images go through before the next few: of steps with large images few, so that these stay in
    /// the second-level cache from step to step, and of the others all, so that their weights are read once.
    fn groups(&self, most: usize) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (i, (_, from, to)) in self.steps.iter().enumerate() {
            let bytes = size_of::<f32>() * (self.images[from.0].room() + self.images[to.0].room());
            let block = if most * bytes > 2 * CACHE { most.min(4) } else { most };
            match groups.last_mut() {
                Some(group) if group.block == block && !self.cuts.contains(&i) => group.steps.end = i + 1,
                _ => groups.push(Group { steps: i..i + 1, block }),
            }
        }
        groups
    }

    /// The buffer of each activation, and of each buffer the layout of an image and the most images that it is for.
    /// Activations of one layout share a buffer where the first has been read for the last time before the second is
    /// written: fewer buffers stay in the cache. What only one group of steps sees is there for its block alone.
    fn slots(&self, last: &[View], groups: &[Group], most: usize) -> (Vec<Slot>, Vec<(Image, usize)>) {
        let mut read = vec![0; self.images.len()];
        for (i, (draft, from, _)) in self.steps.iter().enumerate() {
            read[from.0] = i;
            if let Draft::Conv { addend: Some(input), .. }
            | Draft::Shortcut { input, .. }
            | Draft::Sum { input, .. } = draft
            {
                read[input.0] = i;
            }
        }
        for view in last {
            read[view.0] = usize::MAX;
        }
        // Of each buffer its layout, for how many images, and when it is free.
        let mut buffers = vec![(self.images[0], most, read[0])];
        let mut slots = vec![Slot { buffer: 0, inside: false }; self.images.len()];
        for (i, (_, _, to)) in self.steps.iter().enumerate() {
            let group = groups.iter().find(|group| group.steps.contains(&i)).expect("each step has a group");
            let inside = group.steps.contains(&read[to.0]);
            let (image, images) = (self.images[to.0], if inside { group.block } else { most });
            let free =
                buffers.iter().position(|&(layout, of, free)| layout == image && of == images && free < i);
            slots[to.0] = Slot { buffer: free.unwrap_or(buffers.len()), inside };
            match free {
                Some(slot) => buffers[slot].2 = read[to.0],
                None => buffers.push((image, images, read[to.0])),
            }
        }
        (slots, buffers.into_iter().map(|(image, images, _)| (image, images)).collect())
    }
}

/// Steps that `block` images go through before the next.
#[derive(Debug)]
struct Group {
    steps: Range<usize>,
    block: usize,
}

/// Where an activation lies: for the images of a block alone if only one group of steps sees it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    buffer: usize,
    inside: bool,
}

#[derive(Debug)]
enum Op {
    Conv { conv: Conv, bias: Vec<f32>, relu: bool, addend: Option<View> },
    Linear(Linear, bool),
    Pool(Pool, bool),
    Lrn(Lrn),
    Affine(Vec<(f32, f32)>, bool),
    Map(Map),
    Shortcut { input: View, strides: [usize; 2] },
    Integer(Integer),
    Quantize(Grid),
    Values(Box<[f32; 256]>),
    Numbers(Box<[u8; 256]>),
    Sum { input: View, sum: Sum, to: Option<Grid> },
}

impl Op {
    /// What it is called, the numbers that it reads as weights, and its multiplications for an image `to`.
    fn products(&self, to: &Image) -> (String, usize, usize) {
        match self {
            Self::Conv { conv, .. } => conv.weights(to),
            Self::Linear(linear, _) => ("linear".to_string(), linear.weights(), linear.weights()),
            Self::Integer(conv) => {
                ("of whole numbers".to_string(), conv.weights(), conv.weights() * to.height * to.width)
            }
            Self::Pool(..) => ("pooling".to_string(), 0, 0),
            Self::Lrn(_) => ("local response normalisation".to_string(), 0, 0),
            Self::Affine(..) => ("line of each channel".to_string(), 0, 0),
            Self::Shortcut { .. } | Self::Sum { .. } => ("shortcut".to_string(), 0, 0),
            Self::Map(_) | Self::Quantize(_) | Self::Values(_) | Self::Numbers(_) => {
                ("function of each value".to_string(), 0, 0)
            }
        }
    }

    /// Elements of scratch that it needs.
    fn scratch(&self, from: &Image) -> usize {
        match self {
            Self::Conv { conv, .. } => conv.scratch(from),
            _ => 0,
        }
    }
}

#[derive(Debug)]
struct Step {
    op: Op,
    from: View,
    to: View,
    /// For an image.
    multiplications: usize,
}

/// A compiled network.
#[derive(Debug)]
pub struct Steps {
    steps: Vec<Step>,
    images: Vec<Image>,
    slots: Vec<Slot>,
    /// Of each buffer the layout of an image, and the most images that it is for.
    sizes: Vec<(Image, usize)>,
    groups: Vec<Group>,
    scratch: usize,
}

/// How many threads share the work on an image.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    pub most: usize,
    /// Multiplications that each has to do at least.
    pub least: usize,
}

impl Threads {
    pub const ONE: Self = Self { most: 1, least: 0 };
}

/// The memory that a network's steps work in.
#[derive(Debug, Clone)]
pub struct Buffers {
    slots: Vec<Aligned>,
    /// Of each thread.
    scratch: Vec<Aligned>,
}

/// What a step does, and how long it takes for an image.
#[derive(Debug, Clone)]
pub struct StepTime {
    pub what: String,
    /// (channels, height, width) of what it reads and writes.
    pub from: [usize; 3],
    pub to: [usize; 3],
    /// For an image, with those of the zeros that fill registers and tiles.
    pub multiplications: usize,
    /// Numbers that are read as weights: f32, or bytes of whole numbers.
    pub weights: usize,
    pub seconds: f64,
}

impl Steps {
    /// Memory for as many images at a time.
    pub fn buffers(&self, images: usize) -> Buffers {
        let slots = self.sizes.iter().map(|&(image, most)| {
            let mut slot = Aligned::zeros(images.min(most) * image.room());
            if let Some(zero) = image.zero {
                slot.bytes_mut().fill(zero);
            }
            slot
        });
        Buffers { slots: slots.collect(), scratch: Vec::new() }
    }

    /// Puts an image (channels, height, width) into place `number` of the network's input.
    pub fn load(&self, buffers: &mut Buffers, number: usize, values: &[f32]) {
        let image = &self.images[0];
        image.load(values, &mut buffers.slots[self.slots[0].buffer][number * image.len()..]);
    }

    /// The vector that image `number` has at `view`.
    pub fn read<'a>(&self, buffers: &'a Buffers, view: View, number: usize) -> &'a [f32] {
        let image = &self.images[view.0];
        &buffers.slots[self.slots[view.0].buffer][number * image.len()..][..image.channels]
    }

    /// Copies what image `from` has at `view` to image `to`.
    pub fn copy(&self, buffers: &mut Buffers, view: View, from: usize, to: usize) {
        let len = self.images[view.0].room();
        buffers.slots[self.slots[view.0].buffer].copy_within(from * len..(from + 1) * len, to * len);
    }

    /// Times each step alone, as if each were run again and again: so many images, on one thread, the least of `rounds`
    /// times.
    pub fn profile(&self, buffers: &mut Buffers, images: usize, rounds: usize) -> Vec<StepTime> {
        let mut times = vec![f64::INFINITY; self.steps.len()];
        for _ in 0..rounds {
            for (i, time) in times.iter_mut().enumerate() {
                let start = Instant::now();
                self.run(i..i + 1, buffers, images, Threads::ONE);
                *time = time.min(start.elapsed().as_secs_f64());
            }
        }
        let timed = |(step, seconds): (&Step, f64)| {
            let (from, to) = (&self.images[step.from.0], &self.images[step.to.0]);
            let (what, weights, _) = step.op.products(to);
            StepTime {
                what,
                from: from.shape(),
                to: to.shape(),
                multiplications: step.multiplications,
                weights,
                seconds: seconds / images as f64,
            }
        };
        self.steps.iter().zip(times).map(timed).collect()
    }

    /// Runs these steps on the first `images` images, on so many threads: this one, and others of rayon's
    /// pool, which spin while they wait for each other. Fewer where the pool has not as many, and on this one
    /// alone where it belongs to the pool, whose other threads may be busy for long.
    pub fn run(&self, range: Range<usize>, buffers: &mut Buffers, images: usize, threads: Threads) {
        let most = if rayon::current_thread_index().is_some() { 1 } else { rayon::current_num_threads() };
        let multiplications =
            || self.steps[range.clone()].iter().map(|step| step.multiplications).sum::<usize>();
        let threads = match threads.most.min(most) {
            2.. => threads.most.min(most).min(images * multiplications() / threads.least.max(1)).max(1),
            _ => 1,
        };
        buffers.scratch.resize_with(threads.max(buffers.scratch.len()), || Aligned::zeros(self.scratch));
        let slots: Vec<Shared> = buffers.slots.iter_mut().map(|slot| Shared::new(slot)).collect();
        let barrier = Barrier::new(threads);
        let run = |index: usize, scratch: &mut [f32]| {
            for group in &self.groups {
                let steps = group.steps.start.max(range.start)..group.steps.end.min(range.end);
                for first in (0..images).step_by(group.block) {
                    let images = first..images.min(first + group.block);
                    for step in &self.steps[steps.start..steps.end.max(steps.start)] {
                        step.run(self, &slots, scratch, images.clone(), Share { index, threads });
                        barrier.wait();
                    }
                }
            }
        };
        let [own, others @ ..] = &mut buffers.scratch[..threads] else { unreachable!("at least one thread") };
        if threads == 1 {
            return run(0, own);
        }
        rayon::in_place_scope(|scope| {
            for (i, scratch) in others.iter_mut().enumerate() {
                let run = &run;
                scope.spawn(move |_| run(i + 1, scratch));
            }
            run(0, own);
        });
    }
}

impl Step {
    fn run(&self, all: &Steps, slots: &[Shared], scratch: &mut [f32], images: Range<usize>, share: Share) {
        let shared = |view: View| {
            let (image, slot) = (&all.images[view.0], all.slots[view.0]);
            (image, slots[slot.buffer].skip(if slot.inside { 0 } else { images.start * image.room() }))
        };
        let images = images.len();
        // Safety: the buffers live as long as the call, and a step writes to no buffer that it reads.
        let view = |view: View| (shared(view).0, unsafe { shared(view).1.read() });
        let (from, to) = (view(self.from), shared(self.to));
        let bytes = |(image, values)| (image, simd::bytes(values));
        let to_bytes = (to.0, to.1.bytes());
        match &self.op {
            Op::Conv { conv, bias, relu, addend } => {
                let finish = Finish { bias, relu: *relu, addend: addend.map(view) };
                conv.run(from, finish, to, scratch, images, share)
            }
            Op::Linear(linear, relu) => linear.run(*relu, from, to, images, share),
            Op::Pool(pool, _) if from.0.zero.is_some() => {
                bytes::pool(pool, bytes(from), to_bytes, images, share)
            }
            Op::Pool(pool, relu) => layers::pool(pool, *relu, from, to, images, share),
            Op::Lrn(lrn) => layers::lrn(lrn, from, to, images, share),
            Op::Affine(lines, relu) => layers::affine(lines, *relu, from, to, images, share),
            Op::Map(map) => map.run(from, to, images, share),
            Op::Shortcut { input, strides } => {
                layers::shortcut(*strides, from, view(*input), to, images, share)
            }
            Op::Integer(conv) => {
                let results =
                    to.0.zero.map_or(Results::Floats(to.1), |zero| Results::Bytes(to.1.bytes(), zero));
                conv.run(bytes(from), (to.0, results), images, share);
            }
            Op::Quantize(grid) => bytes::quantize(*grid, from, to_bytes, images, share),
            Op::Values(table) => bytes::look_up(table, bytes(from), to, images, share),
            Op::Numbers(table) => bytes::look_up(table, bytes(from), to_bytes, images, share),
            Op::Sum { input, sum, to: None } => {
                sum.run(bytes(from), bytes(view(*input)), to, (images, share), |x| x);
            }
            Op::Sum { input, sum, to: Some(grid) } => {
                sum.run(
                    bytes(from),
                    bytes(view(*input)),
                    to_bytes,
                    (images, share),
                    #[inline(always)]
                    |x| grid.number(x),
                );
            }
        }
    }
}
