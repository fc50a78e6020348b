//! What the products of convolutions and linear layers are computed in on an NVIDIA GPU.

use candle_core::{Device, Error, Result, bail};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How factors are rounded before they are multiplied; sums, and all else, stay in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not at all: 24 bits.
    #[default]
    F32,
    /// To 11 bits, on tensor cores.
    Tf32,
    /// To 8 bits, on tensor cores.
    Bf16,
}

static CURRENT: AtomicU8 = AtomicU8::new(Precision::F32 as u8);

/// Products have their former precision again when this is dropped.
#[derive(Debug)]
#[must_use = "the precision holds while this lives"]
pub struct PrecisionScope(Precision);

impl Precision {
    /// Computes all products of f32 on GPUs in this precision, in the whole process (candle knows but
    /// one), as long as what is returned lives.
    pub fn scope(self) -> PrecisionScope {
        let before = Self::current();
        self.set();
        PrecisionScope(before)
    }

    fn set(self) {
        CURRENT.store(self as u8, Ordering::Relaxed);
        candle_core::cuda::set_gemm_reduced_precision_f32(self == Self::Tf32);
    }

    /// Fails where `device` cannot compute so: the CPU knows f32 only.
    pub fn check(self, device: &Device) -> Result<()> {
        if self != Self::F32 && !device.is_cuda() {
            bail!("products in {self} need an NVIDIA GPU; use f32 on the CPU")
        }
        Ok(())
    }

    /// What products are computed in now.
    pub fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Self::Tf32,
            2 => Self::Bf16,
            _ => Self::F32,
        }
    }
}

impl Drop for PrecisionScope {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "f32" => Self::F32,
            "tf32" => Self::Tf32,
            "bf16" => Self::Bf16,
            _ => bail!("there is no precision {name:?}: use f32, tf32 or bf16"),
        })
    }
}
