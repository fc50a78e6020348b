//! The process and its devices.

use crate::{Result, bail};

/// The device called `cpu` or `cuda`. Fails, saying why, where there is no such device or this was
/// built without support for it, and where `BRANCHYNET_SIMD` names instructions that the CPU lacks.
pub fn device(name: &str) -> Result<candle_core::Device> {
    if let Err(why) = crate::kernels::instructions() {
        bail!(Setting, "{why}")
    }
    match name {
        "cpu" => Ok(candle_core::Device::Cpu),
        #[cfg(not(feature = "cuda"))]
        "cuda" => bail!(Device, "this was built for the CPU only; build with `--features cuda`, or use cpu"),
        #[cfg(feature = "cuda")]
        "cuda" => crate::kernels::cuda::device().map_err(|error| {
            let cause = crate::Error::from(error);
            crate::error!(Device, "no CUDA device answers ({cause}); use cpu").because(cause)
        }),
        _ => bail!(Device, "there is no device {name:?}: use cpu or cuda"),
    }
}

/// What a device is called in tables: `CPU`, or what the GPU's driver calls it.
pub fn device_name(device: &candle_core::Device) -> String {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        let name = device.cuda_stream().context().name();
        return name.unwrap_or_else(|_| "NVIDIA GPU".to_string());
    }
    debug_assert!(device.is_cpu());
    "CPU".to_string()
}

/// Sets up the process for speed; results do not depend on it. Programs call it once, first of all, as it sets environment
/// variables (those that are not set yet). Training and evaluation profit.
pub fn prepare_process() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        // candle reads the number of processors from the system anew for every matrix product,
        // unless told, and keeps a pool of its own whose threads spin for work and so take
        // the cores from rayon's.
        for (name, value) in [("RAYON_NUM_THREADS", threads.as_str()), ("CANDLE_NUM_THREADS", "1")] {
            if std::env::var_os(name).is_none() {
                // Safety: nothing here reads the environment from another thread without std's
                // lock.
                unsafe { std::env::set_var(name, value) };
            }
        }
        // Training frees and allocates the same large tensors at every step. By default glibc
        // returns them to the system each time, and fetching the pages again costs as much
        // as a small convolution. And it keeps what a thread frees for that thread's own use: a
        // step runs on one thread or another, and each would keep the memory of a step.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // Safety: mallopt only sets numbers of the allocator: no memory of an allocation's own, and
        // nothing returned.
        unsafe {
            libc::mallopt(libc::M_MMAP_MAX, 0);
            libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    });
}
