//! A trained network as an int8 runtime computes it.

use super::network::Network;
use crate::kernels::inference::weight_scale;
use crate::kernels::{EPSILON, Pooling};
use crate::layers::{Layer, Node, Operator, Pass, Pool, quantize, relu, run};
use crate::{Result, error};
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;

/// Weight, flat, and bias of a layer with products.
type Weights = (Vec<f32>, Vec<f32>);

impl Network {
    /// This network with the weights of convolutions and linear layers rounded to whole numbers of `bits` bits, sign included,
    /// of a scale for each output, batch normalisations folded into the convolutions before them, and activations rounded to
    /// 256 values ([`super::quantize()`]) whose range is that of these images (batch, channels, height, width). Sums stay exact,
    /// so that a runtime which sums integers without saturation answers as this network does, but for rounding.
    ///
    /// Source: Jacob et al. 2018, <https://arxiv.org/abs/1712.05877>. Fails, naming it, for a batch normalisation that cannot be
    /// folded.
    pub fn quantized(&self, images: &Tensor, bits: u32) -> Result<Self> {
        let mut weights = BTreeMap::new();
        let mut folded = Vec::new();
        for (i, segment) in self.segments.iter().enumerate() {
            folded.extend(fold(segment, &mut weights)?);
            if let Some(branch) = self.branches.get(i) {
                folded.push(Layer::Branch(fold(branch, &mut weights)?));
            }
        }
        let input = [quantize(0.0, 0.0)];
        let layers: Vec<Layer> = input.into_iter().chain(with_roundings(&folded, false, false)).collect();
        let mut network = Self::new(&self.name, self.image, layers, 0, &self.device)?;
        for node in network.nodes() {
            if let (Some((weight, bias)), Some((values, offsets))) =
                (&node.variables.parameters, weights.get(&node.name))
            {
                let values = rounded(values.clone(), offsets.len(), bits);
                weight.set(&Tensor::from_vec(values, weight.shape(), &self.device)?)?;
                bias.set(&Tensor::from_slice(offsets, offsets.len(), &self.device)?)?;
            }
        }
        let (mut x, mut layers) = (images.clone(), Vec::new());
        for i in 0..network.exits() {
            x = calibrate(&mut network.segments[i], &x)?;
            layers.extend(listed(&network.segments[i]));
            if let Some(branch) = network.branches.get_mut(i) {
                calibrate(branch, &x)?;
                layers.push(Layer::Branch(listed(branch)));
            }
        }
        network.layers = layers;
        Ok(network)
    }
}

/// The layers of these nodes without batch normalisations, which become a part of the weights of the convolutions before them.
fn fold(nodes: &[Node], weights: &mut BTreeMap<String, Weights>) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    // The convolution whose outputs come next, and whether a maximum has been taken of them.
    let mut before: Option<(&Node, bool)> = None;
    for node in nodes {
        if let Some((weight, bias)) = node.variables.parameters.as_ref().filter(|_| !is_norm(node)) {
            weights.insert(node.name.clone(), (weight.flatten_all()?.to_vec1()?, bias.to_vec1()?));
        }
        let layer = match &node.layer {
            Layer::BatchNorm(_) => {
                let folded = before.is_some_and(|(conv, pooled)| {
                    fold_one(node, weights.get_mut(&conv.name), pooled).is_some()
                });
                if !folded {
                    return Err(error!(
                        Setting,
                        "{}: for int8 a batch normalisation is folded into the convolution before it, and none stands there{}",
                        node.name,
                        if before.is_some() {
                            " but for a pooling, which allows positive factors alone"
                        } else {
                            ""
                        }
                    ));
                }
                continue;
            }
            Layer::Residual(block) => block.of(fold(&node.inner, weights)?, fold(&node.beside, weights)?),
            other => other.clone(),
        };
        before = match &layer {
            Layer::Conv(_) => Some((node, false)),
            Layer::Pool(_) if is_maximum(&layer) => before.map(|(conv, _)| (conv, true)),
            _ => None,
        };
        layers.push(layer);
    }
    Ok(layers)
}

fn fold_one(norm: &Node, conv: Option<&mut Weights>, pooled: bool) -> Option<()> {
    let (weights, bias) = conv?;
    let values = |pair: &Option<(Var, Var)>| {
        let (a, b) = pair.as_ref()?;
        Some((a.to_vec1::<f32>().ok()?, b.to_vec1::<f32>().ok()?))
    };
    let ((scale, shift), (mean, variance)) =
        (values(&norm.variables.parameters)?, values(&norm.variables.statistics)?);
    let factors: Vec<f32> = scale
        .iter()
        .zip(&variance)
        .map(|(&scale, &variance)| (f64::from(scale) / (f64::from(variance) + EPSILON).sqrt()) as f32)
        .collect();
    if pooled && factors.iter().any(|&factor| factor < 0.0) {
        return None;
    }
    let len = weights.len() / bias.len();
    for (channel, &factor) in factors.iter().enumerate() {
        weights[channel * len..][..len].iter_mut().for_each(|weight| *weight *= factor);
        bias[channel] = (bias[channel] - mean[channel]) * factor + shift[channel];
    }
    Some(())
}

