//! Inference one image at a time, as fast as this machine allows.
//!
//! [`Network`] is for training and batches; at batch 1 its tensors' bookkeeping takes longer than
//! the arithmetic. A plan is built once: weights packed for the kernels, a buffer for every
//! activation. Running it allocates nothing and uses one thread. It sums in the same order as the
//! network, and so gives the same logits, bit for bit.

use crate::early_exit::{Answer, check_thresholds, read};
use crate::error::bail;
use crate::network::{Layer, Network, Node, Shape};
use crate::ops::{
    AveragePool, ConvGeometry, ConvKernel, EPSILON, Lrn, Pool, Shortcut, linear_samples,
};
use crate::simd::{Around, shifted_product};
use crate::{Error, Result};

/// Where an activation lies: element (c, y, x) at `c * plane + y * row + x` of a buffer. Vectors
/// have one row.
#[derive(Debug, Clone, Copy)]
struct View {
    buffer: usize,
    channels: usize,
    height: usize,
    width: usize,
    plane: usize,
    row: usize,
}

impl View {
    fn dense(buffer: usize, shape: Shape) -> Self {
        let (channels, height, width) = match shape {
            Shape::Image(channels, height, width) => (channels, height, width),
            Shape::Flat(len) => (1, 1, len),
        };
        Self {
            buffer,
            channels,
            height,
            width,
            plane: height * width,
            row: width,
        }
    }

