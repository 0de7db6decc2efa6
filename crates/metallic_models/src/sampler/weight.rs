//! The weight of a candidate: e to the power of how far its logit is below the largest.
//!
//! A draw by a device must be the one made here, so this is no library's exponential but products and
//! sums of f32 in one order, each rounded: `weight_of` in `persistent_draw.cuh` is the same.

/// Added and taken away again, it rounds to a whole number, which its lower bits then hold: 1.5 · 2^23.
const MIDDLE: f32 = 12_582_912.0;
/// ln 2 = `LN2_HIGH` − `LN2_LOW`, both as in the kernel; the first has 9 bits, so that whole multiples of it are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = 2.121_944_4e-4;

/// eˣ for x at most 0, within 3 units in the last place; 0 below e^−87.
///
/// eˣ = 2ⁿ eʳ with n the whole number nearest to x / ln 2; eʳ by its Taylor series up to r⁷, which leaves
/// 5e-9 at the most, |r| = ln 2 / 2.
pub(super) fn weight(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + MIDDLE;
    let whole = shifted - MIDDLE;
    let rest = (x - whole * LN2_HIGH) + whole * LN2_LOW;
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * rest + coefficient;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x >= -87.0 { power * scale } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_powers_of_e() {
        assert_eq!((weight(0.0), weight(-0.0)), (1.0, 1.0));
        assert_eq!(weight(-1e-40), 1.0);
        for far in [-87.1, -1e30, f32::NEG_INFINITY] {
            assert_eq!(weight(far), 0.0);
        }
        let mut worst = 0.0f64;
        for step in 0..1_000_000 {
            let x = step as f32 * -8.7e-5;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(weight(x)) / exact - 1.0).abs());
        }
        assert!(worst < 3.0 * f64::from(f32::EPSILON) / 2.0, "{worst}");
    }
}
