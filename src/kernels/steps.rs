//! Single images, as fast as one thread allows: steps over buffers that are laid out beforehand.
//!
//! At batch 1 the bookkeeping of tensors takes longer than the arithmetic. Here weights are packed once
//! and every activation has its buffer, so that running the steps allocates nothing. Sums are formed in
//! the same order as by the operations on tensors, which gives the same values, bit for bit.

use crate::conv2d::{Geometry, Kernel};
use crate::linear::samples;
use crate::simd::{Epilogue, shifted_product};
use crate::{EPSILON, Lrn, Pool, Pooling, Shortcut};
use candle_core::Result;

/// Where an activation lies: element (c, y, x) at `c * plane + y * row + x` of a buffer. Vectors
/// have one row.
#[derive(Debug, Clone, Copy)]
pub struct View {
    buffer: usize,
    channels: usize,
    height: usize,
    width: usize,
    plane: usize,
    row: usize,
}

impl View {
    fn is_dense(&self) -> bool {
        self.row == self.width && self.plane == self.height * self.width
    }

    fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    fn rows(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.channels).flat_map(move |c| {
            (0..self.height).map(move |y| {
                let start = c * self.plane + y * self.row;
                start..start + self.width
            })
        })
    }
}

/// The memory of all activations.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Vec<Vec<f32>>);

impl Buffers {
    fn add(&mut self, len: usize) -> usize {
        self.0.push(vec![0.0; len]);
        self.0.len() - 1
    }

    /// A new activation of this shape (channels, height, width) without gaps.
    pub fn dense(&mut self, [channels, height, width]: [usize; 3]) -> View {
        View {
            buffer: self.add(channels * height * width),
            channels,
            height,
            width,
            plane: height * width,
            row: width,
        }
    }

    /// The elements of an activation without gaps.
    pub fn read(&self, view: View) -> &[f32] {
        &self.0[view.buffer]
    }

    /// Fills an activation without gaps. Panics where the lengths differ.
    pub fn write(&mut self, view: View, values: &[f32]) {
        self.0[view.buffer].copy_from_slice(values);
    }
}

#[derive(Debug, Clone)]
enum Op {
    Conv {
        geometry: Geometry,
        kernel: Kernel<f32>,
        offsets: Vec<usize>,
        bias: Vec<f32>,
        padded: Vec<f32>,
        scratch: Vec<f32>,
        relu: bool,
    },
    Linear {
        weight: Vec<f32>,
        bias: Vec<f32>,
        products: Vec<f32>,
    },
    Pool {
        pool: Pool,
        scratch: Vec<f32>,
        relu: bool,
    },
    Lrn {
        lrn: Lrn,
        scales: Vec<f32>,
    },
    /// `x · slope + start` for each channel: a batch normalisation that follows no convolution.
    Affine(Vec<(f32, f32)>),
    /// The end of a residual block, whose input lies here.
    Shortcut {
        shortcut: Shortcut,
        input: View,
    },
    Relu,
    /// From a view with gaps into one without.
    Copy,
}

#[derive(Debug, Clone)]
struct Step {
    op: Op,
    from: View,
    to: View,
}

