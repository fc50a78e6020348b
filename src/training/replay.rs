//! Training steps on a GPU, replayed: a step of a deep network is thousands of short launches, and asking for each takes
//! longer than it runs. The first step is done as on the CPU, the second is recorded, and that and all others replay the
//! recording. A step that draws random numbers (dropout), or waits for the GPU in between, cannot be recorded.

use super::optimizer::OptimizerState;
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

/// What `learn` does on these images and labels, which have the same shapes each time.
pub(super) fn step(
    state: &mut OptimizerState,
    images: &Tensor,
    labels: &Tensor,
    rng: &mut Rng,
    learn: impl Fn(&mut OptimizerState, &mut Rng) -> Result<Vec<Losses>>,
) -> Result<Vec<Losses>> {
    let device = images.device();
    state.replay = match std::mem::take(&mut state.replay) {
        Replay::Untried => {
            let before = rng.clone();
            let losses = rehearse(device, || Ok(learn(state, rng)))??;
            state.replay = if *rng == before { Replay::Rehearsed(losses.clone()) } else { Replay::Never };
            return Ok(losses);
        }
        Replay::Rehearsed(losses) => {
            let recording = Recording::of(device, || {
                let new = learn(state, rng).map_err(Error::wrap)?;
                new.iter().zip(&losses).try_for_each(|(new, kept)| new.copy_to(kept))
            });
            match recording {
                Ok(recording) => {
                    Replay::Recorded { recording, images: images.clone(), labels: labels.clone(), losses }
                }
                Err(_) => Replay::Never,
            }
        }
        other => other,
    };
    let OptimizerState {
        replay: Replay::Recorded { recording, images: read, labels: right, losses },
        gpu: Some(gpu),
        ..
    } = state
    else {
        return learn(state, rng);
    };
    if read.id() != images.id() {
        read.slice_set(images, 0, 0)?;
        right.slice_set(labels, 0, 0)?;
    }
    gpu.before_replay()?;
    recording.replay()?;
    Ok(losses.clone())
}
