//! BranchyNet on candle.
pub mod data;
pub mod early_exit;
mod error;
pub mod latency;
mod lenet;
pub mod network;
pub mod ops;
pub mod plan;
pub mod record;
mod simd;
pub mod train;

pub use candle_core;
pub use candle_nn;
pub use plotly;
pub use polars;

pub use error::{Error, Result};
pub use lenet::b_lenet;
pub use network::{Network, Pass};

/// The generator of every random number here: seeded, so that runs can be repeated.
pub type Rng = rand::rngs::StdRng;

/// Settings of the process that training and evaluation profit from; called by both.
fn settle() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .to_string();
        // candle reads the number of processors from the system anew for every matrix product, unless told, and keeps a
        // pool of its own whose threads spin for work and so take the cores from rayon's.
        for (name, value) in [
            ("RAYON_NUM_THREADS", threads.as_str()),
            ("CANDLE_NUM_THREADS", "1"),
        ] {
            if std::env::var_os(name).is_none() {
                // Safety: nothing here reads the environment from another thread without std's lock.
                unsafe { std::env::set_var(name, value) };
            }
        }
        // Training frees and allocates the same large tensors at every step. By default glibc returns them to the system
        // each time, and fetching the pages again costs as much as a small convolution.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // Safety: mallopt only sets numbers of the allocator. 32 MiB is the largest threshold it accepts.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        }
    });
}