    fn is_dense(&self) -> bool {
        self.row == self.width && self.plane == self.height * self.width
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

#[derive(Debug, Clone)]
enum Step {
    Conv {
        geometry: ConvGeometry,
        kernel: ConvKernel<f32>,
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
        column_max: Vec<f32>,
        relu: bool,
    },
    AveragePool(AveragePool),
    Lrn {
        lrn: Lrn,
        scales: Vec<f32>,
    },
    /// `x · slope + start` for each channel: a batch normalisation that follows no convolution.
    BatchNorm(Vec<(f32, f32)>),
    /// The end of a residual block, whose input lies here.
    Shortcut {
        shortcut: Shortcut,
        input: View,
    },
    /// Also copies from a view with gaps into one without.
    Relu,
    Copy,
}

#[derive(Debug, Clone)]
struct Placed {
    step: Step,
    from: View,
    to: View,
}

/// A network compiled for single images on the CPU.
#[derive(Debug, Clone)]
pub struct Plan {
    segments: Vec<Vec<Placed>>,
    branches: Vec<Vec<Placed>>,
    /// Where the logits of each exit end up.
    logits: Vec<View>,
    buffers: Vec<Vec<f32>>,
    input: usize,
}

impl Plan {
    /// Compiles `network` with the parameters it has now; training it further does not change the
    /// plan.
    pub fn new(network: &Network) -> Result<Self> {
        let mut plan = Self {
            segments: Vec::new(),
            branches: Vec::new(),
            logits: Vec::new(),
            buffers: Vec::new(),
            input: network.input().len(),
        };
        let mut view = View::dense(plan.buffer(plan.input), network.input());
        for (i, segment) in network.segments.iter().enumerate() {
            let mut steps = Vec::new();
            for node in segment {
                view = plan.place(node, view, &mut steps)?;
            }
            plan.segments.push(steps);
            let mut end = view;
            if let Some(branch) = network.branches.get(i) {
                let mut steps = Vec::new();
                for node in branch {
                    end = plan.place(node, end, &mut steps)?;
                }
                plan.branches.push(steps);
            }
            plan.logits.push(end);
        }
        Ok(plan)
    }

    fn buffer(&mut self, len: usize) -> usize {
        self.buffers.push(vec![0.0; len]);
        self.buffers.len() - 1
    }

    /// The same activation without gaps: `from` itself, or a copy that a step appended here makes.
    fn dense(&mut self, from: View, shape: Shape, steps: &mut Vec<Placed>) -> View {
        if from.is_dense() {
            return from;
        }
        let to = View::dense(self.buffer(shape.len()), shape);
        steps.push(Placed {
            step: Step::Copy,
            from,
            to,
        });
        to
    }

    /// Appends the steps of one layer that reads `from`; returns where it writes.
    fn place(&mut self, node: &Node, from: View, steps: &mut Vec<Placed>) -> Result<View> {
        let parameters = || -> Result<(Vec<f32>, Vec<f32>)> {
            let (weight, bias) = node.parameters.as_ref().expect("built with parameters");
            Ok((weight.flatten_all()?.to_vec1()?, bias.to_vec1()?))
        };
        let step = match node.layer {
            Layer::Conv {
                inputs,
                outputs,
                kernel,
                padding,
                stride,
            } => {
                let g = ConvGeometry::of(
                    inputs,
                    from.height,
                    from.width,
                    outputs,
                    kernel,
                    padding,
                    stride,
                )
                .map_err(Error::from)?;
                let (weight, bias) = parameters()?;
                let kernel = ConvKernel::new(&g, |o, tap| weight[o * g.taps() + tap]);
                let (to, scratch) = if let ConvKernel::Rows(_) = kernel {
                    // The product is written where it is wanted, with gaps between its rows.
                    let to = View {
                        buffer: self.buffer(kernel.scratch(&g)),
                        channels: outputs,
                        height: g.out_height,
                        width: g.out_width,
                        plane: g.out_plane(),
                        row: g.row,
                    };
                    (to, 0)
                } else {
                    let buffer = self.buffer(node.output.len());
                    (View::dense(buffer, node.output), kernel.scratch(&g))
                };
                let step = Step::Conv {
                    kernel,
                    scratch: vec![0.0; scratch],
                    offsets: g.offsets(),
                    bias,
                    padded: vec![0.0; g.padded_len()],
                    geometry: g,
                    relu: false,
                };
                steps.push(Placed { step, from, to });
                return Ok(to);
            }
            Layer::Linear { outputs, .. } => {
                let from = self.dense(from, node.input, steps);
                let (weight, bias) = parameters()?;
                let to = View::dense(self.buffer(outputs), node.output);
                steps.push(Placed {
                    step: Step::Linear {
                        weight,
                        bias,
                        products: vec![0.0; outputs],
                    },
                    from,
                    to,
                });
                return Ok(to);
            }
            Layer::Relu => {
                // A rectifier after a pooling or convolution of the same part of the network is done
                // there.
                if let Some(Placed {
                    step: Step::Pool { relu, .. } | Step::Conv { relu, .. },
                    ..
                }) = steps.last_mut()
                {
                    *relu = true;
                    return Ok(from);
                }
                Step::Relu
            }
            Layer::MaxPool { kernel, stride } => {
                let pool =
                    Pool::new(from.height, from.width, kernel, stride).map_err(Error::from)?;
                Step::Pool {
                    pool,
                    column_max: vec![0.0; from.width],
                    relu: false,
                }
            }
            Layer::AveragePool { kernel, stride } => Step::AveragePool(
                AveragePool::new(from.height, from.width, kernel, stride).map_err(Error::from)?,
            ),
            Layer::BatchNorm { .. } => {
                let lines = lines(node)?;
                // After a convolution of the same part of the network it becomes part of its weights.
                if let Some(Placed {
                    step:
                        Step::Conv {
                            kernel,
                            bias,
                            relu: false,
                            ..
                        },
                    ..
                }) = steps.last_mut()
                {
                    kernel.scale(|channel| lines[channel].0, lines.len());
                    for (bias, (slope, start)) in bias.iter_mut().zip(lines) {
                        *bias = *bias * slope + start;
                    }
                    return Ok(from);
                }
                Step::BatchNorm(lines)
            }
            Layer::Residual(_) => {
                let input = self.dense(from, node.input, steps);
                let mut end = input;
                for node in &node.inner {
                    end = self.place(node, end, steps)?;
                }
                let shape = |view: View| [view.channels, view.height, view.width];
                let shortcut = Shortcut::new(shape(input), shape(end)).map_err(Error::from)?;
                // Row by row gaps do not matter.
                let from = if shortcut.is_identity() {
                    end
                } else {
                    self.dense(end, node.output, steps)
                };
                let to = View::dense(self.buffer(node.output.len()), node.output);
                let step = Step::Shortcut { shortcut, input };
                steps.push(Placed { step, from, to });
                return Ok(to);
            }
            Layer::Lrn(lrn) => {
                let from = self.dense(from, node.input, steps);
                let to = View::dense(self.buffer(node.output.len()), node.output);
                steps.push(Placed {
                    step: Step::Lrn {
                        lrn,
                        scales: vec![0.0; node.input.len()],
                    },
                    from,
                    to,
                });
                return Ok(to);
            }
            Layer::Dropout(_) => return Ok(from),
            Layer::Branch(_) => unreachable!("branches are not nodes"),
        };
        let to = View::dense(self.buffer(node.output.len()), node.output);
        steps.push(Placed { step, from, to });
        Ok(to)
    }

    /// The number of exits.
    pub fn exits(&self) -> usize {
        self.segments.len()
    }

    fn load(&mut self, image: &[f32]) -> Result<()> {
        if image.len() != self.input {
            bail!(
                "the network takes images of {} values, got {}",
                self.input,
                image.len()
            )
        }
        self.buffers[0].copy_from_slice(image);
        Ok(())
    }

    /// Classifies one image (channels, height, width; as [`crate::data::Split::batch`] scales it):
    /// trunk, branches, softmax, entropy and decision. The same answer as
    /// [`Network::classify`]. Fails when the image has another size or thresholds are
    /// missing, negative or NaN.
    pub fn classify(&mut self, image: &[f32], thresholds: &[f64]) -> Result<Answer> {
        check_thresholds(thresholds, self.exits())?;
        self.load(image)?;
        for (exit, &threshold) in thresholds.iter().enumerate() {
            run(&mut self.segments[exit], &mut self.buffers);
            run(&mut self.branches[exit], &mut self.buffers);
            let reading = read(self.logits_at(exit));
            if reading.entropy < threshold {
                return Ok(reading.at(exit));
            }
        }
        let exit = self.exits() - 1;
        run(&mut self.segments[exit], &mut self.buffers);
        Ok(read(self.logits_at(exit)).at(exit))
    }

    /// The logits that exit `exit` (from 0) gave in the last run; stale where that run left before
    /// it.
    pub fn logits_at(&self, exit: usize) -> &[f32] {
        &self.buffers[self.logits[exit].buffer]
    }

    /// Runs the trunk alone up to where exit `exit` (from 0) branches off, without branches,
    /// softmax or decision: what the paper's timer covered. Fails when the image has another
    /// size.
    pub fn run_trunk(&mut self, image: &[f32], exit: usize) -> Result<()> {
        self.load(image)?;
        for segment in &mut self.segments[..=exit] {
            run(segment, &mut self.buffers);
        }
        Ok(())
    }
}

/// A batch normalisation as slope and start for each channel.
fn lines(node: &Node) -> Result<Vec<(f32, f32)>> {
    let values = |pair: &Option<(candle_core::Var, candle_core::Var)>| {
        let (a, b) = pair.as_ref().expect("built with parameters and statistics");
        Ok::<_, Error>((a.to_vec1::<f32>()?, b.to_vec1::<f32>()?))
    };
    let ((weight, bias), (mean, variance)) = (values(&node.parameters)?, values(&node.statistics)?);
    Ok((0..weight.len())
        .map(|c| {
            let slope = f64::from(weight[c]) / (f64::from(variance[c]) + EPSILON).sqrt();
            let start = f64::from(bias[c]) - f64::from(mean[c]) * slope;
            (slope as f32, start as f32)
        })
        .collect())
}

fn run(steps: &mut [Placed], buffers: &mut [Vec<f32>]) {
    for Placed { step, from, to } in steps {
        let mut out = std::mem::take(&mut buffers[to.buffer]);
        let input = &buffers[from.buffer];
        match step {
            Step::Conv {
                geometry,
                kernel,
                offsets,
                bias,
                padded,
                scratch,
                relu,
            } => {
                geometry.pad(input, from.plane, from.row, padded);
                let around = Around {
                    bias: Some(bias),
                    relu: *relu,
                };
                match kernel {
                    ConvKernel::Rows(packed) => {
                        let (plane, columns) = (to.plane, geometry.columns());
                        shifted_product(packed, offsets, padded, around, &mut out, plane, columns);
                    }
                    ConvKernel::Channels(..) => {
                        kernel.run(geometry, offsets, padded, around, scratch, &mut out);
                    }
                }
            }
            Step::Linear {
                weight,
                bias,
                products,
            } => {
                let x = &input[..from.channels * from.plane];
                linear_samples(x, weight, bias, products, &mut out);
            }
            Step::Pool {
                pool,
                column_max,
                relu,
            } => {
                let floor = if *relu { 0.0 } else { f32::NEG_INFINITY };
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        for (plane, out) in input.chunks(from.plane).zip(out.chunks_mut(to.plane)) {
                            pool.plane(plane, from.row, column_max, |y, x, max| {
                                out[y * to.row + x] = if max < floor { floor } else { max };
                            });
                        }
                    },
                );
            }
            Step::AveragePool(pool) => {
                for (plane, out) in input.chunks(from.plane).zip(out.chunks_mut(to.plane)) {
                    pool.plane(plane, from.row, out);
                }
            }
            Step::BatchNorm(lines) => {
                let rows = from.rows().zip(to.rows()).enumerate();
                for (i, (a, b)) in rows {
                    let (slope, start) = lines[i / from.height];
                    for (x, out) in input[a].iter().zip(&mut out[b]) {
                        *out = x * slope + start;
                    }
                }
            }
            Step::Shortcut {
                shortcut,
                input: first,
            } => {
                let first = &buffers[first.buffer];
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        if !shortcut.is_identity() {
                            return shortcut.image(input, first, &mut out);
                        }
                        for (a, b) in from.rows().zip(to.rows()) {
                            let sums = input[a].iter().zip(&first[b.clone()]);
                            for (out, (&body, &x)) in out[b].iter_mut().zip(sums) {
                                let sum = body + x;
                                *out = if sum < 0.0 { 0.0 } else { sum };
                            }
                        }
                    },
                );
            }
            Step::Lrn { lrn, scales } => lrn.image(input, from.plane, scales, &mut out),
            Step::Relu => {
                for (a, b) in from.rows().zip(to.rows()) {
                    for (x, out) in input[a].iter().zip(&mut out[b]) {
                        *out = if *x < 0.0 { 0.0 } else { *x };
                    }
                }
            }
            Step::Copy => {
                for (a, b) in from.rows().zip(to.rows()) {
                    out[b].copy_from_slice(&input[a]);
                }
            }
        }
        buffers[to.buffer] = out;
    }
}
