//! [`Lanes`] on NEON, with the 8-bit dot product of Armv8.2 and without it.
//!
//! Codes are below 128, so signed products serve all formats. Without the dot product, products are
//! taken in 16 bits and neighbours added, as often as two of them fit.

use std::arch::aarch64::*;

use super::lanes::Lanes;

/// How products of signed bytes are summed.
pub(super) trait Dot {
    /// Adds four sums of four products to `sum`.
    unsafe fn add_products(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

/// NEON as every 64-bit Arm machine has it.
pub(super) struct Neon;
/// NEON with `sdot`.
pub(super) struct NeonDot;

impl Dot for Neon {
    #[inline(always)]
    unsafe fn add_products(sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: NEON is always there. 128 · 127 · 2 fits 16 bits.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
}

impl Dot for NeonDot {
    #[inline(always)]
    unsafe fn add_products(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // The intrinsic is not stable yet.
        // SAFETY: the caller has the dot product; registers alone are touched.
        unsafe {
            std::arch::asm!(
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) sum, in(vreg) w, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}

type Halves<T> = [T; 2];

// SAFETY: NEON is always there, and `Dot` says what else is needed; reads and writes are those
// of the trait.
unsafe impl<D: Dot> Lanes for D {
    type Bytes = Halves<uint8x16_t>;
    type Ints = Halves<int32x4_t>;
    type Floats = Halves<float32x4_t>;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 32 bytes.
        unsafe { [vld1q_u8(from), vld1q_u8(from.add(16))] }
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> Self::Bytes {
        // SAFETY: the caller gives 16 bytes.
        unsafe {
            let bytes = vld1q_u8(from);
            [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn field<const SHIFT: i32>([a, b]: Self::Bytes, mask: u8) -> Self::Bytes {
        // A shift left by a negative number is one right; an immediate may not be 0.
        // SAFETY: NEON is always there.
        unsafe {
            let (by, mask) = (vdupq_n_s8(-(SHIFT as i8)), vdupq_n_u8(mask));
            [vandq_u8(vshlq_u8(a, by), mask), vandq_u8(vshlq_u8(b, by), mask)]
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        // SAFETY: NEON is always there.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn times_16([a, b]: Self::Bytes) -> Self::Bytes {
        // SAFETY: NEON is always there.
        unsafe { [vshlq_n_u8::<4>(a), vshlq_n_u8::<4>(b)] }
    }
    #[inline(always)]
    unsafe fn where_set([a, b]: Self::Bytes, bit: u8, value: u8) -> Self::Bytes {
        // SAFETY: NEON is always there.
        unsafe {
            let (bit, value) = (vdupq_n_u8(bit), vdupq_n_u8(value));
            [vandq_u8(vtstq_u8(a, bit), value), vandq_u8(vtstq_u8(b, bit), value)]
        }
    }
    #[inline(always)]
    unsafe fn where_bit(from: *const u8, value: u8) -> Self::Bytes {
        // SAFETY: the caller gives four bytes.
        unsafe {
            let bit = vcreate_u8(0x8040_2010_0804_0201);
            let (bit, value) = (vcombine_u8(bit, bit), vdupq_n_u8(value));
            let byte = |at: usize| vdup_n_u8(*from.add(at));
            let (a, b) = (vcombine_u8(byte(0), byte(1)), vcombine_u8(byte(2), byte(3)));
            [vandq_u8(vtstq_u8(a, bit), value), vandq_u8(vtstq_u8(b, bit), value)]
        }
    }
    #[inline(always)]
    unsafe fn look_up(table: &[i8; 16], [a, b]: Self::Bytes) -> Self::Bytes {
        // SAFETY: the table has 16 bytes.
        unsafe {
            let table = vld1q_u8(table.as_ptr().cast());
            [vqtbl1q_u8(table, a), vqtbl1q_u8(table, b)]
        }
    }
    #[inline(always)]
    unsafe fn store([a, b]: Self::Bytes, to: *mut u8) {
        // SAFETY: the caller gives room for 32 bytes.
        unsafe {
            vst1q_u8(to, a);
            vst1q_u8(to.add(16), b);
        }
    }

    #[inline(always)]
    unsafe fn dot<const SIGNED: bool>(w: Self::Bytes, x: Self::Bytes) -> Self::Ints {
        // SAFETY: the caller has the instructions.
        unsafe {
            let zero = vdupq_n_s32(0);
            let signed = |half: uint8x16_t| vreinterpretq_s8_u8(half);
            [
                D::add_products(zero, signed(w[0]), signed(x[0])),
                D::add_products(zero, signed(w[1]), signed(x[1])),
            ]
        }
    }
    #[inline(always)]
    unsafe fn quads<const SIGNED: bool, const MAX: i32, const M: usize, const P: usize>(
        (mut w, w_panel): (*const u8, usize),
        (mut x, x_row): (*const i32, usize),
        quads: usize,
    ) -> [[Self::Ints; P]; M] {
        // SAFETY: the caller gives `quads` vectors of each panel and as many words of each row.
        unsafe {
            let mut sums = [[[vdupq_n_s32(0); 2]; P]; M];
            for _ in 0..quads {
                let mut codes = [[vdupq_n_s8(0); 2]; P];
                for (p, codes) in codes.iter_mut().enumerate() {
                    let w = w.add(p * w_panel).cast();
                    *codes = [vld1q_s8(w), vld1q_s8(w.add(16))];
                }
                for (m, sums) in sums.iter_mut().enumerate() {
                    let four = vreinterpretq_s8_s32(vdupq_n_s32(*x.add(m * x_row)));
                    for (sum, codes) in sums.iter_mut().zip(codes) {
                        sum[0] = D::add_products(sum[0], codes[0], four);
                        sum[1] = D::add_products(sum[1], codes[1], four);
                    }
                }
                (w, x) = (w.add(32), x.add(1));
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn load_ints(from: *const i32) -> Self::Ints {
        // SAFETY: the caller gives eight integers.
        unsafe { [vld1q_s32(from), vld1q_s32(from.add(4))] }
    }
    #[inline(always)]
    unsafe fn add_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: NEON is always there.
        unsafe { [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn splat_int(value: i32) -> Self::Ints {
        // SAFETY: NEON is always there.
        unsafe { [vdupq_n_s32(value); 2] }
    }
    #[inline(always)]
    unsafe fn to_floats([a, b]: Self::Ints) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe { [vcvtq_f32_s32(a), vcvtq_f32_s32(b)] }
    }

    #[inline(always)]
    unsafe fn load_floats(from: *const f32) -> Self::Floats {
        // SAFETY: the caller gives eight floats.
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }
    #[inline(always)]
    unsafe fn store_floats([a, b]: Self::Floats, to: *mut f32) {
        // SAFETY: the caller gives room for eight floats.
        unsafe {
            vst1q_f32(to, a);
            vst1q_f32(to.add(4), b);
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe { [vdupq_n_f32(value); 2] }
    }
    #[inline(always)]
    unsafe fn splat_half(from: *const u8) -> Self::Floats {
        // SAFETY: the caller gives two bytes.
        unsafe {
            let bits = vdup_n_u16(from.cast::<u16>().read_unaligned());
            [vcvt_f32_f16(vreinterpret_f16_u16(bits)); 2]
        }
    }
    #[inline(always)]
    unsafe fn pair(from: *const f32) -> Self::Floats {
        // SAFETY: the caller gives two floats.
        unsafe { [vdupq_n_f32(*from), vdupq_n_f32(*from.add(1))] }
    }
    #[inline(always)]
    unsafe fn bytes_to_floats(from: u64) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe {
            let wide = vmovl_u8(vcreate_u8(from));
            [vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide))), vcvtq_f32_u32(vmovl_high_u16(wide))]
        }
    }
    #[inline(always)]
    unsafe fn signed_to_floats(from: u64) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe {
            let wide = vmovl_s8(vcreate_s8(from));
            [vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))]
        }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: NEON is always there.
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sum([a, b]: Self::Floats) -> f32 {
        // SAFETY: NEON is always there.
        unsafe { vaddvq_f32(vaddq_f32(a, b)) }
    }
}
