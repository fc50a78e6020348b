//! A step of an optimiser on all parameters in one launch: they are many and small, and a launch for each takes longer
//! than its arithmetic.

use super::{Number, SLICES, start_kernel, storage};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};

/// A parameter of f32 on the GPU: its gradient, the optimiser's running means, how much faster than others it moves, and
/// the share of the parameter that adds to the gradient.
#[derive(Debug)]
pub struct Parameter<'a> {
    pub weight: &'a Tensor,
    pub grad: &'a Tensor,
    pub means: &'a Tensor,
    pub rate: f64,
    pub decay: f64,
}

/// Where the parameters and their gradients are, and how far to step; both on the GPU.
#[derive(Debug)]
pub struct Optimizer {
    device: CudaDevice,
    /// The fields of `Parameter` in kernels.cu, parameter by parameter, and what the GPU holds of them now.
    table: CudaSlice<u64>,
    sent: Vec<u64>,
    /// What the table has to hold for the recorded launch.
    recorded: Vec<u64>,
    /// Rate and epsilon.
    step: CudaSlice<f64>,
}

impl Optimizer {
    /// For up to `parameters` parameters.
    pub fn new(device: &Device, parameters: usize) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let (table, step) = (device.alloc_zeros(6 * parameters)?, device.alloc_zeros(2)?);
        Ok(Self { device, table, sent: Vec::new(), recorded: Vec::new(), step })
    }

    /// How far the next step goes, and what Adam adds to the root of a squared gradient.
    pub fn set_step(&mut self, rate: f64, epsilon: f64) -> Result<()> {
        self.device.cuda_stream().memcpy_htod(&[rate, epsilon], &mut self.step).w()
    }

    /// Moves all parameters. While a [`super::replay::Recording`] is made, nothing can be sent to the GPU:
    /// [`Self::before_replay`] does it.
    pub fn launch(
        &mut self,
        kernel: &'static str,
        parameters: &[Parameter<'_>],
        numbers: [Number; 2],
    ) -> Result<()> {
        let stream = self.device.cuda_stream();
        let mut table = Vec::with_capacity(self.table.len());
        for p in parameters {
            for tensor in [p.weight, p.grad, p.means] {
                let (storage, layout) = tensor.storage_and_layout();
                let Some((start, _)) = layout.contiguous_offsets() else {
                    bail!("internal error: {kernel} got a tensor that is not contiguous")
                };
                let slice = self::storage(&storage)?.as_cuda_slice::<f32>()?;
                let (pointer, _guard) = slice.device_ptr(&stream);
                table.push(pointer + (start * size_of::<f32>()) as u64);
            }
            table.extend([p.weight.elem_count() as u64, p.rate.to_bits(), p.decay.to_bits()]);
        }
        match super::replay::is_recording(&stream)? {
            true => self.recorded = table,
            false => self.send(table)?,
        }
        let (table, _of_table) = self.table.device_ptr(&stream);
        let (step, _of_step) = self.step.device_ptr(&stream);
        // Safety: the tensors live until the one stream reaches what comes after this launch.
        let grid = (SLICES, parameters.len());
        unsafe { start_kernel(&self.device, kernel, DType::F32, &[table, step], grid, &numbers) }
    }

    /// Makes the recorded launch find its parameters and gradients, whatever was launched since.
    pub fn before_replay(&mut self) -> Result<()> {
        match self.sent == self.recorded {
            true => Ok(()),
            false => self.send(self.recorded.clone()),
        }
    }

    fn send(&mut self, table: Vec<u64>) -> Result<()> {
        self.device.cuda_stream().memcpy_htod(&table, &mut self.table).w()?;
        self.sent = table;
        Ok(())
    }
}
