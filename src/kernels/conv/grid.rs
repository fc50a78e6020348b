//! Whole numbers of a byte in place of values.

/// Adding and subtracting it rounds a float to a whole number, ties to even; of the sum the lowest byte is that number.
const WHOLE: f32 = 12_582_912.0;

/// Values that are equally far apart, each with a number from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// From one value to the next, above 0.
    pub scale: f32,
    /// The number of the value 0.
    pub zero: u8,
}

impl Grid {
    /// The value of a number.
    #[inline(always)]
    pub fn value(self, number: u8) -> f32 {
        (f32::from(number) - f32::from(self.zero)) * self.scale
    }

    /// The number whose value is nearest to `x`.
    #[inline(always)]
    pub fn number(self, x: f32) -> u8 {
        let [low, high] = self.range();
        (((x * (1.0 / self.scale)).max(low).min(high) + WHOLE).to_bits() as u8).wrapping_add(self.zero)
    }

    /// The lowest and the highest value, in steps.
    #[inline(always)]
    pub fn range(self) -> [f32; 2] {
        [-f32::from(self.zero), 255.0 - f32::from(self.zero)]
    }
}

/// What weights of one output are whole multiples of if they have `bits` bits, sign included: at most 2^(bits − 1) − 1 of it.
pub fn weight_scale(weights: &[f32], bits: u32) -> f32 {
    let largest = weights.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
    if largest > 0.0 { largest / ((1 << (bits - 1)) - 1) as f32 } else { 1.0 }
}

/// Weights of so many outputs as whole numbers of at most 8 bits, and the scale of each output; `None` where they are not
/// whole multiples of one, or where a sum of products with bytes could leave 32 bits.
pub fn whole_numbers(weights: &[f32], outputs: usize) -> Option<(Vec<i8>, Vec<f32>)> {
    let (mut numbers, mut scales) = (Vec::with_capacity(weights.len()), Vec::with_capacity(outputs));
    for weights in weights.chunks(weights.len() / outputs) {
        // Rounding of the largest weight moves the scale, and so all multiples.
        let on_grid = |scale: &f32| {
            weights.iter().all(|w| (w - (w / scale).round() * scale).abs() <= 4.0 * f32::EPSILON * w.abs())
        };
        let scale = (2..=8).map(|bits| weight_scale(weights, bits)).find(on_grid)?;
        let start = numbers.len();
        numbers.extend(weights.iter().map(|w| (w / scale).round() as i8));
        let sum: i64 = numbers[start..].iter().map(|&n| i64::from(n).abs()).sum();
        if 255 * sum > i64::from(i32::MAX) {
            return None;
        }
        scales.push(scale);
    }
    Some((numbers, scales))
}