fn is_norm(node: &Node) -> bool {
    matches!(node.layer, Layer::BatchNorm(_))
}

fn is_maximum(layer: &Layer) -> bool {
    matches!(layer, Layer::Pool(Pool { kind, .. }) if *kind != Pooling::Average)
}

/// Whether it multiplies by weights, or has layers inside that do.
fn has_products(layer: &Layer) -> bool {
    matches!(layer, Layer::Conv(_) | Layer::Linear(_) | Layer::Residual(_) | Layer::Branch(_))
}

/// The list with a rounding behind every layer whose values are new, as far as a layer with products follows (`to_the_end`: in
/// any case). A rectifier that follows comes before the rounding, also past poolings and the beginnings of branches, so that
/// no number is spent on negative values; where it stood it is left out. `rectified`: no value of the input is negative.
fn with_roundings(layers: &[Layer], mut rectified: bool, to_the_end: bool) -> Vec<Layer> {
    let mut out: Vec<Layer> = Vec::new();
    let mut on_grid = true;
    for (i, layer) in layers.iter().enumerate() {
        let (rest, input_rectified) = (&layers[i + 1..], rectified);
        match layer {
            Layer::Relu if rectified => continue,
            Layer::Relu => rectified = true,
            Layer::Dropout(_) => {}
            Layer::Branch(branch) => {
                out.push(Layer::Branch(with_roundings(branch, rectified, false)));
                // What follows stands in another graph, or another file.
                if on_grid {
                    out.push(quantize(0.0, 0.0));
                }
                continue;
            }
            pool if is_maximum(pool) => {}
            _ => (on_grid, rectified) = (false, false),
        }
        out.push(match layer {
            Layer::Residual(block) => {
                rectified = true;
                let within = |layers: &[Layer]| with_roundings(layers, input_rectified, true);
                block.of(within(block.inner()), within(block.beside()))
            }
            other => other.clone(),
        });
        if !on_grid && (to_the_end || rest.iter().any(has_products)) {
            if !rectified && rectifier_follows(rest) {
                out.push(relu());
                rectified = true;
            }
            out.push(quantize(0.0, 0.0));
            on_grid = true;
        }
    }
    out
}

/// Whether all that reads a value rectifies it first, or the largest of several.
fn rectifier_follows(layers: &[Layer]) -> bool {
    match layers.first() {
        Some(Layer::Relu) => true,
        Some(Layer::Branch(branch)) => rectifier_follows(branch) && rectifier_follows(&layers[1..]),
        Some(layer) if is_maximum(layer) || matches!(layer, Layer::Dropout(_)) => {
            rectifier_follows(&layers[1..])
        }
        _ => false,
    }
}

/// Weights of so many outputs, rounded to whole numbers of `bits` bits of a scale for each output.
fn rounded(mut weights: Vec<f32>, outputs: usize, bits: u32) -> Vec<f32> {
    let len = weights.len() / outputs;
    for weights in weights.chunks_mut(len) {
        let scale = weight_scale(weights, bits);
        weights.iter_mut().for_each(|weight| *weight = (*weight / scale).round_ties_even() * scale);
    }
    weights
}

/// Gives the roundings among these layers, the first of which gets `x`, the range of what they see; returns what the last
/// one gives.
fn calibrate(nodes: &mut [Node], x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for node in nodes {
        if let Layer::Quantize(_) = node.layer {
            let flat = x.flatten_all()?;
            node.layer = quantize(flat.min(0)?.to_scalar()?, flat.max(0)?.to_scalar()?);
        }
        calibrate(&mut node.inner, &x)?;
        calibrate(&mut node.beside, &x)?;
        x = run(std::slice::from_ref(node), &x, &mut Pass::Evaluate)?;
    }
    Ok(x)
}

/// The layers of these nodes.
fn listed(nodes: &[Node]) -> Vec<Layer> {
    let layer = |node: &Node| match &node.layer {
        Layer::Residual(block) => block.of(listed(&node.inner), listed(&node.beside)),
        other => other.clone(),
    };
    nodes.iter().map(layer).collect()
}
