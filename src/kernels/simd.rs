//! The processor's vector registers, and the inner product of fully connected layers.
//!
//! The instruction set (AVX-512, AVX2, NEON, none) is chosen when the program runs, by `pulp`.
//! Each output is accumulated in the same order whatever block it falls into, so that a result
//! does not depend on how many samples were computed beside it.

use crate::normal::Normal;
use pulp::{Arch, Simd, WithSimd};
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

/// The most elements that one vector register holds (16 × f32). Images carry this many elements of slack at
/// their end, so that no loop needs a masked tail.
pub const SLACK: usize = 16;

/// Values that begin where a line of the cache does: to load a register that lies in two lines takes two reads.
#[derive(Debug, Clone)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
#[expect(dead_code, reason = "read through Aligned")]
struct Line([f32; SLACK]);

impl Aligned {
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0.0; SLACK]); len.div_ceil(SLACK)], len }
    }

    /// Values of which each is going to be written before it is read.
    #[allow(clippy::uninit_vec)]
    pub fn unset(len: usize) -> Self {
        let mut lines = Vec::with_capacity(len.div_ceil(SLACK));
        // Safety: any bits are floats.
        unsafe { lines.set_len(lines.capacity()) };
        Self { lines, len }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // Safety: any bits are bytes, and any bits are floats.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 4 * self.len) }
    }
}

impl Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // Safety: the lines have at least as many values, one after another.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // Safety: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The same memory by bytes.
pub fn bytes(values: &[f32]) -> &[u8] {
    // Safety: any bits are bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// f32 and f64, with their vector types. f64 is there so that gradients can be checked finely.
pub trait Real:
    candle_core::WithDType + Normal + std::ops::AddAssign + std::ops::MulAssign + 'static
{
    /// A vector register of this element type.
    type Vector<S: Simd>: Copy;
    /// Elements per register.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }
    /// A register with `x` in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// `a * b + c`, lane by lane, rounded once.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// The square root.
    fn root(self) -> Self;
    /// The elements of a slice shorter than a register, zeros behind them.
    fn partial_load<S: Simd>(simd: S, from: &[Self]) -> Self::Vector<S>;
    /// The sum of all lanes.
    fn sum<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;
}

macro_rules! real {
    ($t:ty, $vector:ident, $splat:ident, $mul_add:ident, $load:ident, $sum:ident) => {
        impl Real for $t {
            type Vector<S: Simd> = S::$vector;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn root(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn partial_load<S: Simd>(simd: S, from: &[Self]) -> S::$vector {
                simd.$load(from)
            }
            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: S::$vector) -> Self {
                simd.$sum(a)
            }
        }
    };
}
real!(f32, f32s, splat_f32s, mul_add_f32s, partial_load_f32s, reduce_sum_f32s);
real!(f64, f64s, splat_f64s, mul_add_f64s, partial_load_f64s, reduce_sum_f64s);

/// The instruction set that kernels use: what `BRANCHYNET_SIMD` names, or this machine's best. Fails where the
/// machine lacks it.
pub fn instructions() -> Result<Arch, String> {
    let Ok(name) = std::env::var("BRANCHYNET_SIMD") else { return Ok(Arch::new()) };
    let found = match name.as_str() {
        "" => Some(Arch::new()),
        "scalar" => Some(Arch::Scalar),
        #[cfg(target_arch = "x86_64")]
        "avx2" => pulp::x86::V3::try_new().map(Arch::V3),
        #[cfg(target_arch = "x86_64")]
        "avx512" => pulp::x86::V4::try_new().map(Arch::V4),
        _ => {
            return Err(format!(
                "BRANCHYNET_SIMD={name}: expected avx512, avx2 or scalar, or nothing for the best there is"
            ));
        }
    };
    found.ok_or_else(|| format!("BRANCHYNET_SIMD={name}: this processor does not have these instructions"))
}

/// [`instructions`], or this machine's best where that fails.
pub fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(|| instructions().unwrap_or_default())
}

/// What the instructions that kernels use are called.
pub fn instruction_set() -> &'static str {
    match arch() {
        Arch::Scalar => "no vector instructions",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        #[cfg(target_arch = "aarch64")]
        Arch::Neon(_) => "NEON",
        _ => "other instructions",
    }
}

/// Runs `work` with these instructions.
pub fn dispatch<W: WithSimd>(work: W) -> W::Output {
    arch().dispatch(work)
}

/// Runs `work` compiled for these instructions: what it does to element after element becomes vectors of them. Give
/// it `#[inline(always)]`. `pulp` takes a closure as well, but calls it through a shim that is not inlined, and so
/// compiled for any processor.
pub fn vectorized<R>(work: impl FnMut() -> R) -> R {
    struct Run<F>(F);
    impl<R, F: FnMut() -> R> WithSimd for Run<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }
    dispatch(Run(work))
}

struct Sizes;
impl WithSimd for Sizes {
    type Output = (usize, usize);
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        (S::F32_LANES, S::REGISTER_COUNT)
    }
}

/// Elements (f32) that a vector register of this machine holds.
pub fn lanes() -> usize {
    dispatch(Sizes).0
}

/// The number of vector registers of this machine.
pub fn registers() -> usize {
    dispatch(Sizes).1
}

