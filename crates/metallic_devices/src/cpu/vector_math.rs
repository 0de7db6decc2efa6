//! What attention needs of a vector besides products: maxima, e^x, conversions while loading.
//!
//! Extends [`F32Lanes`] for the same types. Not: a general SIMD library.

use super::exp::exp;
use super::quant::{bf16_bits_to_f32, f16_bits_to_f32};
use super::vector::{F32Lanes, Plain};

/// More operations on [`F32Lanes`].
///
/// # Safety
/// As [`F32Lanes`]: methods may only run where the type's instructions exist.
pub(crate) unsafe trait F32Math: F32Lanes {
    /// `self + b`.
    unsafe fn add(self, b: Self) -> Self;
    /// `self - b`.
    unsafe fn sub(self, b: Self) -> Self;
    /// `self * b`.
    unsafe fn mul(self, b: Self) -> Self;
    /// The larger of `self`, which is a number, and `b`; `self` where `b` is NaN.
    unsafe fn max_number(self, b: Self) -> Self;
    /// e^self.
    unsafe fn exp(self) -> Self;
    /// True when every lane is 0.
    unsafe fn all_zero(self) -> bool;
    /// The largest lane; lanes that are NaN do not count.
    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: no vector has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let halves = |lanes: &mut [f32], half: usize| {
            for i in 0..half {
                lanes[i] = lanes[i].max(lanes[i + half]);
            }
        };
        [8, 4, 2, 1].into_iter().for_each(|half| halves(&mut lanes, half));
        lanes[0]
    }
    /// The sum of all lanes.
    #[inline(always)]
    unsafe fn sum_lanes(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { Self::sum4([self; 4])[0] }
    }
    /// `LANES` f16 values from any alignment.
    unsafe fn load_f16(from: *const u8) -> Self;
    /// `LANES` bf16 values from any alignment.
    unsafe fn load_bf16(from: *const u8) -> Self;
    /// `LANES` signed bytes.
    unsafe fn load_i8(from: *const u8) -> Self;
}

/// What has no instruction: four lanes one by one, by way of arrays.
macro_rules! four_lanes {
    () => {
        #[inline(always)]
        unsafe fn exp(self) -> Self {
            let mut lanes = [0.0; 4];
            // SAFETY: the arrays have four floats.
            unsafe {
                self.store(lanes.as_mut_ptr());
                Self::load(lanes.map(exp).as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn all_zero(self) -> bool {
            let mut lanes = [1.0; 4];
            // SAFETY: the array has four floats.
            unsafe { self.store(lanes.as_mut_ptr()) };
            lanes == [0.0; 4]
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Self {
            // SAFETY: the caller gives four readable elements; the array has four floats.
            unsafe {
                let bits = from.cast::<[u16; 4]>().read_unaligned();
                Self::load(bits.map(f16_bits_to_f32).as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Self {
            // SAFETY: as above.
            unsafe {
                let bits = from.cast::<[u16; 4]>().read_unaligned();
                Self::load(bits.map(bf16_bits_to_f32).as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Self {
            // SAFETY: as above.
            unsafe { Self::load(from.cast::<[i8; 4]>().read_unaligned().map(f32::from).as_ptr()) }
        }
    };
}

// SAFETY: plain Rust.
unsafe impl F32Math for Plain {
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn max_number(self, b: Self) -> Self {
        self.zip(b, |a, b| if b > a { b } else { a })
    }
    four_lanes!();
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::F32Math;
    use crate::cpu::exp::{exp_avx2, exp_avx512};
    use std::arch::x86_64::*;

    // SAFETY: the methods need AVX-512 F, BW, DQ and VL, as the trait says.
    unsafe impl F32Math for __m512 {
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max_number(self, b: Self) -> Self {
            // With a NaN, max returns its second operand.
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_max_ps(b, self) }
        }
        #[inline(always)]
        unsafe fn exp(self) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { exp_avx512(self) }
        }
        #[inline(always)]
        unsafe fn all_zero(self) -> bool {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self, _mm512_setzero_ps()) == 0xffff }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Self {
            // SAFETY: the caller has AVX-512 and gives 16 readable elements.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Self {
            // SAFETY: as above.
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }
    }

    // SAFETY: the methods need AVX2, FMA and F16C, as the trait says.
    unsafe impl F32Math for __m256 {
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_sub_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_mul_ps(self, b) }
        }
        #[inline(always)]
        unsafe fn max_number(self, b: Self) -> Self {
            // With a NaN, max returns its second operand.
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_max_ps(b, self) }
        }
        #[inline(always)]
        unsafe fn exp(self) -> Self {
            // SAFETY: the caller has AVX2 and FMA.
            unsafe { exp_avx2(self) }
        }
        #[inline(always)]
        unsafe fn all_zero(self) -> bool {
            // SAFETY: the caller has AVX2.
            unsafe {
                let equal = _mm256_cmp_ps::<_CMP_EQ_OQ>(self, _mm256_setzero_ps());
                _mm256_movemask_ps(equal) == 0xff
            }
        }
        #[inline(always)]
        unsafe fn load_f16(from: *const u8) -> Self {
            // SAFETY: the caller has F16C and gives 8 readable elements.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u8) -> Self {
            // SAFETY: the caller has AVX2 and gives 8 readable elements.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn load_i8(from: *const u8) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::*;
    use std::arch::aarch64::*;

    // SAFETY: every aarch64 machine has NEON.
    unsafe impl F32Math for float32x4_t {
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vaddq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn sub(self, b: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vsubq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vmulq_f32(self, b) }
        }
        #[inline(always)]
        unsafe fn max_number(self, b: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vmaxnmq_f32(self, b) }
        }
        four_lanes!();
    }
}
