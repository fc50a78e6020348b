//! The two inner products behind every convolution and linear layer on the CPU.
//!
//! A convolution over a zero-padded image needs no im2col buffer: flatten the padded image row by
//! row, and the row that im2col would write for kernel position `k` is the image itself, read from
//! `offsets[k]` on. So one matrix product whose right-hand rows are *shifted views* of one buffer
//! serves the forward pass and, with the kernel mirrored, the gradient of the input
//! ([`shifted_product`]); its transpose serves the gradient of the kernel ([`shifted_dots`]).
//! Everything stays in the innermost cache, and accumulators stay in registers.
//!
//! The instruction set (AVX-512, AVX2, NEON, none) is chosen when the program runs, by `pulp`.
//! Each output is accumulated in the same order whatever block it falls into, so that a result
//! does not depend on how many samples were computed beside it.

use pulp::{Arch, Simd, WithSimd};
use std::sync::OnceLock;

/// The most elements that one vector register holds (16 × f32). Buffers that kernels read or
/// write carry this many elements of slack at their end, so that no loop needs a masked tail.
pub const SLACK: usize = 16;

/// f32 and f64, with their vector types. f64 is there so that gradients can be checked finely.
pub trait Real:
    candle_core::WithDType + Copy + Send + Sync + PartialOrd + std::ops::AddAssign + std::ops::MulAssign + 'static
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

