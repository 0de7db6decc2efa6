//! The integer product of an unpacked row of W and a row of x on AVX2.
//!
//! 32 elements at a time with 8-bit products summed in pairs: `maddubs` saturates at 32767, which
//! neither codes of 6 bits (63 · 127 · 2) nor magnitudes of 128 (128 · 127 · 2) reach.
//! Not: unpacking, which is the plain loop of `quantized.rs` compiled for AVX2.

use std::arch::x86_64::*;

use super::quantized::{Row, UnpackedRow};
use crate::cpu::quant::Block;

/// The product; the slices cover `k`, a whole number of 32-element blocks.
///
/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dot<B: Block>(w: UnpackedRow, x: Row) -> f32 {
    let (mut sums, mut rest) = (_mm256_setzero_ps(), 0.0);
    let blocks = w.codes.chunks_exact(32).zip(x.codes.chunks_exact(32)).zip(x.scales);
    for (i, ((w_codes, x_codes), x_scale)) in blocks.enumerate() {
        // SAFETY: both chunks have 32 bytes.
        let (a, b) = unsafe {
            (
                _mm256_loadu_si256(w_codes.as_ptr().cast()),
                _mm256_loadu_si256(x_codes.as_ptr().cast()),
            )
        };
        let pairs = if B::OFFSET == 128 {
            let signed = _mm256_xor_si256(a, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(b, signed))
        } else {
            _mm256_maddubs_epi16(a, b)
        };
        let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        let sum = [x.sums[2 * i], x.sums[2 * i + 1]].map(|sum| sum as f32);
        let first = 32 / B::GROUP * i;
        let groups = [first, first + 32 / B::GROUP - 1];
        let [low, high] = groups.map(|g| w.scales[g]);
        let scale = _mm256_set_m128(_mm_set1_ps(high), _mm_set1_ps(low));
        sums = _mm256_fmadd_ps(_mm256_mul_ps(scale, _mm256_set1_ps(*x_scale)), products, sums);
        if B::HAS_MIN {
            rest += x_scale * (w.mins[groups[0]] * sum[0] + w.mins[groups[1]] * sum[1]);
        } else if B::OFFSET != 128 {
            rest -= f32::from(B::OFFSET) * x_scale * (low * sum[0] + high * sum[1]);
        }
    }
    let mut lanes = [0.0f32; 8];
    // SAFETY: the array has 8 floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
    lanes.iter().sum::<f32>() + rest
}
