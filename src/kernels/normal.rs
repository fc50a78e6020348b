//! The functions of the normal distribution, for the Gaussian error linear unit.

use candle_core::cpu::erf::erf_f64;
use std::f64::consts::{FRAC_1_SQRT_2, LOG2_E, PI};

/// f32 and f64.
pub trait Normal: Sized {
    /// Φ(x), the chance to be below x.
    fn below(self) -> Self;
    /// φ(x), the density.
    fn density(self) -> Self;
}

impl Normal for f64 {
    fn below(self) -> f64 {
        0.5 * (1.0 + erf_f64(self * FRAC_1_SQRT_2))
    }
    fn density(self) -> f64 {
        (-0.5 * self * self).exp() / (2.0 * PI).sqrt()
    }
}

/// Only additions, products and one division, so that a loop over elements fills vector registers.
impl Normal for f32 {
    #[inline(always)]
    fn below(self) -> f32 {
        // The error function by Eigen's quotient of polynomials, within [-4, 4].
        let x = (self * FRAC_1_SQRT_2 as f32).clamp(-4.0, 4.0);
        let s = x * x;
        let above =
            [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2];
        let beneath = [-2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_474e-2];
        let p = above.iter().fold(-2.726_142_3e-10, |sum, &c| sum * s + c);
        let q = beneath.iter().fold(-1.456_607_2e-5, |sum, &c| sum * s + c);
        0.5 + 0.5 * x * p / q
    }
    #[inline(always)]
    fn density(self) -> f32 {
        // exp(t) = 2^n · exp(r), n whole, by rounding with a number whose last bit is 1.
        const ROUND: f32 = 12_582_912.0;
        let t = (-0.5 * self * self).max(-87.0);
        let shifted = t * LOG2_E as f32 + ROUND;
        let n = shifted - ROUND;
        let r = (t - n * 0.693_359_4) + n * 2.121_944_4e-4;
        let terms = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
        let exp = terms.iter().fold(1.0 / 720.0, |sum, &c| sum * r + c);
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
        exp * power * (1.0 / (2.0 * PI).sqrt()) as f32
    }
}
