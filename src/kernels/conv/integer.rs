//! Convolutions, and fully connected layers, of bytes with weights of a byte: sums of whole numbers, which are exact.
//!
//! Four bytes that lie side by side in the image are multiplied at a time with four weights of each output ([`super::dot`]).
//! What follows a sum is the same operations on f32 in the same order on every processor, so that all give the same bits.

use super::dot::{Instructions, Set, WithSet};
use super::grid::Grid;
use super::image::Image;
use super::product::{Tile, sized};
use super::share::{Share, Shared};
use crate::simd::{self, Aligned, parts};
use std::marker::PhantomData;
use std::ops::Range;

/// A convolution of bytes.
#[derive(Debug, Clone)]
pub struct Integer {
    instructions: Instructions,
    /// Groups of outputs, in a group the terms, in a term the outputs, and of each output four weights.
    weights: Aligned,
    /// Where the four bytes of each term lie from the first pixel of a window on.
    terms: Vec<usize>,
    /// What sums start from: it takes away the products with the number of 0.
    start: Vec<i32>,
    /// What a sum is multiplied with, and what is added then.
    factor: Vec<f32>,
    bias: Vec<f32>,
    /// Nothing below or above is stored.
    range: [f32; 2],
    padding: usize,
    stride: usize,
}

/// A layer with products of bytes.
#[derive(Debug)]
pub struct Whole {
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    pub padding: usize,
    pub stride: usize,
    /// Weights (outputs, inputs, height, width), and the scale of each output.
    pub numbers: Vec<i8>,
    pub scales: Vec<f32>,
    pub bias: Vec<f32>,
    pub relu: bool,
    /// The input's.
    pub from: Grid,
    /// What is stored: whole numbers, or f32.
    pub to: Option<Grid>,
}

/// Where results go.
#[derive(Clone, Copy)]
pub enum Results {
    Bytes(Shared<u8>, u8),
    Floats(Shared),
}

/// The four weights of a term of an output, each with its place in (inputs, height, width).
type Term = [Option<usize>; 4];

impl Whole {
    /// Where the bytes of each term lie, and its weights. Where no zeros lie between the pixels of a row, these are one run.
    fn terms(&self, from: &Image) -> (Vec<usize>, Vec<Term>) {
        let ([height, width], channels) = (self.kernel, from.channels);
        let (mut places, mut terms) = (Vec::new(), Vec::new());
        let joined = from.depth == channels;
        let (runs, run) = if joined { (1, width * channels) } else { (width, channels) };
        for (y, first) in (0..height).flat_map(|y| (0..runs).map(move |x| (y, x))) {
            for at in (0..run).step_by(4) {
                places.push(from.tap(0, y, first) + at);
                let weight = |i: usize| {
                    let (x, c) = (first + (at + i) / channels, (at + i) % channels);
                    (at + i < run).then_some((c * height + y) * width + x)
                };
                terms.push([0, 1, 2, 3].map(weight));
            }
        }
        (places, terms)
    }
}

impl Integer {
    /// Of an image `from`.
    pub fn new(from: &Image, whole: &Whole) -> Self {
        Self::by(Instructions::best(), from, whole)
    }