/// Runs `work` with these instructions.
pub fn dispatch<W: WithSimd>(work: W) -> W::Output {
    arch().dispatch(work)
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

/// `n` split into the fewest, most even parts of at most `max`.
#[inline(always)]
pub fn parts(n: usize, max: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let count = n.div_ceil(max);
    (0..count).map(move |i| i * n / count..(i + 1) * n / count)
}

/// Rows of a left-hand matrix in the order in which [`shifted_product`] reads them.
#[derive(Debug, Clone)]
pub struct Packed<T> {
    rows: usize,
    block: usize,
    values: Vec<T>,
}

impl<T: Real> Packed<T> {
    /// Packs the `rows` × `depth` matrix whose element is `at(row, k)`.
    pub fn new(rows: usize, depth: usize, at: impl Fn(usize, usize) -> T) -> Self {
        // 8 rows × 3 registers of accumulators fit the 32 registers of AVX-512 and NEON,
        // 6 rows × 2 the 16 of AVX2.
        let block = if registers() >= 32 { 8 } else { 6 };
        let mut values = Vec::with_capacity(rows * depth);
        for part in parts(rows, block) {
            for k in 0..depth {
                values.extend(part.clone().map(|row| at(row, k)));
            }
        }
        Self { rows, block, values }
    }
}

/// `out[m][p] = bias[m] + Σ_k a[m][k] · b[offsets[k] + p]` for all rows `m` of `a` and `p` in
/// `0..columns`.
///
/// Row `m` of `out` starts at `m * out_stride`. Up to [`SLACK`] elements after `columns` are read
/// in `b` and overwritten in `out`.
pub fn shifted_product<T: Real>(
    a: &Packed<T>,
    offsets: &[usize],
    b: &[T],
    bias: Option<&[T]>,
    out: &mut [T],
    out_stride: usize,
    columns: usize,
) {
    let deepest = offsets.iter().max().copied().unwrap_or(0);
    assert!(deepest + columns + SLACK <= b.len(), "right-hand buffer too short");
    assert!((a.rows - 1) * out_stride + columns + SLACK <= out.len(), "output buffer too short");
    assert!(a.rows == 1 || columns + SLACK <= out_stride, "output rows overlap");
    assert_eq!(a.values.len(), a.rows * offsets.len());
    assert!(bias.is_none_or(|bias| bias.len() == a.rows));
    struct Run<'a, T> {
        a: &'a Packed<T>,
        offsets: &'a [usize],
        b: *const T,
        bias: Option<&'a [T]>,
        out: *mut T,
        out_stride: usize,
        columns: usize,
    }
    impl<T: Real> WithSimd for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = T::lanes::<S>();
            let widest = if S::REGISTER_COUNT >= 32 { 3 } else { 2 };
            // Columns outside, rows inside: the part of `b` under one group of columns is read
            // once for all rows and stays in the first-level cache.
            for group in parts(self.columns.div_ceil(lanes), widest) {
                let p = group.start * lanes;
                for rows in parts(self.a.rows, self.a.block) {
                    let a = self.a.values[rows.start * self.offsets.len()..].as_ptr();
                    // Safety: the asserts above bound every read and write.
                    unsafe {
                        let b = self.b.add(p);
                        let out = self.out.add(rows.start * self.out_stride + p);
                        let bias = self.bias.map(|bias| bias[rows.start..].as_ptr());
                        macro_rules! tile {
                            ($($m:literal)*) => { match (rows.len(), group.len()) {
                                $(($m, 1) => tile::<T, S, $m, 1>(simd, a, self.offsets, b, bias, out, self.out_stride),
                                  ($m, 2) => tile::<T, S, $m, 2>(simd, a, self.offsets, b, bias, out, self.out_stride),
                                  ($m, 3) => tile::<T, S, $m, 3>(simd, a, self.offsets, b, bias, out, self.out_stride),)*
                                _ => unreachable!("blocks have at most 8 rows and 3 registers"),
                            }};
                        }
                        tile!(1 2 3 4 5 6 7 8);
                    }
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn tile<T: Real, S: Simd, const M: usize, const N: usize>(
        simd: S,
        mut a: *const T,
        offsets: &[usize],
        b: *const T,
        bias: Option<*const T>,
        out: *mut T,
        out_stride: usize,
    ) {
        unsafe {
            let lanes = T::lanes::<S>();
            let mut sums = [[T::splat(simd, T::zero()); N]; M];
            if let Some(bias) = bias {
                for (m, row) in sums.iter_mut().enumerate() {
                    *row = [T::splat(simd, *bias.add(m)); N];
                }
            }
            for &offset in offsets {
                let source = b.add(offset).cast::<T::Vector<S>>();
                let mut right = [T::splat(simd, T::zero()); N];
                for (n, right) in right.iter_mut().enumerate() {
                    *right = source.add(n).read_unaligned();
                }
                for (m, row) in sums.iter_mut().enumerate() {
                    let left = T::splat(simd, *a.add(m));
                    for (sum, &right) in row.iter_mut().zip(&right) {
                        *sum = T::mul_add(simd, left, right, *sum);
                    }
                }
                a = a.add(M);
            }
            for (m, row) in sums.iter().enumerate() {
                for (n, &sum) in row.iter().enumerate() {
                    out.add(m * out_stride + n * lanes).cast::<T::Vector<S>>().write_unaligned(sum);
                }
            }
        }
    }
    arch().dispatch(Run { a, offsets, b: b.as_ptr(), bias, out: out.as_mut_ptr(), out_stride, columns })
}

/// `out[m][k] += Σ_i Σ_p a[i·a_step + m·a_stride + p] · b[i·b_step + offsets[k] + p]`, for `p` in
/// `0..columns` and `i` in `0..samples`; `out` is `rows` × `offsets.len()`, row-major.
pub struct ShiftedDots<'a, T> {
    pub a: &'a [T],
    pub a_stride: usize,
    pub a_step: usize,
    pub b: &'a [T],
    pub b_step: usize,
    pub offsets: &'a [usize],
    pub rows: usize,
    pub columns: usize,
    pub samples: usize,
}

/// Runs the products that `dots` describes.
pub fn shifted_dots<T: Real>(dots: &ShiftedDots<'_, T>, out: &mut [T]) {
    let d = dots;
    let last = d.samples - 1;
    let deepest = d.offsets.iter().max().copied().unwrap_or(0);
    assert!(last * d.a_step + (d.rows - 1) * d.a_stride + d.columns <= d.a.len());
    assert!(last * d.b_step + deepest + d.columns <= d.b.len());
    assert_eq!(out.len(), d.rows * d.offsets.len());
    struct Run<'a, 'b, T>(&'a ShiftedDots<'b, T>, &'a mut [T]);
    impl<T: Real> WithSimd for Run<'_, '_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Run(dots, out) = self;
            let (tall, wide) = if S::REGISTER_COUNT >= 32 { (4, 6) } else { (2, 5) };
            // Rows outside: a few rows of `a` stay in the first-level cache while all of `b`, whose
            // shifted views overlap, passes by.
            for rows in parts(dots.rows, tall) {
                for ks in parts(dots.offsets.len(), wide) {
                    let out = &mut out[rows.start * dots.offsets.len() + ks.start..];
                    let offsets = &dots.offsets[ks.clone()];
                    macro_rules! tile {
                        ($($k:literal)*) => { match (rows.len(), ks.len()) {
                            // Safety: the asserts above bound every read.
                            $((1, $k) => unsafe { tile::<T, S, 1, $k>(simd, dots, rows.start, offsets, out) },
                              (2, $k) => unsafe { tile::<T, S, 2, $k>(simd, dots, rows.start, offsets, out) },
                              (3, $k) => unsafe { tile::<T, S, 3, $k>(simd, dots, rows.start, offsets, out) },
                              (4, $k) => unsafe { tile::<T, S, 4, $k>(simd, dots, rows.start, offsets, out) },)*
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
        dots: &ShiftedDots<'_, T>,
        row: usize,
        offsets: &[usize],
        out: &mut [T],
    ) {
        unsafe {
            let zero = T::splat(simd, T::zero());
            let lanes = T::lanes::<S>();
            let mut sums = [[zero; K]; M];
            for i in 0..dots.samples {
                let a = dots.a.as_ptr().add(i * dots.a_step + row * dots.a_stride);
                let b = dots.b.as_ptr().add(i * dots.b_step);
                // Written out rather than shared with the tail below: the accumulators stay in
                // registers only while nothing in the loop takes an address of its operands.
                let mut p = 0;
                while p + lanes <= dots.columns {
                    let mut right = [zero; K];
                    for k in 0..K {
                        let from = b.add(*offsets.get_unchecked(k) + p);
                        right[k] = from.cast::<T::Vector<S>>().read_unaligned();
                    }
                    for m in 0..M {
                        let from = a.add(m * dots.a_stride + p);
                        let left = from.cast::<T::Vector<S>>().read_unaligned();
                        for k in 0..K {
                            sums[m][k] = T::mul_add(simd, left, right[k], sums[m][k]);
                        }
                    }
                    p += lanes;
                }
                if p < dots.columns {
                    let tail = dots.columns - p;
                    for k in 0..K {
                        let right = partial(simd, b.add(offsets[k] + p), tail);
                        for m in 0..M {
                            let left = partial(simd, a.add(m * dots.a_stride + p), tail);
                            sums[m][k] = T::mul_add(simd, left, right, sums[m][k]);
                        }
                    }
                }
            }
            for (m, row) in sums.iter().enumerate() {
                for (k, &sum) in row.iter().enumerate() {
                    out[m * dots.offsets.len() + k] += T::sum(simd, sum);
                }
            }
        }
    }
    /// A register with `count` elements from `from` and zeros behind them.
    #[inline(always)]
    unsafe fn partial<T: Real, S: Simd>(simd: S, from: *const T, count: usize) -> T::Vector<S> {
        T::partial_load(simd, unsafe { std::slice::from_raw_parts(from, count) })
    }
    arch().dispatch(Run(dots, out))
}

/// Pixels behind the last one that [`channel_product`] reads, and rows behind the last one of `out`
/// that it writes.
pub const MORE_PIXELS: usize = 24;

/// `out[p][m] = bias[m] + Σ_k weights[k][m] · image[offsets[k] + pixels[p]]`: [`shifted_product`] with
/// channels in the lanes of a register instead of pixels, faster where rows are short and channels
/// fill registers. It sums in the same order, and so gives the same bits.
///
/// `weights` is (offsets, channels), `channels` a multiple of [`SLACK`]; `pixels` has [`MORE_PIXELS`]
/// places more than are wanted, and `out` (pixels, channels) as many rows.
pub fn channel_product<T: Real>(
    weights: &[T],
    offsets: &[usize],
    image: &[T],
    pixels: &[usize],
    bias: &[T],
    out: &mut [T],
) {
    let channels = weights.len() / offsets.len();
    let furthest = |places: &[usize]| places.iter().max().copied().unwrap_or(0);
    assert!(furthest(offsets) + furthest(pixels) < image.len());
    assert!(channels.is_multiple_of(SLACK) && pixels.len() > MORE_PIXELS);
    assert_eq!(weights.len(), offsets.len() * channels);
    assert!(out.len() >= pixels.len() * channels);
    assert_eq!(bias.len(), channels);
    struct Run<'a, T> {
        weights: &'a [T],
        channels: usize,
        offsets: &'a [usize],
        image: &'a [T],
        pixels: &'a [usize],
        bias: &'a [T],
        out: &'a mut [T],
    }
    impl<T: Real> WithSimd for Run<'_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let lanes = T::lanes::<S>();
            let (wide, registers) = if S::REGISTER_COUNT >= 32 { (4, 24) } else { (2, 12) };
            for group in parts(self.channels / lanes, wide) {
                let count = (registers / group.len()).min(8);
                let first = group.start * lanes;
                for p in (0..self.pixels.len() - MORE_PIXELS).step_by(count) {
                    // Safety: the asserts above bound every read and write.
                    unsafe {
                        let pixels = self.pixels.as_ptr().add(p);
                        let out = self.out.as_mut_ptr().add(p * self.channels + first);
                        macro_rules! tile {
                            ($n:literal, $p:literal) => {
                                tile::<T, S, $n, $p>(
                                    simd,
                                    (self.weights.as_ptr().add(first), self.channels),
                                    self.offsets,
                                    (self.image.as_ptr(), pixels),
                                    self.bias.as_ptr().add(first),
                                    out,
                                )
                            };
                        }
                        match (registers, group.len()) {
                            (24, 1) => tile!(1, 8),
                            (24, 2) => tile!(2, 8),
                            (24, 3) => tile!(3, 8),
                            (24, 4) => tile!(4, 6),
                            (12, 1) => tile!(1, 8),
                            (12, 2) => tile!(2, 6),
                            _ => unreachable!("groups have at most 4 registers"),
                        }
                    }
                }
            }
        }
    }
    // As above: plain indices compile to registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<T: Real, S: Simd, const N: usize, const P: usize>(
        simd: S,
        (mut weights, channels): (*const T, usize),
        offsets: &[usize],
        (image, pixels): (*const T, *const usize),
        bias: *const T,
        out: *mut T,
    ) {
        unsafe {
            let lanes = T::lanes::<S>();
            let mut sums = [[T::splat(simd, T::zero()); N]; P];
            for p in 0..P {
                for n in 0..N {
                    sums[p][n] = bias.add(n * lanes).cast::<T::Vector<S>>().read_unaligned();
                }
            }
            let mut places = [image; P];
            for p in 0..P {
                places[p] = image.add(*pixels.add(p));
            }
            for &offset in offsets {
                let mut left = [T::splat(simd, T::zero()); N];
                for n in 0..N {
                    let from = weights.add(n * lanes).cast::<T::Vector<S>>();
                    left[n] = from.read_unaligned();
                }
                for p in 0..P {
                    let right = T::splat(simd, *places[p].add(offset));
                    for n in 0..N {
                        sums[p][n] = T::mul_add(simd, left[n], right, sums[p][n]);
                    }
                }
                weights = weights.add(channels);
            }
            for p in 0..P {
                for n in 0..N {
                    let to = out.add(p * channels + n * lanes).cast::<T::Vector<S>>();
                    to.write_unaligned(sums[p][n]);
                }
            }
        }
    }
    arch().dispatch(Run { weights, channels, offsets, image, pixels, bias, out })
}

/// Offsets behind the last one that [`outer_products`] reads, and rows behind the last one of `sums`
/// that it writes.
pub const MORE_TAPS: usize = 24;

/// `sums[k][m] += Σ_i Σ_p grads[i][p][m] · images[i·image_len + offsets[k] + at(p)]`, where pixel p of
/// `height` × `width` lies at `at(p) = p / width · row + p % width`.
///
/// The counterpart of [`ShiftedDots`] with channels in the lanes of a register instead of pixels:
/// nothing is lost at the ends of short rows and nothing summed across lanes, so that it is
/// faster where the channels fill registers.
pub struct OuterProducts<'a, T> {
    /// (samples, pixels, channels).
    pub grads: &'a [T],
    /// A multiple of [`SLACK`].
    pub channels: usize,
    pub images: &'a [T],
    pub image_len: usize,
    /// Of all taps, and [`MORE_TAPS`] more.
    pub offsets: &'a [usize],
    pub height: usize,
    pub width: usize,
    pub row: usize,
    pub samples: usize,
}

/// Adds the products that `outer` describes to `sums`, a row of channels for each offset.
pub fn outer_products<T: Real>(outer: &OuterProducts<'_, T>, sums: &mut [T]) {
    let o = outer;
    let deepest = o.offsets.iter().max().copied().unwrap_or(0);
    let reach = (o.height - 1) * o.row + o.width - 1;
    assert!(o.channels.is_multiple_of(SLACK) && o.offsets.len() > MORE_TAPS);
    assert!((o.samples - 1) * o.image_len + deepest + reach < o.images.len());
    assert_eq!(o.grads.len(), o.samples * o.height * o.width * o.channels);
    assert_eq!(sums.len(), o.offsets.len() * o.channels);
    struct Run<'a, 'b, T>(&'a OuterProducts<'b, T>, &'a mut [T]);
    impl<T: Real> WithSimd for Run<'_, '_, T> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Run(o, sums) = self;
            let lanes = T::lanes::<S>();
            let (wide, registers) = if S::REGISTER_COUNT >= 32 { (4, 24) } else { (2, 12) };
            for group in parts(o.channels / lanes, wide) {
                let taps = (registers / group.len()).min(8);
                for k in (0..o.offsets.len() - MORE_TAPS).step_by(taps) {
                    // Safety: the asserts above bound every read and write.
                    unsafe {
                        let first = group.start * lanes;
                        let offsets = o.offsets.as_ptr().add(k);
                        let sums = sums.as_mut_ptr().add(k * o.channels + first);
                        match (registers, group.len()) {
                            (24, 1) => tile::<T, S, 1, 8>(simd, o, first, offsets, sums),
                            (24, 2) => tile::<T, S, 2, 8>(simd, o, first, offsets, sums),
                            (24, 3) => tile::<T, S, 3, 8>(simd, o, first, offsets, sums),
                            (24, 4) => tile::<T, S, 4, 6>(simd, o, first, offsets, sums),
                            (12, 1) => tile::<T, S, 1, 8>(simd, o, first, offsets, sums),
                            (12, 2) => tile::<T, S, 2, 6>(simd, o, first, offsets, sums),
                            _ => unreachable!("groups have at most 4 registers"),
                        }
                    }
                }
            }
        }
    }
    // As above: plain indices compile to registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<T: Real, S: Simd, const N: usize, const K: usize>(
        simd: S,
        o: &OuterProducts<'_, T>,
        first: usize,
        offsets: *const usize,
        out: *mut T,
    ) {
        unsafe {
            let lanes = T::lanes::<S>();
            let zero = T::splat(simd, T::zero());
            let mut sums = [[zero; N]; K];
            for i in 0..o.samples {
                let mut grads = o.grads.as_ptr().add(i * o.height * o.width * o.channels + first);
                let image = o.images.as_ptr().add(i * o.image_len);
                let mut taps = [image; K];
                for k in 0..K {
                    taps[k] = image.add(*offsets.add(k));
                }
                for y in 0..o.height {
                    for x in y * o.row..y * o.row + o.width {
                        let mut left = [zero; N];
                        for n in 0..N {
                            let from = grads.add(n * lanes).cast::<T::Vector<S>>();
                            left[n] = from.read_unaligned();
                        }
                        for k in 0..K {
                            let right = T::splat(simd, *taps[k].add(x));
                            for n in 0..N {
                                sums[k][n] = T::mul_add(simd, left[n], right, sums[k][n]);
                            }
                        }
                        grads = grads.add(o.channels);
                    }
                }
            }
            for k in 0..K {
                for n in 0..N {
                    let to = out.add(k * o.channels + n * lanes).cast::<T::Vector<S>>();
                    let one = T::splat(simd, T::one());
                    let before = to.read_unaligned();
                    to.write_unaligned(T::mul_add(simd, sums[k][n], one, before));
                }
            }
        }
    }
    arch().dispatch(Run(outer, sums))
}
