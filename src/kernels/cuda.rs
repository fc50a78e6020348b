//! The operations on an NVIDIA GPU: how their kernels (`src/kernels/cuda/kernels.cu`) are compiled and
//! launched. Only with the feature `cuda`.
//!
//! A kernel takes its inputs, then its output, then numbers, the first of which is the number of
//! results (or of values that a channel sums up).

#[cfg_attr(not(feature = "cudnn"), path = "cuda/columns.rs")]
#[cfg_attr(feature = "cudnn", path = "cuda/cudnn.rs")]
pub mod conv;
pub mod optimizer;
pub mod replay;

pub use crate::launch::Number;

use crate::launch::Thread;
use crate::precision::Precision;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Layout, Result, Storage, bail};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// The first GPU, with one stream for all threads: candle's default is a stream for each, which do not
/// wait for one another.
pub fn device() -> Result<Device> {
    // One device for the whole process: tensors of two do not mix, even if both are the same GPU.
    static DEVICE: Mutex<Option<Device>> = Mutex::new(None);
    let mut kept = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = &*kept {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(0)?;
    let stream = device.as_cuda_device()?.cuda_stream();
    // Safety: events order several streams among each other, and there is one.
    unsafe { stream.context().disable_event_tracking() };
    keep_memory(stream.context());
    *kept = Some(device.clone());
    Ok(device)
}

/// Has the driver keep memory that was freed for what is allocated next. By default it hands all of it
/// back to the system whenever something waits for the GPU, which is after every step.
fn keep_memory(context: &CudaContext) {
    let mut most = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // Safety: the attribute is an unsigned number of 64 bits.
    let _ = unsafe {
        result::device::get_default_mem_pool(context.cu_device())
            .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut most).cast()))
    };
}

/// A tensor that a kernel reads; it must be contiguous.
pub type Input<'a> = (&'a CudaStorage, &'a Layout);

/// Threads of a block; the kernels' sums rely on it.
const THREADS: usize = 256;
/// Blocks that share the sums of one channel, as in kernels.cu.
const SLICES: usize = 32;

/// `len` results of type `dtype`, which is also the kernel's own.
pub fn map(
    kernel: &'static str,
    dtype: DType,
    inputs: &[Input<'_>],
    len: usize,
    thread: Thread,
    numbers: &[Number],
) -> Result<CudaStorage> {
    let Some((first, layout)) = inputs.first() else { bail!("internal error: {kernel} got no input") };
    let mut out = unset(first.device(), dtype, len)?;
    let grid = match thread {
        Thread::Result => (len.div_ceil(THREADS), len),
        Thread::Results => (len.div_ceil(8 * THREADS), len),
        Thread::Row => (layout.dims()[0].div_ceil(THREADS), layout.dims()[0]),
        Thread::Channel => {
            let (batch, channels, height, width) = layout.shape().dims4()?;
            let (device, blocks, area) = (first.device(), channels * SLICES, height * width);
            let (partial, tickets) = (unset(device, DType::F64, 2 * blocks)?, tickets(device, channels)?);
            let layouts = (Layout::contiguous(2 * blocks), Layout::contiguous(channels));
            let inputs = [inputs, &[(&partial, &layouts.0), (&*tickets, &layouts.1)]].concat();
            let numbers = [&[channels.into(), area.into()], numbers].concat();
            launch(kernel, dtype, &inputs, &mut out, 0, (blocks, batch * area), &numbers)?;
            return Ok(out);
        }
    };
    launch(kernel, dtype, inputs, &mut out, 0, grid, numbers)?;
    Ok(out)
}

/// One thread for each of `len` elements of `out` from element `start` on.
pub fn update(
    kernel: &'static str,
    dtype: DType,
    inputs: &[Input<'_>],
    out: &mut CudaStorage,
    start: usize,
    len: usize,
    numbers: &[Number],
) -> Result<()> {
    launch(kernel, dtype, inputs, out, start, (len.div_ceil(THREADS), len), numbers)
}

/// `products` (batch, channels, area), of so many elements, and the bias of each channel.
pub fn add_bias(products: &CudaStorage, bias: Input<'_>, len: usize, area: usize) -> Result<CudaStorage> {
    let (layout, channels) = (Layout::contiguous(len), bias.1.shape().elem_count());
    let numbers = [channels.into(), area.into()];
    map("add_bias", products.dtype(), &[(products, &layout), bias], len, Thread::Results, &numbers)
}

/// A zero for each channel, by which the blocks of a sum know which of them is the last. They are zero again when the
/// kernel is done, and there is one stream: all sums share them.
fn tickets(device: &CudaDevice, channels: usize) -> Result<Arc<CudaStorage>> {
    const MOST: usize = 1 << 16;
    static TICKETS: Mutex<Option<(DeviceId, Arc<CudaStorage>)>> = Mutex::new(None);
    if channels > MOST {
        bail!("sums over {channels} channels on a GPU: at most {MOST} are possible")
    }
    let mut kept = TICKETS.lock().unwrap_or_else(PoisonError::into_inner);
    match &*kept {
        Some((id, tickets)) if *id == device.id() => Ok(tickets.clone()),
        _ => {
            let zeros = CudaStorage::wrap_cuda_slice(device.alloc_zeros::<u32>(MOST)?, device.clone());
            let tickets = Arc::new(zeros);
            *kept = Some((device.id(), tickets.clone()));
            Ok(tickets)
        }
    }
}

/// Storage of which every element is going to be written.
pub fn unset(device: &CudaDevice, dtype: DType, len: usize) -> Result<CudaStorage> {
    // Safety: the caller's kernel writes all of it before anything reads it.
    unsafe {
        Ok(match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(len)?, device.clone()),
            DType::F64 => CudaStorage::wrap_cuda_slice(device.alloc::<f64>(len)?, device.clone()),
            _ => bail!("on the GPU this works on f32 and f64 only, got {dtype:?}"),
        })
    }
}