/// The steps of one part of a network. Each method appends a layer that reads `from` and returns where
/// it writes.
#[derive(Debug, Clone, Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, op: Op, from: View, to: View) -> View {
        self.0.push(Step { op, from, to });
        to
    }

    /// The same activation without gaps: `from` itself, or a copy.
    pub fn dense(&mut self, buffers: &mut Buffers, from: View) -> View {
        if from.is_dense() {
            return from;
        }
        let to = buffers.dense(from.shape());
        self.push(Op::Copy, from, to)
    }

    /// A convolution with `weight` (outputs, inputs, kernel, kernel).
    pub fn conv(
        &mut self,
        buffers: &mut Buffers,
        from: View,
        (kernel, padding, stride): (usize, usize, usize),
        weight: &[f32],
        bias: Vec<f32>,
    ) -> Result<View> {
        let (inputs, outputs) = (from.channels, bias.len());
        let g = Geometry::of(inputs, from.height, from.width, outputs, kernel, padding, stride)?;
        let kernel = Kernel::new(&g, |o, tap| weight[o * g.taps() + tap]);
        let (to, scratch) = if let Kernel::Rows(_) = kernel {
            // The product is written where it is wanted, with gaps between its rows.
            let to = View {
                buffer: buffers.add(kernel.scratch(&g)),
                channels: outputs,
                height: g.out_height,
                width: g.out_width,
                plane: g.out_plane(),
                row: g.row,
            };
            (to, 0)
        } else {
            let to = buffers.dense([outputs, g.out_height, g.out_width]);
            (to, kernel.scratch(&g))
        };
        let op = Op::Conv {
            kernel,
            scratch: vec![0.0; scratch],
            offsets: g.offsets(),
            bias,
            padded: vec![0.0; g.padded_len()],
            geometry: g,
            relu: false,
        };
        Ok(self.push(op, from, to))
    }

    /// A fully connected layer with `weight` (outputs, inputs).
    pub fn linear(&mut self, buffers: &mut Buffers, from: View, weight: Vec<f32>, bias: Vec<f32>) -> View {
        let from = self.dense(buffers, from);
        let to = buffers.dense([1, 1, bias.len()]);
        let op = Op::Linear { weight, products: vec![0.0; bias.len()], bias };
        self.push(op, from, to)
    }

    /// A rectifier; after a pooling or convolution of the same part of the network it becomes their
    /// epilogue.
    pub fn relu(&mut self, buffers: &mut Buffers, from: View) -> View {
        if let Some(Step { op: Op::Pool { relu, .. } | Op::Conv { relu, .. }, .. }) = self.0.last_mut() {
            *relu = true;
            return from;
        }
        let to = buffers.dense(from.shape());
        self.push(Op::Relu, from, to)
    }

    /// A pooling.
    pub fn pool(
        &mut self,
        buffers: &mut Buffers,
        from: View,
        kind: Pooling,
        (kernel, stride): (usize, usize),
    ) -> Result<View> {
        let pool = Pool::new(kind, from.height, from.width, kernel, stride)?;
        let to = buffers.dense([from.channels, pool.out_height, pool.out_width]);
        let op = Op::Pool { scratch: vec![0.0; pool.scratch()], pool, relu: false };
        Ok(self.push(op, from, to))
    }

    /// Local response normalisation.
    pub fn lrn(&mut self, buffers: &mut Buffers, from: View, lrn: Lrn) -> View {
        let from = self.dense(buffers, from);
        let to = buffers.dense(from.shape());
        let scales = vec![0.0; from.len()];
        self.push(Op::Lrn { lrn, scales }, from, to)
    }

    /// A batch normalisation by running statistics: weight and bias, mean and variance for each
    /// channel. After a convolution of the same part of the network it becomes part of its weights.
    pub fn batch_norm(
        &mut self,
        buffers: &mut Buffers,
        from: View,
        [weight, bias]: [&[f32]; 2],
        [mean, variance]: [&[f32]; 2],
    ) -> View {
        let lines: Vec<(f32, f32)> = (0..weight.len())
            .map(|c| {
                let slope = f64::from(weight[c]) / (f64::from(variance[c]) + EPSILON).sqrt();
                let start = f64::from(bias[c]) - f64::from(mean[c]) * slope;
                (slope as f32, start as f32)
            })
            .collect();
        if let Some(Step { op: Op::Conv { kernel, bias, relu: false, .. }, .. }) = self.0.last_mut() {
            kernel.scale(|channel| lines[channel].0, lines.len());
            for (bias, (slope, start)) in bias.iter_mut().zip(lines) {
                *bias = *bias * slope + start;
            }
            return from;
        }
        let to = buffers.dense(from.shape());
        self.push(Op::Affine(lines), from, to)
    }

    /// The end of a residual block: the rectified sum of `from` and the block's `input`, which has no
    /// gaps.
    pub fn shortcut(&mut self, buffers: &mut Buffers, from: View, input: View) -> Result<View> {
        let shortcut = Shortcut::new(input.shape(), from.shape())?;
        // Row by row, gaps do not matter.
        let from = if shortcut.is_identity() { from } else { self.dense(buffers, from) };
        let to = buffers.dense(from.shape());
        Ok(self.push(Op::Shortcut { shortcut, input }, from, to))
    }

    /// Runs all steps.
    pub fn run(&mut self, buffers: &mut Buffers) {
        for Step { op, from, to } in &mut self.0 {
            let mut out = std::mem::take(&mut buffers.0[to.buffer]);
            op.run(from, to, &buffers.0, &mut out);
            buffers.0[to.buffer] = out;
        }
    }
}

impl Op {
    fn run(&mut self, from: &View, to: &View, buffers: &[Vec<f32>], out: &mut [f32]) {
        let input = &buffers[from.buffer];
        let rectified = |x: f32| if x < 0.0 { 0.0 } else { x };
        match self {
            Self::Conv { geometry, kernel, offsets, bias, padded, scratch, relu } => {
                geometry.pad(input, from.plane, from.row, padded);
                let epilogue = Epilogue { bias: Some(bias), relu: *relu };
                match kernel {
                    Kernel::Rows(packed) => {
                        let (plane, columns) = (to.plane, geometry.columns());
                        shifted_product(packed, offsets, padded, epilogue, out, plane, columns);
                    }
                    Kernel::Channels(..) => {
                        kernel.run(geometry, offsets, padded, epilogue, scratch, out);
                    }
                }
            }
            Self::Linear { weight, bias, products } => {
                let x = &input[..from.channels * from.plane];
                samples(x, weight, bias, products, out);
            }
            Self::Pool { pool, scratch, relu } => {
                let floor = if *relu { 0.0 } else { f32::NEG_INFINITY };
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        for (plane, out) in input.chunks(from.plane).zip(out.chunks_mut(to.plane)) {
                            pool.plane(plane, from.row, scratch, |y, x, value| {
                                out[y * to.row + x] = if value < floor { floor } else { value };
                            });
                        }
                    },
                );
            }
            Self::Lrn { lrn, scales } => lrn.image(input, from.plane, scales, out),
            Self::Affine(lines) => {
                for (i, (a, b)) in from.rows().zip(to.rows()).enumerate() {
                    let (slope, start) = lines[i / from.height];
                    for (x, out) in input[a].iter().zip(&mut out[b]) {
                        *out = x * slope + start;
                    }
                }
            }
            Self::Shortcut { shortcut, input: first } => {
                let first = &buffers[first.buffer];
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        if !shortcut.is_identity() {
                            return shortcut.image(input, first, out);
                        }
                        for (a, b) in from.rows().zip(to.rows()) {
                            let sums = input[a].iter().zip(&first[b.clone()]);
                            for (out, (&body, &x)) in out[b].iter_mut().zip(sums) {
                                *out = rectified(body + x);
                            }
                        }
                    },
                );
            }
            Self::Relu => {
                for (a, b) in from.rows().zip(to.rows()) {
                    for (x, out) in input[a].iter().zip(&mut out[b]) {
                        *out = rectified(*x);
                    }
                }
            }
            Self::Copy => {
                for (a, b) in from.rows().zip(to.rows()) {
                    out[b].copy_from_slice(&input[a]);
                }
            }
        }
    }
}
