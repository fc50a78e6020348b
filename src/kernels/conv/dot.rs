//! Sums of four products of bytes with weights of a byte, by the instructions that a processor has for them.
//!
//! AVX-512 VNNI and AVX-VNNI have one. AVX2 adds pairs of products in 16 bits, which overflow unless the weights have at most
//! 7 bits, sign included; with more of them the bytes are taken in two parts.

use super::grid::Grid;

/// Instructions, and the sizes of tiles whose sums stay in registers.
///
/// # Safety
/// The processor has the instructions, and what addresses name exists.
pub trait Set {
    /// Outputs in a register.
    const LANES: usize;
    /// The most registers of outputs in a tile, and pixels, by registers of outputs.
    const WIDEST: usize;
    const MOST: &'static [usize];
    type Sums: Copy;
    type Pixel: Copy;
    type Weights: Copy;
    type Values: Copy;
    unsafe fn start(from: *const i32) -> Self::Sums;
    /// Four bytes.
    unsafe fn pixel(from: *const u8) -> Self::Pixel;
    /// Four weights of each output.
    unsafe fn weights(from: *const u8) -> Self::Weights;
    /// Adds the four products.
    unsafe fn add(sums: Self::Sums, pixel: Self::Pixel, weights: Self::Weights) -> Self::Sums;
    unsafe fn join(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// `sums · factor + bias`, rounded twice, within the range.
    unsafe fn finish(sums: Self::Sums, factor: *const f32, bias: *const f32, range: [f32; 2])
    -> Self::Values;
    /// At most `space` values.
    unsafe fn store(to: *mut f32, values: Self::Values, space: usize);
    /// The nearest whole numbers, ties to even, counted from `zero`.
    unsafe fn store_bytes(to: *mut u8, values: Self::Values, zero: u8);
}

/// Work that is compiled for each of them.
pub trait WithSet {
    unsafe fn with<S: Set>(self);
}

/// For any processor.
pub struct Plain;

impl Set for Plain {
    const LANES: usize = 16;
    const WIDEST: usize = 1;
    const MOST: &'static [usize] = &[2];
    type Sums = [i32; 16];
    type Pixel = [u8; 4];
    type Weights = [[i8; 4]; 16];
    type Values = [f32; 16];
    #[inline(always)]
    unsafe fn start(from: *const i32) -> Self::Sums {
        unsafe { from.cast::<Self::Sums>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn pixel(from: *const u8) -> Self::Pixel {
        unsafe { from.cast::<Self::Pixel>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        unsafe { from.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn add(mut sums: Self::Sums, pixel: Self::Pixel, weights: Self::Weights) -> Self::Sums {
        for o in 0..16 {
            for i in 0..4 {
                sums[o] += i32::from(pixel[i]) * i32::from(weights[o][i]);
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn join(mut a: Self::Sums, b: Self::Sums) -> Self::Sums {
        for o in 0..16 {
            a[o] += b[o];
        }
        a
    }
    #[inline(always)]
    unsafe fn finish(
        sums: Self::Sums,
        factor: *const f32,
        bias: *const f32,
        [low, high]: [f32; 2],
    ) -> Self::Values {
        let mut values = [0.0; 16];
        for o in 0..16 {
            let (factor, bias) = unsafe { (*factor.add(o), *bias.add(o)) };
            values[o] = (sums[o] as f32 * factor + bias).max(low).min(high);
        }
        values
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, values: Self::Values, space: usize) {
        unsafe { to.copy_from_nonoverlapping(values.as_ptr(), space.min(16)) }
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, values: Self::Values, zero: u8) {
        let grid = Grid { scale: 1.0, zero };
        unsafe { to.cast::<[u8; 16]>().write_unaligned(values.map(|value| grid.number(value))) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Set;
    use std::arch::x86_64::*;

    pub struct Avx512Vnni;

    impl Set for Avx512Vnni {
        const LANES: usize = 16;
        const WIDEST: usize = 4;
        const MOST: &'static [usize] = &[10, 8, 8, 6];
        type Sums = __m512i;
        type Pixel = __m512i;
        type Weights = __m512i;
        type Values = __m512;
        #[inline(always)]
        unsafe fn start(from: *const i32) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn pixel(from: *const u8) -> __m512i {
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn add(sums: __m512i, pixel: __m512i, weights: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sums, pixel, weights) }
        }
        #[inline(always)]
        unsafe fn join(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn finish(
            sums: __m512i,
            factor: *const f32,
            bias: *const f32,
            [low, high]: [f32; 2],
        ) -> __m512 {
            unsafe {
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(factor));
                let values = _mm512_add_ps(product, _mm512_loadu_ps(bias));
                _mm512_min_ps(_mm512_max_ps(values, _mm512_set1_ps(low)), _mm512_set1_ps(high))
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, values: __m512, _: usize) {
            unsafe { _mm512_storeu_ps(to, values) }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, values: __m512, zero: u8) {
            unsafe {
                let numbers = _mm512_add_epi32(_mm512_cvtps_epi32(values), _mm512_set1_epi32(zero.into()));
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(numbers));
            }
        }
    }

    /// With 8 outputs in a register: of what one adds four products of 32 bits.
    pub trait Add {
        type Pixel: Copy;
        unsafe fn split(pixel: __m256i) -> Self::Pixel;
        unsafe fn add(sums: __m256i, pixel: Self::Pixel, weights: __m256i) -> __m256i;
    }

    pub struct AvxVnni;
    /// Weights of 7 bits.
    pub struct Avx2;
    /// Weights of 8 bits.
    pub struct Avx2Wide;

    impl Add for AvxVnni {
        type Pixel = __m256i;
        #[inline(always)]
        unsafe fn split(pixel: __m256i) -> __m256i {
            pixel
        }
        #[inline(always)]
        unsafe fn add(sums: __m256i, pixel: __m256i, weights: __m256i) -> __m256i {
            unsafe { _mm256_dpbusd_avx_epi32(sums, pixel, weights) }
        }
    }

    impl Add for Avx2 {
        type Pixel = __m256i;
        #[inline(always)]
        unsafe fn split(pixel: __m256i) -> __m256i {
            pixel
        }
        #[inline(always)]
        unsafe fn add(sums: __m256i, pixel: __m256i, weights: __m256i) -> __m256i {
            unsafe {
                let pairs = _mm256_maddubs_epi16(pixel, weights);
                _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
    }

    impl Add for Avx2Wide {
        type Pixel = [__m256i; 2];
        #[inline(always)]
        unsafe fn split(pixel: __m256i) -> [__m256i; 2] {
            unsafe {
                let low = _mm256_and_si256(pixel, _mm256_set1_epi8(127));
                [low, _mm256_sub_epi8(pixel, low)]
            }
        }
        #[inline(always)]
        unsafe fn add(sums: __m256i, [low, high]: [__m256i; 2], weights: __m256i) -> __m256i {
            unsafe { <Avx2 as Add>::add(<Avx2 as Add>::add(sums, low, weights), high, weights) }
        }
    }

    impl<A: Add> Set for A {
        const LANES: usize = 8;
        const WIDEST: usize = 2;
        const MOST: &'static [usize] = &[8, 5];
        type Sums = __m256i;
        type Pixel = A::Pixel;
        type Weights = __m256i;
        type Values = __m256;
        #[inline(always)]
        unsafe fn start(from: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn pixel(from: *const u8) -> A::Pixel {
            unsafe { A::split(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn add(sums: __m256i, pixel: A::Pixel, weights: __m256i) -> __m256i {
            unsafe { A::add(sums, pixel, weights) }
        }
        #[inline(always)]
        unsafe fn join(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn finish(
            sums: __m256i,
            factor: *const f32,
            bias: *const f32,
            [low, high]: [f32; 2],
        ) -> __m256 {
            unsafe {
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(factor));
                let values = _mm256_add_ps(product, _mm256_loadu_ps(bias));
                _mm256_min_ps(_mm256_max_ps(values, _mm256_set1_ps(low)), _mm256_set1_ps(high))
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, values: __m256, _: usize) {
            unsafe { _mm256_storeu_ps(to, values) }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, values: __m256, zero: u8) {
            unsafe {
                let numbers = _mm256_add_epi32(_mm256_cvtps_epi32(values), _mm256_set1_epi32(zero.into()));
                let halves =
                    _mm_packus_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
                _mm_storel_epi64(to.cast(), _mm_packus_epi16(halves, halves));
            }
        }
    }
}

/// Those that sums are computed with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Instructions {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx2Wide,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

#[cfg(test)]
impl Instructions {
    /// All that this processor has.
    pub fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        for (there, instructions) in [
            (is_x86_feature_detected!("avx2"), Self::Avx2),
            (is_x86_feature_detected!("avxvnni"), Self::AvxVnni),
            (is_x86_feature_detected!("avx512vnni"), Self::Avx512Vnni),
        ] {
            all.extend(there.then_some(instructions));
        }
        all
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Instructions {
    pub fn best() -> Self {
        Self::Plain
    }
    pub fn for_weights(self, _narrow: bool) -> Self {
        self
    }
    pub fn lanes(self) -> usize {
        Plain::LANES
    }
    pub fn widest(self) -> usize {
        Plain::WIDEST
    }
    pub fn dispatch(self, work: impl WithSet) {
        // Safety: any processor has them.
        unsafe { work.with::<Plain>() }
    }
}

#[cfg(target_arch = "x86_64")]
impl Instructions {
    /// Those of this processor that `BRANCHYNET_SIMD` allows.
    pub fn best() -> Self {
        use pulp::Arch;
        let best = std::env::var("BRANCHYNET_SIMD").unwrap_or_default().is_empty();
        match crate::simd::arch() {
            Arch::V4(_) if is_x86_feature_detected!("avx512vnni") => Self::Avx512Vnni,
            Arch::V3(_) if best && is_x86_feature_detected!("avxvnni") => Self::AvxVnni,
            Arch::V3(_) | Arch::V4(_) => Self::Avx2,
            _ => Self::Plain,
        }
    }

    pub fn for_weights(self, narrow: bool) -> Self {
        if self == Self::Avx2 && !narrow { Self::Avx2Wide } else { self }
    }

    pub fn lanes(self) -> usize {
        match self {
            Self::Plain | Self::Avx512Vnni => 16,
            _ => 8,
        }
    }

    pub fn widest(self) -> usize {
        match self {
            Self::Plain => Plain::WIDEST,
            Self::Avx512Vnni => x86::Avx512Vnni::WIDEST,
            _ => x86::Avx2::WIDEST,
        }
    }

    pub fn dispatch(self, work: impl WithSet) {
        #[target_feature(enable = "avx2")]
        unsafe fn avx2(work: impl WithSet) {
            unsafe { work.with::<x86::Avx2>() }
        }
        #[target_feature(enable = "avx2")]
        unsafe fn avx2_wide(work: impl WithSet) {
            unsafe { work.with::<x86::Avx2Wide>() }
        }
        #[target_feature(enable = "avx2,avxvnni")]
        unsafe fn avx_vnni(work: impl WithSet) {
            unsafe { work.with::<x86::AvxVnni>() }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        unsafe fn avx512_vnni(work: impl WithSet) {
            unsafe { work.with::<x86::Avx512Vnni>() }
        }
        // Safety: `best` has found them.
        unsafe {
            match self {
                Self::Plain => work.with::<Plain>(),
                Self::Avx2 => avx2(work),
                Self::Avx2Wide => avx2_wide(work),
                Self::AvxVnni => avx_vnni(work),
                Self::Avx512Vnni => avx512_vnni(work),
            }
        }
    }
}