/// Runs a kernel on (blocks, number of results).
pub fn launch(
    kernel: &'static str,
    dtype: DType,
    inputs: &[Input<'_>],
    out: &mut CudaStorage,
    start: usize,
    (blocks, len): (usize, usize),
    numbers: &[Number],
) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let largest = inputs.iter().map(|(_, layout)| layout.shape().elem_count()).max();
    if len.max(largest.unwrap_or(0)) > i32::MAX as usize {
        bail!("{kernel}: a tensor of more than 2^31 elements; use smaller batches")
    }
    let device = out.device().clone();
    let stream = device.cuda_stream();
    // The guards keep the tensors from being freed or overwritten before the kernel ran.
    let (mut pointers, mut guards) = (Vec::new(), Vec::new());
    for (storage, layout) in inputs {
        let Some((start, _)) = layout.contiguous_offsets() else {
            bail!("internal error: {kernel} got a tensor that is not contiguous")
        };
        let (pointer, guard) = match &storage.slice {
            CudaStorageSlice::U8(slice) => slice.device_ptr(&stream),
            CudaStorageSlice::U32(slice) => slice.device_ptr(&stream),
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream),
            CudaStorageSlice::F64(slice) => slice.device_ptr(&stream),
            _ => bail!("internal error: {kernel} got {:?}", storage.dtype()),
        };
        pointers.push(pointer + (start * storage.dtype().size_in_bytes()) as u64);
        guards.push(guard);
    }
    let offset = (start * out.dtype().size_in_bytes()) as u64;
    let (pointer, guard) = match &mut out.slice {
        CudaStorageSlice::F32(slice) => slice.device_ptr_mut(&stream),
        CudaStorageSlice::F64(slice) => slice.device_ptr_mut(&stream),
        _ => bail!("internal error: {kernel} writes f32 and f64 only"),
    };
    pointers.push(pointer + offset);
    guards.push(guard);
    let numbers = [&[len.into()], numbers].concat();
    // Safety: kernels.cu reads and writes inside what each operation says of its tensors; the tests
    // run every kernel.
    unsafe { start_kernel(&device, kernel, dtype, &pointers, (blocks, 1), &numbers) }
}

