//! Training steps on a GPU, replayed: a step of a deep network is thousands of short launches, and asking for each takes
//! longer than it runs. The first step is done as on the CPU, the second is recorded, and that and all others replay the
//! recording. A step that draws random numbers (dropout), or waits for the GPU in between, cannot be recorded.

use crate::kernels::Losses;
use crate::kernels::cuda::replay::{Recording, rehearse};
use crate::{Result, Rng};
use candle_core::{Error, Tensor};

/// How far the recording is.
#[derive(Default)]
pub(super) enum Replay {
    #[default]
    Untried,
    /// With the losses of the step that was done, into which those of later steps are written.
    Rehearsed(Vec<Losses>),
    /// With the tensors that it reads and writes.
    Recorded { recording: Recording, images: Tensor, labels: Tensor, losses: Vec<Losses> },
    /// This step cannot be recorded.
    Never,
}

impl Replay {
    /// What `learn` does to `state` on these images and labels, which have the same shapes each time. Before it is replayed,
    /// `prepare` is called.
    pub(super) fn step<S>(
        &mut self,
        state: &mut S,
        images: &Tensor,
        labels: &Tensor,
        rng: &mut Rng,
        learn: impl Fn(&mut S, &mut Rng) -> Result<Vec<Losses>>,
        prepare: impl FnOnce(&mut S) -> candle_core::Result<()>,
    ) -> Result<Vec<Losses>> {
        let device = images.device();
        *self = match std::mem::take(self) {
            Self::Untried => {
                let before = rng.clone();
                let losses = rehearse(device, || Ok(learn(state, rng)))??;
                *self = if *rng == before { Self::Rehearsed(losses.clone()) } else { Self::Never };
                return Ok(losses);
            }
            Self::Rehearsed(losses) => {
                let recording = Recording::of(device, || {
                    let new = learn(state, rng).map_err(Error::wrap)?;
                    new.iter().zip(&losses).try_for_each(|(new, kept)| new.copy_to(kept))
                });
                match recording {
                    Ok(recording) => {
                        Self::Recorded { recording, images: images.clone(), labels: labels.clone(), losses }
                    }
                    Err(_) => Self::Never,
                }
            }
            other => other,
        };
        let Self::Recorded { recording, images: read, labels: right, losses } = self else {
            return learn(state, rng);
        };
        if read.id() != images.id() {
            read.slice_set(images, 0, 0)?;
            right.slice_set(labels, 0, 0)?;
        }
        prepare(state)?;
        recording.replay()?;
        Ok(losses.clone())
    }
}
