//! Work on a GPU that is recorded once, as a CUDA graph, and replayed
//! (<https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-graphs>): a training step of a deep network is thousands of
//! short launches, and asking for each takes longer than it runs.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream, sys};
use candle_core::{Device, Result, bail};
use std::sync::Arc;

/// Work that can be replayed.
pub struct Recording(CudaGraph);

// Safety: a graph may be used by any thread, though not by two at a time: `replay` takes it for itself.
unsafe impl Send for Recording {}

impl Recording {
    /// Records what `work` asks of the GPU, which does nothing of it yet. All tensors that `work` makes have to be gone
    /// when it returns, and those that it is to change or to read have to stay. Fails where it sends anything to the GPU
    /// that [`rehearse`] did not see, or waits for it; then nothing was done either.
    pub fn of(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let done = rehearse(device, work);
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // What failed while tensors were dropped was of the recording that is given up.
        let dropped = stream.context().check_err();
        done?;
        match graph.w()? {
            Some(graph) if dropped.is_ok() => Ok(Self(graph)),
            _ => bail!("nothing was recorded"),
        }
    }

    /// Has the GPU do it all again, behind what it was asked before.
    pub fn replay(&mut self) -> Result<()> {
        self.0.launch().w()
    }
}

/// Does `work` and keeps on the GPU what little it sends there, such as sizes, for a recording of the same work.
pub fn rehearse<T>(device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let _kept = device.as_cuda_device()?.enable_cuda_graph_htod_cache();
    work()
}

/// Whether what is asked of the stream is recorded instead of done.
pub(super) fn is_recording(stream: &Arc<CudaStream>) -> Result<bool> {
    Ok(stream.capture_status().w()? != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}