    /// With these instructions.
    fn by(instructions: Instructions, from: &Image, whole: &Whole) -> Self {
        let (places, terms) = whole.terms(from);
        let (outputs, lanes) = (whole.bias.len(), instructions.lanes());
        let numbers = |output: usize| &whole.numbers[output * whole.numbers.len() / outputs..];
        let narrow = whole.numbers.iter().all(|n| n.unsigned_abs() <= 64);
        let instructions = instructions.for_weights(narrow);
        let registers = outputs.div_ceil(lanes);
        let mut weights = Aligned::zeros(registers * lanes * terms.len());
        let mut packed = weights.bytes_mut().chunks_exact_mut(4);
        for group in parts(registers, instructions.widest()) {
            for term in &terms {
                for output in group.start * lanes..group.end * lanes {
                    let packed = packed.next().expect("as many");
                    for (to, place) in packed.iter_mut().zip(term) {
                        let number = place.filter(|_| output < outputs).map(|place| numbers(output)[place]);
                        *to = number.unwrap_or(0) as u8;
                    }
                }
            }
        }
        let filled = |at: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..registers * lanes).map(|o| if o < outputs { at(o) } else { 0.0 }).collect()
        };
        let unit = whole.to.map_or(1.0, |grid| f64::from(grid.scale));
        let scale = |o: usize| (f64::from(whole.from.scale) * f64::from(whole.scales[o]) / unit) as f32;
        let factor = filled(&scale);
        let bias = filled(&|o| (f64::from(whole.bias[o]) / unit) as f32);
        let len = whole.numbers.len() / outputs;
        let sum = |o: usize| numbers(o)[..len].iter().map(|&n| i32::from(n)).sum::<i32>();
        let start = (0..registers * lanes)
            .map(|o| if o < outputs { -i32::from(whole.from.zero) * sum(o) } else { 0 });
        let [low, high] = whole.to.map_or([f32::NEG_INFINITY, f32::INFINITY], Grid::range);
        let range = [if whole.relu { low.max(0.0) } else { low }, high];
        let (start, padding, stride) = (start.collect(), whole.padding, whole.stride);
        Self { instructions, weights, terms: places, start, factor, bias, range, padding, stride }
    }

    /// Whole numbers that are read as weights.
    pub fn weights(&self) -> usize {
        4 * self.weights.len()
    }

    /// Convolves this share of `images` images that lie one after another.
    pub fn run(
        &self,
        (from, input): (&Image, &[u8]),
        (to, out): (&Image, Results),
        images: usize,
        share: Share,
    ) {
        let len = match out {
            Results::Bytes(out, _) => out.len(),
            Results::Floats(out) => out.len(),
        };
        let corner = |size: usize| ((size - 1) * self.stride) as isize - self.padding as isize;
        let end = from.at(corner(to.height), corner(to.width)) + self.terms.last().map_or(0, |term| term + 4);
        assert!(images * from.len() <= input.len() && images * to.len() <= len && end <= from.len());
        assert!(from.border >= self.padding && from.zero.is_some());
        // Whole registers are stored, but for plain instructions.
        assert!(to.depth >= self.factor.len() || self.instructions == Instructions::Plain);
        let run = Run { conv: self, from, input, to, out, pixels: images * to.height * to.width, share };
        self.instructions.dispatch(run);
    }
}

struct Run<'a> {
    conv: &'a Integer,
    from: &'a Image,
    input: &'a [u8],
    to: &'a Image,
    out: Results,
    /// Of all images.
    pixels: usize,
    share: Share,
}

impl WithSet for Run<'_> {
    #[inline(always)]
    unsafe fn with<S: Set>(self) {
        let Self { conv, to, pixels, share, .. } = self;
        let groups = parts(conv.factor.len() / S::LANES, S::WIDEST);
        let tiles = |group: &Range<usize>| parts(pixels, S::MOST[group.len() - 1]);
        let count = groups.clone().map(|group| tiles(&group).count()).sum();
        let (share, mut number) = (share.of(count), 0);
        for group in groups {
            let first = group.start * S::LANES;
            let weights = &simd::bytes(&conv.weights)[4 * first * conv.terms.len()..];
            let mut walk = None;
            for tile in tiles(&group) {
                number += 1;
                if !share.contains(&(number - 1)) {
                    continue;
                }
                let walk = walk.get_or_insert_with(|| Walk::new(&self, tile.start));
                let tile_of = IntegerTile {
                    run: &self,
                    set: PhantomData::<S>,
                    walk,
                    first,
                    weights: weights.as_ptr(),
                    space: to.depth - first,
                };
                sized(group.len(), tile.len(), tile_of);
            }
        }
    }
}

/// The pixels of the output, one after another, as where their windows begin and where they lie.
struct Walk<'a> {
    run: &'a Run<'a>,
    number: usize,
    y: usize,
    x: usize,
    from: usize,
    to: usize,
}

impl<'a> Walk<'a> {
    #[inline(always)]
    fn new(run: &'a Run<'a>, pixel: usize) -> Self {
        let to = run.to;
        let (number, y, x) = (pixel / (to.width * to.height), pixel / to.width % to.height, pixel % to.width);
        let mut walk = Self { run, number, y, x, from: 0, to: 0 };
        walk.go();
        walk
    }

    #[inline(always)]
    fn go(&mut self) {
        let Run { conv, from, to, .. } = *self.run;
        let at = |i: usize| (i * conv.stride) as isize - conv.padding as isize;
        self.from = self.number * from.len() + from.at(at(self.y), at(self.x));
        self.to = self.number * to.len() + to.at(self.y as isize, self.x as isize);
    }

    #[inline(always)]
    fn next(&mut self) -> (usize, usize) {
        let Run { conv, from, to, .. } = *self.run;
        let place = (self.from, self.to);
        (self.x, self.from, self.to) = (self.x + 1, self.from + conv.stride * from.depth, self.to + to.depth);
        if self.x == to.width {
            (self.x, self.y) = (0, self.y + 1);
            if self.y == to.height {
                (self.y, self.number) = (0, self.number + 1);
            }
            self.go();
        }
        place
    }
}

