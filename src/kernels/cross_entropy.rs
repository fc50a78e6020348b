//! The loss of an exit and its gradient in one pass, with no more to read back than two numbers per
//! sample. candle composes it of a dozen operations in each direction.

use super::{Input, Number, Op, Operation, Thread, contiguous, dispatch};
use crate::simd::Real;
use candle_core::{CpuStorage, Result, Shape, Tensor, WithDType, bail};

/// What [`cross_entropy`] says of a batch.
#[derive(Debug, Clone)]
pub struct Losses {
    /// The gradient of the scaled sum of all losses by the logits: (batch, classes).
    pub gradient: Tensor,
    /// (2, batch): every sample's loss in nats, and 1 where the first largest logit is the label's,
    /// else 0.
    scores: Tensor,
}

impl Losses {
    /// Every sample's loss in nats: (batch).
    pub fn each(&self) -> Result<Tensor> {
        self.scores.get(0)
    }

    /// Writes the losses over those of another batch of the same size.
    pub fn copy_to(&self, other: &Self) -> Result<()> {
        other.scores.slice_set(&self.scores, 0, 0)
    }

    /// The sum of all losses, and how many answers are right. Waits for the device.
    pub fn sums(&self) -> Result<(f64, usize)> {
        let scores = self.scores.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
        let right = scores[1].iter().filter(|&&right| right == 1.0).count();
        Ok((scores[0].iter().sum(), right))
    }
}

/// The cross-entropy of the softmax of `logits` (batch, classes) with `labels` (batch; u32), and its
/// gradient times `scale`: the exit's weight over the batch size, for the paper's equation 1. `smoothing` is
/// the share of the target that all classes have alike (Szegedy et al. 2016,
/// <https://arxiv.org/abs/1512.00567>); 0 for none. f32 and f64. Fails when the sizes do not fit, and on a
/// label that is none of the classes; a GPU gives a loss that is not a number there.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, scale: f64, smoothing: f64) -> Result<Losses> {
    let (batch, classes) = logits.dims2()?;
    if labels.dims() != [batch] {
        bail!("cross_entropy: {batch} samples need as many labels, got {:?}", labels.shape())
    }
    let op = Op(CrossEntropy { scale, smoothing });
    let flat = logits.contiguous()?.apply_op2_no_bwd(&labels.contiguous()?, &op)?;
    let gradient = flat.narrow(0, 0, batch * classes)?.reshape((batch, classes))?;
    let scores = flat.narrow(0, batch * classes, 2 * batch)?.reshape((2, batch))?;
    Ok(Losses { gradient, scores })
}

/// Gradients, then losses, then who is right, one behind the other.
struct CrossEntropy {
    scale: f64,
    smoothing: f64,
}

impl Operation<2> for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn shape(&self, [logits, _]: [&Shape; 2]) -> Result<Shape> {
        let (batch, classes) = logits.dims2()?;
        Ok(Shape::from(batch * (classes + 2)))
    }

    fn cpu_storage(&self, [logits, labels]: [Input<'_>; 2]) -> Result<CpuStorage> {
        fn forward<T: Real>(op: &CrossEntropy, logits: &[T], labels: &[u32]) -> Result<Vec<T>> {
            let (batch, classes) = (labels.len(), logits.len() / labels.len());
            let mut out = vec![T::zero(); batch * (classes + 2)];
            let (gradients, scores) = out.split_at_mut(batch * classes);
            for (sample, (z, &label)) in logits.chunks(classes).zip(labels).enumerate() {
                let (label, mut best) = (label as usize, 0);
                if label >= classes {
                    bail!("cross_entropy: the label {label} is none of {classes} classes")
                }
                for (class, &logit) in z.iter().enumerate() {
                    best = if logit > z[best] { class } else { best };
                }
                let distance = |class: usize| z[class].to_f64() - z[best].to_f64();
                let sum: f64 = (0..classes).map(|class| distance(class).exp()).sum();
                let share = op.smoothing / classes as f64;
                let target = |class| share + if class == label { 1.0 - op.smoothing } else { 0.0 };
                let mean: f64 = (0..classes).map(|class| target(class) * distance(class)).sum();
                scores[sample] = T::from_f64(sum.ln() - mean);
                scores[batch + sample] = T::from_f64(f64::from(u8::from(best == label)));
                for (class, gradient) in gradients[sample * classes..][..classes].iter_mut().enumerate() {
                    *gradient = T::from_f64((distance(class).exp() / sum - target(class)) * op.scale);
                }
            }
            Ok(out)
        }
        let labels = contiguous(labels)?;
        Ok(dispatch!(self, logits.0, T => {
            T::to_cpu_storage_owned(forward::<T>(self, contiguous(logits)?, labels)?)
        }))
    }

    fn kernel(&self, shape: &Shape) -> Result<(Thread, Vec<Number>)> {
        let (_, classes) = shape.dims2()?;
        Ok((Thread::Row, vec![classes.into(), self.scale.into(), self.smoothing.into()]))
    }
}
