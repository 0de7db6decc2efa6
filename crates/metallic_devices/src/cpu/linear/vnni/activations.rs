//! Rows of x as 8-bit codes, laid out for the VNNI kernels.
//!
//! The numbers are those of `../activations.rs`: f32 scale per 32 elements, codes rounded to
//! nearest even. What differs is that each chunk of 64 elements stands together with all that
//! its kernel multiplies by, ready to load or broadcast. An odd last block is padded by zeros.

use std::arch::x86_64::*;

use crate::cpu::quant::Block;

/// 32-bit words of one chunk for decoding: codes, scale of each lane, correction of each lane.
pub(super) const LANE_WORDS: usize = 48;
/// 32-bit words of one chunk for prefill: codes, 2 scales, corrections of 2 or 4 groups.
pub(super) const GROUP_WORDS: usize = 24;

/// 64 elements of x. The correction of a lane is what the format's offset or minimum adds to a
/// product: −offset · Σ codes as an integer, or scale · Σ codes as f32.
struct Rounded {
    codes: __m512i,
    scale: __m512,
    correction: __m512i,
}

/// Rounds one chunk of `blocks` (1 or 2) blocks.
#[inline(always)]
unsafe fn round<B: Block>(x: *const f32, blocks: usize) -> Rounded {
    // SAFETY: the caller has AVX-512 VNNI and gives 32 floats for each block.
    unsafe {
        let (mut codes, mut scales) = ([_mm256_setzero_si256(); 2], [0.0; 2]);
        for block in 0..blocks {
            let low = _mm512_loadu_ps(x.add(32 * block));
            let high = _mm512_loadu_ps(x.add(32 * block + 16));
            let largest =
                _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
            let scale = largest / 127.0;
            let inverse = _mm512_set1_ps(if scale > 0.0 { 1.0 / scale } else { 0.0 });
            let round = |x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
            codes[block] = _mm256_set_m128i(round(high), round(low));
            scales[block] = scale;
        }
        let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes[0]), codes[1]);
        let scale =
            _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(scales[0]), _mm512_set1_ps(scales[1]));
        let sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
        let correction = if B::HAS_MIN {
            _mm512_castps_si512(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(sums)))
        } else {
            _mm512_mullo_epi32(sums, _mm512_set1_epi32(-i32::from(B::OFFSET)))
        };
        Rounded { codes, scale, correction }
    }
}

/// One row of `k` elements in chunks of [`LANE_WORDS`].
///
/// # Safety
/// The machine has AVX-512 VNNI; `x` has `k` floats, `out` room for `k.div_ceil(64)` chunks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn round_lanes<B: Block>(x: *const f32, k: usize, out: *mut i32) {
    for chunk in 0..k.div_ceil(64) {
        let blocks = (k / 32 - 2 * chunk).min(2);
        // SAFETY: as the caller promises.
        unsafe {
            let rounded = round::<B>(x.add(64 * chunk), blocks);
            let out = out.add(LANE_WORDS * chunk);
            _mm512_storeu_si512(out.cast(), rounded.codes);
            _mm512_storeu_ps(out.add(16).cast(), rounded.scale);
            _mm512_storeu_si512(out.add(32).cast(), rounded.correction);
        }
    }
}

/// One row of `k` elements in chunks of [`GROUP_WORDS`].
///
/// # Safety
/// As [`round_lanes`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn round_groups<B: Block>(x: *const f32, k: usize, out: *mut i32) {
    for chunk in 0..k.div_ceil(64) {
        let blocks = (k / 32 - 2 * chunk).min(2);
        // SAFETY: as the caller promises.
        unsafe {
            let rounded = round::<B>(x.add(64 * chunk), blocks);
            let out = out.add(GROUP_WORDS * chunk);
            _mm512_storeu_si512(out.cast(), rounded.codes);
            let (mut scales, mut lanes) = ([0i32; 16], [0i32; 16]);
            _mm512_storeu_ps(scales.as_mut_ptr().cast(), rounded.scale);
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), rounded.correction);
            *out.add(16) = scales[0];
            *out.add(17) = scales[8];
            for (group, lanes) in lanes.chunks_exact(B::GROUP / 4).enumerate() {
                let sum = if B::HAS_MIN {
                    lanes.iter().map(|bits| f32::from_bits(*bits as u32)).sum::<f32>().to_bits()
                        as i32
                } else {
                    lanes.iter().sum()
                };
                *out.add(18 + group) = sum;
            }
        }
    }
}