/// A value, or what it is at least. NaN stays NaN, which `f32::max` drops.
#[inline(always)]
pub fn at_least(floor: f32, value: f32) -> f32 {
    if value < floor { floor } else { value }
}

/// [`at_least`], lane by lane. The maximum of x86's vectors is the second value where one is NaN; without vectors that
/// of pulp is `f32::max` (findings/pulp-max-nan.sh).
#[inline(always)]
pub fn at_least_f32s<S: Simd>(simd: S, floor: S::f32s, values: S::f32s) -> S::f32s {
    if S::F32_LANES == 1 {
        simd.select_f32s(simd.less_than_f32s(values, floor), floor, values)
    } else {
        simd.max_f32s(floor, values)
    }
}

/// The larger value of each lane, and NaN where one of them is.
#[inline(always)]
pub fn larger_f32s<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
    simd.select_f32s(simd.equal_f32s(a, a), at_least_f32s(simd, a, b), a)
}

/// Asks for what lies at this address, wherever that is, to be in the first-level cache when it is read.
#[inline(always)]
pub fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // Safety: a prefetch of an address that cannot be read does nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// `n` split into the fewest, most even parts of at most `max`.
#[inline(always)]
pub fn parts(n: usize, max: usize) -> impl Iterator<Item = std::ops::Range<usize>> + Clone {
    let count = n.div_ceil(max);
    (0..count).map(move |i| i * n / count..(i + 1) * n / count)
}

/// `out[m][k] = Σ_p a[m][p] · b[k][p]` for the rows of both matrices, which have `columns` elements.
pub fn dots<T: Real>(a: &[T], b: &[T], columns: usize, out: &mut [T]) {
    struct Run<'a, T> {
        a: &'a [T],
        b: &'a [T],
        columns: usize,
        out: &'a mut [T],
    }
    impl<T: Real> WithSimd for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self { a, b, columns, out } = self;
            let count = b.len() / columns;
            let (tall, wide) = if S::REGISTER_COUNT >= 32 { (4, 6) } else { (2, 5) };
            // Rows outside: a few rows of `a` stay in the first-level cache while all of `b` passes by.
            for rows in parts(a.len() / columns, tall) {
                for ks in parts(count, wide) {
                    let out = &mut out[rows.start * count + ks.start..];
                    let a = &a[rows.start * columns..rows.end * columns];
                    let b = &b[ks.start * columns..ks.end * columns];
                    macro_rules! tile {
                        ($($k:literal)*) => { match (rows.len(), ks.len()) {
                            // Safety: the slices have as many rows.
                            $((1, $k) => unsafe { tile::<T, S, 1, $k>(simd, a, b, columns, out, count) },
                              (2, $k) => unsafe { tile::<T, S, 2, $k>(simd, a, b, columns, out, count) },
                              (3, $k) => unsafe { tile::<T, S, 3, $k>(simd, a, b, columns, out, count) },
                              (4, $k) => unsafe { tile::<T, S, 4, $k>(simd, a, b, columns, out, count) },)*
                            _ => unreachable!("blocks have at most 4 rows and 6 columns"),
                        }};
                    }
                    tile!(1 2 3 4 5 6);
                }
            }
        }
    }
    // Iterators over these arrays compile to calls, plain indices to registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<T: Real, S: Simd, const M: usize, const K: usize>(
        simd: S,
        a: &[T],
        b: &[T],
        columns: usize,
        out: &mut [T],
        count: usize,
    ) {
        unsafe {
            let (a, b) = (a.as_ptr(), b.as_ptr());
            let zero = T::splat(simd, T::zero());
            let lanes = T::lanes::<S>();
            let mut sums = [[zero; K]; M];
            // Written out rather than shared with the tail below: the accumulators stay in registers only while
            // nothing in the loop takes an address of its operands.
            let mut p = 0;
            while p + lanes <= columns {
                let mut right = [zero; K];
                for k in 0..K {
                    right[k] = b.add(k * columns + p).cast::<T::Vector<S>>().read_unaligned();
                }
                for m in 0..M {
                    let left = a.add(m * columns + p).cast::<T::Vector<S>>().read_unaligned();
                    for k in 0..K {
                        sums[m][k] = T::mul_add(simd, left, right[k], sums[m][k]);
                    }
                }
                p += lanes;
            }
            if p < columns {
                let tail = columns - p;
                for k in 0..K {
                    let right = partial(simd, b.add(k * columns + p), tail);
                    for m in 0..M {
                        let left = partial(simd, a.add(m * columns + p), tail);
                        sums[m][k] = T::mul_add(simd, left, right, sums[m][k]);
                    }
                }
            }
            for (m, row) in sums.iter().enumerate() {
                for (k, &sum) in row.iter().enumerate() {
                    out[m * count + k] = T::sum(simd, sum);
                }
            }
        }
    }
    /// A register with `count` elements from `from` and zeros behind them.
    #[inline(always)]
    unsafe fn partial<T: Real, S: Simd>(simd: S, from: *const T, count: usize) -> T::Vector<S> {
        T::partial_load(simd, unsafe { std::slice::from_raw_parts(from, count) })
    }
    assert!(a.len().is_multiple_of(columns) && b.len().is_multiple_of(columns));
    assert_eq!(out.len(), a.len() / columns * (b.len() / columns));
    arch().dispatch(Run { a, b, columns, out })
}
