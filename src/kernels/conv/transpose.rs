//! Transposition of matrices.

use crate::simd::arch;
use pulp::Arch;

/// Writes the transposed matrix: `to[c · to_step + r] = from[r · from_step + c]`. In blocks, so that both
/// matrices stay in the cache, and with AVX in registers.
///
/// Behind each of its rows of fewer than eight elements, `to` may become 0 up to the eighth, before the next row is written.
pub fn transpose(
    (from, from_step): (&[f32], usize),
    (to, to_step): (&mut [f32], usize),
    rows: usize,
    columns: usize,
) {
    assert!((rows - 1) * from_step + columns <= from.len() && (columns - 1) * to_step + rows <= to.len());
    #[cfg(target_arch = "x86_64")]
    let room =
        |len: usize, step: usize, lines: usize, line: usize| (lines - 1) * step + line.max(avx::SIDE) <= len;
    #[cfg(target_arch = "x86_64")]
    if room(from.len(), from_step, rows, columns)
        && room(to.len(), to_step, columns, rows)
        && rows.max(columns) >= avx::SIDE
        && !matches!(arch(), Arch::Scalar)
    {
        // Safety: the processor has AVX2 or AVX-512, as the others' names say; there is room for whole blocks.
        return unsafe {
            avx::transpose((from.as_ptr(), from_step), (to.as_mut_ptr(), to_step), rows, columns)
        };
    }
    const BLOCK: usize = 16;
    for top in (0..rows).step_by(BLOCK) {
        for c in 0..columns {
            for r in top..rows.min(top + BLOCK) {
                to[c * to_step + r] = from[r * from_step + c];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::*;

    /// Rows and columns of a block.
    pub const SIDE: usize = 8;

    #[target_feature(enable = "avx")]
    pub unsafe fn transpose(
        (from, from_step): (*const f32, usize),
        (to, to_step): (*mut f32, usize),
        rows: usize,
        columns: usize,
    ) {
        // The last blocks overlap those before them where a side is not a multiple of theirs, or hang over where it is
        // smaller. Two blocks fill a cache line of `to`, whose rows often take each other's place in the cache.
        let sides = (rows.min(SIDE), columns.min(SIDE));
        for two in (0..rows).step_by(2 * SIDE) {
            for c in (0..columns).step_by(SIDE) {
                let c = c.min(columns - sides.1);
                for r in (two..rows.min(two + 2 * SIDE)).step_by(SIDE) {
                    let r = r.min(rows - sides.0);
                    let (from, to) = unsafe { (from.add(r * from_step + c), to.add(c * to_step + r)) };
                    unsafe { block((from, from_step), (to, to_step), sides) };
                }
            }
        }
    }

    /// Reads so many rows, and writes so many columns, whole registers of each.
    #[target_feature(enable = "avx")]
    unsafe fn block(
        (from, from_step): (*const f32, usize),
        (to, to_step): (*mut f32, usize),
        (height, width): (usize, usize),
    ) {
        let mut rows = [_mm256_setzero_ps(); SIDE];
        for (i, row) in rows.iter_mut().enumerate() {
            if i < height {
                *row = unsafe { _mm256_loadu_ps(from.add(i * from_step)) };
            }
        }
        // Elements of two rows in turn, of four, and of all eight.
        let mut twos = rows;
        for i in 0..4 {
            twos[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = rows;
        for half in [0, 4] {
            for i in 0..2 {
                let (first, second) = (twos[half + i], twos[half + i + 2]);
                fours[half + 2 * i] = _mm256_shuffle_ps::<0b01_00_01_00>(first, second);
                fours[half + 2 * i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(first, second);
            }
        }
        let mut columns = rows;
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            // In order: a row that is shorter than a register ends in the next.
            columns[i] = low;
            columns[i + 4] = high;
        }
        for (i, column) in columns.into_iter().enumerate() {
            if i < width {
                unsafe { _mm256_storeu_ps(to.add(i * to_step), column) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_transposed_and_nothing_else_is_changed() {
        const STEP: usize = 24;
        let from: Vec<f32> = (1..=STEP * STEP).map(|i| i as f32).collect();
        for (rows, columns) in (1..20).flat_map(|rows| (1..20).map(move |columns| (rows, columns))) {
            let to_step = rows.max(5);
            let mut to = vec![-1.0; (columns - 1) * to_step + rows + 4];
            transpose((&from, STEP), (&mut to, to_step), rows, columns);
            for (i, &value) in to.iter().enumerate() {
                let (c, r) = (i / to_step, i % to_step);
                match r < rows && c < columns {
                    true => assert_eq!(value, from[r * STEP + c], "{rows} x {columns}: {r}, {c}"),
                    false => {
                        assert!(value == -1.0 || value == 0.0 && rows < 8, "{rows} x {columns}: {r}, {c}")
                    }
                }
            }
        }
    }
}
