//! e^x for f32, as plain Rust that vectorises and as AVX-512 and AVX2 functions.
//!
//! x = n·ln 2 + r with |r| ≤ ln 2 / 2, and e^r from a polynomial of degree 6 fitted here by
//! iteratively reweighted least squares (relative error 4e-9 before rounding). Error: at most
//! 2 ulp on normal results; −inf gives 0, results past the largest f32 give inf, NaN stays NaN.
//! Results below the smallest normal f32 are rounded to 0 by the plain and the AVX2 versions.
//! Not: f16, and not `exp_m1`, which needs another polynomial.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has 9 significant bits, so n times it is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
/// Coefficients of r² … r⁶.
const C: [f32; 5] = [0.499_999_94, 0.166_665_2, 0.041_668_4, 0.008_368_85, 0.001_381_432];
/// Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
const ROUND: f32 = 12_582_912.0;
/// e^x is inf above and flushed to 0 below.
const MAX_X: f32 = 88.722_84;
const MIN_X: f32 = -87.336_54;

/// e^x. Without branches, so loops over it vectorise.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // NaN passes through `clamp`, as through the arithmetic below.
    let clamped = x.clamp(MIN_X, MAX_X);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HI - n * LN2_LO;
    let mut p = C[4];
    p = p * r + C[3];
    p = p * r + C[2];
    p = p * r + C[1];
    p = p * r + C[0];
    let e_r = p * (r * r) + r + 1.0;
    // 2^n in two factors, since n may be 128. The low bits of `shifted` hold n.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let value = e_r * power(n >> 1) * power(n.wrapping_sub(n >> 1));
    let value = if x < MIN_X { 0.0 } else { value };
    let value = if x > MAX_X { f32::INFINITY } else { value };
    if x.is_nan() { x } else { value }
}

/// e^x of 16 lanes. Results below the smallest normal f32 are rounded, not flushed.
///
/// # Safety
/// The machine must have AVX-512 F; callers that enable it may call this without `unsafe`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp_avx512(x: std::arch::x86_64::__m512) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::*;
    // The bounds come first: with a NaN, max and min return their second operand.
    let clamped = _mm512_max_ps(_mm512_set1_ps(-120.0), _mm512_min_ps(_mm512_set1_ps(100.0), x));
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let n = _mm512_roundscale_ps::<NEAREST>(_mm512_mul_ps(clamped, _mm512_set1_ps(LOG2_E)));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HI), clamped);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LO), r);
    let mut p = _mm512_set1_ps(C[4]);
    for c in [C[3], C[2], C[1], C[0]] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let e_r = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0));
    _mm512_scalef_ps(e_r, n)
}

/// e^x of 8 lanes.
///
/// # Safety
/// The machine must have AVX2 and FMA; callers that enable them may call this without `unsafe`.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(crate) fn exp_avx2(x: std::arch::x86_64::__m256) -> std::arch::x86_64::__m256 {
    use std::arch::x86_64::*;
    let (low, high) = (_mm256_set1_ps(MIN_X), _mm256_set1_ps(MAX_X));
    // The bounds come first: with a NaN, max and min return their second operand.
    let clamped = _mm256_max_ps(low, _mm256_min_ps(high, x));
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    let n = _mm256_round_ps::<NEAREST>(_mm256_mul_ps(clamped, _mm256_set1_ps(LOG2_E)));
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HI), clamped);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LO), r);
    let mut p = _mm256_set1_ps(C[4]);
    for c in [C[3], C[2], C[1], C[0]] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let e_r = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0));
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let mut value = e_r;
    for n in [half, _mm256_sub_epi32(n, half)] {
        let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127)));
        value = _mm256_mul_ps(value, _mm256_castsi256_ps(exponent));
    }
    let value = _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, low), value);
    let overflow = _mm256_cmp_ps::<_CMP_GT_OQ>(x, high);
    _mm256_blendv_ps(value, _mm256_set1_ps(f32::INFINITY), overflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::Level;

    /// Error of `got` against e^x in units of the last place of the true value.
    fn ulps(x: f32, got: f32) -> f64 {
        let want = f64::from(x).exp();
        let nearest = want as f32;
        let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(got) - want).abs() / ulp
    }

    fn check(name: &str, exp: impl Fn(&mut [f32; 16])) {
        let one = |x: f32| {
            let mut lanes = [x; 16];
            exp(&mut lanes);
            lanes[15]
        };
        assert_eq!(one(0.0), 1.0, "{name}");
        assert_eq!(one(f32::NEG_INFINITY), 0.0, "{name}");
        assert_eq!(one(-1e30), 0.0, "{name}");
        assert_eq!(one(f32::INFINITY), f32::INFINITY, "{name}");
        assert_eq!(one(89.0), f32::INFINITY, "{name}");
        assert!(one(f32::NAN).is_nan(), "{name}");
        assert!(one(-95.0) < f32::MIN_POSITIVE, "{name}");
        let mut worst = (0.0f64, 0.0f32);
        let mut x = -87.3f32;
        while x < 88.7 {
            let input: [f32; 16] = std::array::from_fn(|i| x + i as f32 * 1e-4);
            let mut lanes = input;
            exp(&mut lanes);
            for (x, got) in input.into_iter().zip(lanes) {
                let error = ulps(x, got);
                if error > worst.0 {
                    worst = (error, x);
                }
            }
            x += 0.00171;
        }
        assert!(worst.0 <= 2.0, "{name}: {} ulp at {}", worst.0, worst.1);
    }

    #[test]
    fn within_two_ulp() {
        check("plain", |lanes| lanes.iter_mut().for_each(|x| *x = exp(*x)));
        #[cfg(target_arch = "x86_64")]
        for level in Level::available() {
            use std::arch::x86_64::*;
            match level {
                // SAFETY: the machine has this level; the pointers cover 16 floats.
                Level::Avx512 => check("avx512", |lanes| unsafe {
                    let value = exp_avx512(_mm512_loadu_ps(lanes.as_ptr()));
                    _mm512_storeu_ps(lanes.as_mut_ptr(), value);
                }),
                // SAFETY: the machine has this level; the pointers cover 16 floats.
                Level::Avx2 => check("avx2", |lanes| unsafe {
                    for half in lanes.chunks_exact_mut(8) {
                        let value = exp_avx2(_mm256_loadu_ps(half.as_ptr()));
                        _mm256_storeu_ps(half.as_mut_ptr(), value);
                    }
                }),
                _ => {}
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        assert!(Level::available().count() > 0);
    }
}
