//! [`Lanes`] on AVX2 with FMA and F16C.
//!
//! 8-bit products are `maddubs`: pairs of unsigned by signed bytes, summed in 16 bits, which saturate
//! at 32767. Signed weights are multiplied as magnitudes by x with their signs (128 · 127 · 2 is
//! 32512); small codes leave room for several sums before 16 bits become 32.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// AVX2.
pub(super) struct Avx2;

/// Sums of pairs as sums of four.
#[inline(always)]
unsafe fn widen(pairs: __m256i) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) }
}

// SAFETY: the functions need AVX2, FMA and F16C, and read and write what the trait says.
unsafe impl Lanes for Avx2 {
    type Bytes = __m256i;
    type Ints = __m256i;
    type Floats = __m256;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m256i {
        // SAFETY: the caller gives 32 bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> __m256i {
        // SAFETY: the caller gives 16 bytes.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
            _mm256_and_si256(both, _mm256_set1_epi8(15))
        }
    }
    #[inline(always)]
    unsafe fn field<const SHIFT: i32>(bytes: __m256i, mask: u8) -> __m256i {
        // The mask takes off what comes in from the next byte.
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(bytes), _mm256_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn times_16(bytes: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_slli_epi16::<4>(bytes) }
    }
    #[inline(always)]
    unsafe fn where_set(bytes: __m256i, bit: u8, value: u8) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let bit = _mm256_set1_epi8(bit as i8);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
            _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
        }
    }
    #[inline(always)]
    unsafe fn where_bit(from: *const u8, value: u8) -> __m256i {
        // SAFETY: the caller gives four bytes.
        unsafe {
            let bits = _mm256_set1_epi32(from.cast::<i32>().read_unaligned());
            let byte = _mm256_setr_epi64x(
                0,
                0x0101_0101_0101_0101,
                0x0202_0202_0202_0202,
                0x0303_0303_0303_0303,
            );
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let found = _mm256_and_si256(_mm256_shuffle_epi8(bits, byte), bit);
            let set = _mm256_cmpeq_epi8(found, bit);
            _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
        }
    }
    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], bytes: __m256i) -> __m256i {
        // SAFETY: the table has 16 bytes.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, bytes)
        }
    }
    #[inline(always)]
    unsafe fn store(bytes: __m256i, to: *mut u8) {
        // SAFETY: the caller gives room for 32 bytes.
        unsafe { _mm256_storeu_si256(to.cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn dot<const SIGNED: bool>(w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            if SIGNED {
                widen(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)))
            } else {
                widen(_mm256_maddubs_epi16(w, x))
            }
        }
    }
    #[inline(always)]
    unsafe fn quads<const SIGNED: bool, const MAX: i32, const M: usize, const P: usize>(
        (mut w, w_panel): (*const u8, usize),
        (mut x, x_row): (*const i32, usize),
        mut quads: usize,
    ) -> [[__m256i; P]; M] {
        // SAFETY: the caller gives `quads` vectors of each panel and as many words of each row.
        unsafe {
            let zero = _mm256_setzero_si256();
            let mut sums = [[zero; P]; M];
            while quads > 0 {
                // As many as 16 bits hold.
                let some = quads.min((32767 / (2 * 127 * MAX)) as usize);
                let mut pairs = [[zero; P]; M];
                for _ in 0..some {
                    let mut codes = [zero; P];
                    for (p, codes) in codes.iter_mut().enumerate() {
                        *codes = _mm256_loadu_si256(w.add(p * w_panel).cast());
                    }
                    for (m, pairs) in pairs.iter_mut().enumerate() {
                        let four = _mm256_set1_epi32(*x.add(m * x_row));
                        for (pair, codes) in pairs.iter_mut().zip(codes) {
                            let product = if SIGNED {
                                let signed = _mm256_sign_epi8(four, codes);
                                _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signed)
                            } else {
                                _mm256_maddubs_epi16(codes, four)
                            };
                            *pair = _mm256_add_epi16(*pair, product);
                        }
                    }
                    (w, x) = (w.add(32), x.add(1));
                }
                for (sums, pairs) in sums.iter_mut().zip(pairs) {
                    for (sum, pairs) in sums.iter_mut().zip(pairs) {
                        *sum = _mm256_add_epi32(*sum, widen(pairs));
                    }
                }
                quads -= some;
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn load_ints(from: *const i32) -> __m256i {
        // SAFETY: the caller gives eight integers.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add_ints(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: __m256i) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    unsafe fn load_floats(from: *const f32) -> __m256 {
        // SAFETY: the caller gives eight floats.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_floats(floats: __m256, to: *mut f32) {
        // SAFETY: the caller gives room for eight floats.
        unsafe { _mm256_storeu_ps(to, floats) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn splat_half(from: *const u8) -> __m256 {
        // SAFETY: the caller gives two bytes.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(from.cast::<i16>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn pair(from: *const f32) -> __m256 {
        // SAFETY: the caller gives two floats.
        unsafe { _mm256_blend_ps::<0xf0>(_mm256_set1_ps(*from), _mm256_set1_ps(*from.add(1))) }
    }
    #[inline(always)]
    unsafe fn bytes_to_floats(from: u64) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_set1_epi64x(from as i64))) }
    }
    #[inline(always)]
    unsafe fn signed_to_floats(from: u64) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_set1_epi64x(from as i64))) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller has FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn sum(floats: __m256) -> f32 {
        // SAFETY: the caller has AVX2.
        unsafe {
            let four =
                _mm_add_ps(_mm256_castps256_ps128(floats), _mm256_extractf128_ps::<1>(floats));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