struct IntegerTile<'a, 'b, S> {
    run: &'a Run<'a>,
    set: PhantomData<S>,
    walk: &'b mut Walk<'a>,
    /// The first output.
    first: usize,
    weights: *const u8,
    /// Elements of a pixel from that output on.
    space: usize,
}

impl<S: Set> Tile for IntegerTile<'_, '_, S> {
    #[inline(always)]
    fn run<const N: usize, const P: usize>(self) {
        // Few sums of which each waits for the one before it take turns.
        unsafe {
            match N * P {
                1 => self.sums::<N, P, 6>(),
                2 | 3 => self.sums::<N, P, 3>(),
                4 | 5 => self.sums::<N, P, 2>(),
                _ => self.sums::<N, P, 1>(),
            }
        }
    }
}

impl<S: Set> IntegerTile<'_, '_, S> {
    /// Safety: `Integer::run` has asserted that windows and results lie in their images.
    #[inline(always)]
    unsafe fn sums<const N: usize, const P: usize, const TURNS: usize>(self) {
        let (run, first) = (self.run, self.first);
        let (mut from, mut to) = ([run.input.as_ptr(); P], [0; P]);
        for p in 0..P {
            let place = self.walk.next();
            (from[p], to[p]) = (run.input.as_ptr().wrapping_add(place.0), place.1);
        }
        unsafe {
            let (terms, mut weights) = (&run.conv.terms[..], self.weights);
            let zero = S::start([0; 16].as_ptr());
            let mut sums = [[[zero; N]; P]; TURNS];
            for n in 0..N {
                let start = S::start(run.conv.start.as_ptr().add(first + n * S::LANES));
                for p in 0..P {
                    sums[0][p][n] = start;
                }
            }
            let mut at = 0;
            while at + TURNS <= terms.len() {
                for turn in 0..TURNS {
                    let term = *terms.as_ptr().add(at + turn);
                    let mut left = [S::weights(weights); N];
                    for n in 1..N {
                        left[n] = S::weights(weights.add(4 * n * S::LANES));
                    }
                    for p in 0..P {
                        let right = S::pixel(from[p].add(term));
                        for n in 0..N {
                            sums[turn][p][n] = S::add(sums[turn][p][n], right, left[n]);
                        }
                    }
                    weights = weights.add(4 * N * S::LANES);
                }
                at += TURNS;
            }
            if TURNS > 1 {
                while at < terms.len() {
                    for p in 0..P {
                        let right = S::pixel(from[p].add(*terms.as_ptr().add(at)));
                        for n in 0..N {
                            let left = S::weights(weights.add(4 * n * S::LANES));
                            sums[0][p][n] = S::add(sums[0][p][n], right, left);
                        }
                    }
                    weights = weights.add(4 * N * S::LANES);
                    at += 1;
                }
                for turn in 1..TURNS {
                    for p in 0..P {
                        for n in 0..N {
                            sums[0][p][n] = S::join(sums[0][p][n], sums[turn][p][n]);
                        }
                    }
                }
            }
            for n in 0..N {
                let of = first + n * S::LANES;
                let (factor, bias) = (run.conv.factor.as_ptr().add(of), run.conv.bias.as_ptr().add(of));
                for p in 0..P {
                    let values = S::finish(sums[0][p][n], factor, bias, run.conv.range);
                    match run.out {
                        Results::Bytes(out, zero) => S::store_bytes(out.at(to[p] + of), values, zero),
                        Results::Floats(out) => {
                            S::store(out.at(to[p] + of), values, self.space - n * S::LANES)
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that repeat late.
    fn numbers(seed: usize) -> impl FnMut(usize) -> usize {
        let mut state = seed as u64 + 1;
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        }
    }

    /// What is stored at (image, output, y, x), by plain loops over the image's numbers, which are 0's outside.
    fn value(whole: &Whole, shape: [usize; 3], image: &[u8], [output, y, x]: [usize; 3]) -> f32 {
        let ([channels, height, width], [rows, columns]) = (shape, whole.kernel);
        let mut sum = 0i64;
        for (c, i, j) in
            (0..channels).flat_map(|c| (0..rows * columns).map(move |t| (c, t / columns, t % columns)))
        {
            let (y, x) = (y * whole.stride + i, x * whole.stride + j);
            let inside = (whole.padding..height + whole.padding).contains(&y)
                && (whole.padding..width + whole.padding).contains(&x);
            if inside {
                let pixel = image[(c * height + y - whole.padding) * width + x - whole.padding];
                let weight = whole.numbers[((output * channels + c) * rows + i) * columns + j];
                sum += i64::from(weight) * (i64::from(pixel) - i64::from(whole.from.zero));
            }
        }
        let unit = whole.to.map_or(1.0, |grid| f64::from(grid.scale));
        let factor = (f64::from(whole.from.scale) * f64::from(whole.scales[output]) / unit) as f32;
        let value = sum as f32 * factor + (f64::from(whole.bias[output]) / unit) as f32;
        if whole.relu { value.max(0.0) } else { value }
    }

    #[test]
    fn convolutions_are_those_of_plain_loops_with_all_instructions() {
        let cases = (0..400).map(|case| (case, numbers(case)));
        for (case, mut draw) in cases {
            let kernel = [1, 2, 3, 5][draw(4)];
            let (stride, padding, images) = (1 + draw(2), draw(kernel), 1 + draw(3));
            let shape = [1 + draw(70), kernel + draw(6), kernel + draw(6)];
            let outputs = 1 + draw(if case % 5 == 0 { 150 } else { 40 });
            let largest = [1, 64, 127][draw(3)];
            let grid = |draw: &mut dyn FnMut(usize) -> usize| Grid {
                scale: 0.01 + draw(100) as f32 * 1e-3,
                zero: draw(256) as u8,
            };
            let len = shape[0] * kernel * kernel;
            let whole = Whole {
                kernel: [kernel; 2],
                padding,
                stride,
                numbers: (0..outputs * len).map(|_| draw(2 * largest + 1) as i8 - largest as i8).collect(),
                scales: (0..outputs).map(|_| 1e-3 + draw(100) as f32 * 1e-5).collect(),
                bias: (0..outputs).map(|_| draw(200) as f32 * 0.01 - 1.0).collect(),
                relu: draw(2) == 1,
                from: grid(&mut draw),
                to: (draw(2) == 1).then(|| Grid { scale: 0.1, ..grid(&mut draw) }),
            };
            let mut from = Image { border: padding + draw(2), ..Image::of_bytes(shape, whole.from.zero) };
            if shape[0] < 4 && draw(2) == 1 {
                from.depth = shape[0];
            }
            let size = |length: usize| (length + 2 * padding - kernel) / stride + 1;
            let shape_to = [outputs, size(shape[1]), size(shape[2])];
            let to = match whole.to {
                Some(grid) => Image::of_bytes(shape_to, grid.zero),
                // Whole registers of any of the instructions.
                None => Image { depth: outputs.next_multiple_of(16), ..Image::new(shape_to) },
            };
            let to = Image { border: draw(2), ..to };
            let values: Vec<Vec<u8>> = (0..images)
                .map(|_| (0..shape.iter().product()).map(|_| [0, 255, draw(256) as u8][draw(3)]).collect())
                .collect();
            let mut input = vec![whole.from.zero; images * from.len()];
            for (i, image) in values.iter().enumerate() {
                for (place, &value) in image.iter().enumerate() {
                    let (c, y, x) =
                        (place / shape[2] / shape[1], place / shape[2] % shape[1], place % shape[2]);
                    input[i * from.len() + from.at(y as isize, x as isize) + c] = value;
                }
            }
            for instructions in Instructions::all() {
                let conv = Integer::by(instructions, &from, &whole);
                let mut out = Aligned::zeros(images * to.room());
                let shared = Shared::new(&mut out);
                let results = whole
                    .to
                    .map_or(Results::Floats(shared), |grid| Results::Bytes(shared.bytes(), grid.zero));
                let threads = 1 + case % 3;
                for index in 0..threads {
                    conv.run((&from, &input), (&to, results), images, Share { index, threads });
                }
                for i in 0..images * outputs * to.height * to.width {
                    let (x, y) = (i % to.width, i / to.width % to.height);
                    let (output, image) =
                        (i / to.width / to.height % outputs, i / to.width / to.height / outputs);
                    let at = image * to.len() + to.at(y as isize, x as isize) + output;
                    let want = value(&whole, shape, &values[image], [output, y, x]);
                    match whole.to {
                        None => assert_eq!(out[at].to_bits(), want.to_bits(), "{instructions:?} {case}"),
                        Some(grid) => {
                            let want = want.round_ties_even() as i64 + i64::from(grid.zero);
                            assert_eq!(
                                i64::from(simd::bytes(&out)[at]),
                                want.clamp(0, 255),
                                "{instructions:?} {case}"
                            );
                        }
                    }
                }
            }
        }
    }
}