/// Starts a kernel that takes these addresses on the GPU and then these numbers, on a grid of this width and height.
///
/// # Safety
/// What the kernel reads and writes there has to be there until the stream reaches what comes after it.
unsafe fn start_kernel(
    device: &CudaDevice,
    kernel: &'static str,
    dtype: DType,
    pointers: &[u64],
    (width, height): (usize, usize),
    numbers: &[Number],
) -> Result<()> {
    let function = function(device, kernel, dtype)?;
    let stream = device.cuda_stream();
    let mut arguments = stream.launch_builder(&function);
    for pointer in pointers {
        arguments.arg(pointer);
    }
    for number in numbers {
        match number {
            Number::Int(int) => arguments.arg(int),
            Number::Real(real) => arguments.arg(real),
        };
    }
    let config = LaunchConfig {
        grid_dim: (width as u32, height as u32, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // Safety: the caller's.
    unsafe { arguments.launch(config) }.w()?;
    Ok(())
}

fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F64 => Ok("f64"),
        _ => bail!("on the GPU this works on f32 and f64 only, got {dtype:?}"),
    }
}

/// A kernel for numbers of this type. All are compiled for the device at the first use of one: half a
/// second.
fn function(device: &CudaDevice, kernel: &'static str, dtype: DType) -> Result<CudaFunction> {
    type Key = (DeviceId, DType);
    #[derive(Default)]
    struct Loaded {
        modules: HashMap<Key, Arc<CudaModule>>,
        functions: HashMap<(Key, &'static str), CudaFunction>,
    }
    static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);
    let key = (device.id(), dtype);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(function) = loaded.functions.get(&(key, kernel)) {
        return Ok(function.clone());
    }
    let module = match loaded.modules.get(&key) {
        Some(module) => module.clone(),
        None => {
            let stream = device.cuda_stream();
            let context = stream.context();
            let (major, minor) = context.compute_capability().w()?;
            let ptx = compile(&format!("compute_{major}{minor}"), dtype)?;
            let module = context.load_module(ptx.into()).w()?;
            loaded.modules.insert(key, module.clone());
            module
        }
    };
    let name = format!("branchynet_{kernel}_{}", suffix(dtype)?);
    let function = module.load_function(&name).w()?;
    loaded.functions.insert((key, kernel), function.clone());
    Ok(function)
}

/// The kernels as PTX for an architecture such as `compute_90`. Needs no GPU.
pub fn compile(architecture: &str, dtype: DType) -> Result<String> {
    let real = if dtype == DType::F64 { "double" } else { "float" };
    let options = CompileOptions {
        options: vec![
            format!("--gpu-architecture={architecture}"),
            format!("-DREAL={real}"),
            format!("-DTYPE={}", suffix(dtype)?),
        ],
        name: Some("kernels.cu".to_string()),
        ..CompileOptions::default()
    };
    match compile_ptx_with_opts(include_str!("cuda/kernels.cu"), options) {
        Ok(ptx) => Ok(ptx.to_src()),
        Err(error) => bail!("the CUDA kernels do not compile for {architecture}: {error:?}"),
    }
}

/// The storage of a tensor that an operation holds besides its arguments.
pub fn storage(storage: &Storage) -> Result<&CudaStorage> {
    match storage {
        Storage::Cuda(storage) => Ok(storage),
        _ => bail!("an operation got one tensor on the GPU and one elsewhere"),
    }
}

/// Products of matrices at the current [`Precision`]: (batch, m, k) times (batch, k, n). `sizes` are
/// (batch, m, n, k).
pub fn product(a: Input<'_>, b: Input<'_>, sizes: (usize, usize, usize, usize)) -> Result<CudaStorage> {
    if a.0.dtype() != DType::F32 || Precision::current() != Precision::Bf16 {
        return a.0.matmul(b.0, sizes, a.1, b.1);
    }
    // What the layout spans is rounded as it lies, whatever order and repetition the layout sees.
    let round = |(storage, layout): Input<'_>| -> Result<(CudaStorage, Layout)> {
        let steps = layout.dims().iter().zip(layout.stride());
        let span = 1 + steps.map(|(dim, stride)| (dim - 1) * stride).sum::<usize>();
        let whole = Layout::contiguous_with_offset(span, layout.start_offset());
        let rounded = storage.to_dtype(&whole, DType::BF16)?;
        let layout = Layout::new(layout.shape().clone(), layout.stride().to_vec(), 0);
        Ok((rounded, layout))
    };
    let ((a, a_layout), (b, b_layout)) = (round(a)?, round(b)?);
    let (batch, m, n, _) = sizes;
    let out = a.matmul(&b, sizes, &a_layout, &b_layout)?;
    out.to_dtype(&Layout::contiguous((batch, m, n)), DType::F32)
}
