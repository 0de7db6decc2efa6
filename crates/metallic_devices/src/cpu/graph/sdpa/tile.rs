//! Packing: stored rows to f32 tiles, queries to panels, sums to stored rows.
//!
//! Not: masks or arithmetic beyond the scale.

use metallic::tensor::DType;

use crate::cpu::quant::{bf16_bits_to_f32, f16_bits_to_f32};
use crate::cpu::vector_math::F32Math;

/// Decodes `len` elements of type `dtype`.
///
/// # Safety
/// `from` must hold a row of `len` elements (whole blocks of q8_0), `to` room for as many floats;
/// `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn decode_row<V: F32Math>(
    dtype: DType,
    from: *const u8,
    len: usize,
    to: *mut f32,
) {
    // SAFETY: the caller's promise; q8_0 has a scale and 32 bytes in each 34.
    unsafe {
        match dtype {
            DType::F16 => convert::<V, 2>(
                len,
                from,
                to,
                |at| V::load_f16(at),
                |at| f16_bits_to_f32(at.cast::<u16>().read_unaligned()),
            ),
            DType::Bf16 => convert::<V, 2>(
                len,
                from,
                to,
                |at| V::load_bf16(at),
                |at| bf16_bits_to_f32(at.cast::<u16>().read_unaligned()),
            ),
            DType::Q8_0 => {
                for block in 0..len / 32 {
                    let from = from.add(block * 34);
                    let scale = f16_bits_to_f32(from.cast::<u16>().read_unaligned());
                    for at in (0..32).step_by(V::LANES) {
                        let codes = V::load_i8(from.add(2 + at));
                        codes.mul(V::splat(scale)).store(to.add(block * 32 + at));
                    }
                }
            }
            _ => convert::<V, 4>(
                len,
                from,
                to,
                |at| V::load(at.cast()),
                |at| at.cast::<f32>().read_unaligned(),
            ),
        }
    }
}

/// Whole vectors, then single elements, of `BYTES` stored bytes each.
#[inline(always)]
unsafe fn convert<V: F32Math, const BYTES: usize>(
    len: usize,
    from: *const u8,
    to: *mut f32,
    vector: impl Fn(*const u8) -> V,
    element: impl Fn(*const u8) -> f32,
) {
    let whole = len / V::LANES * V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        for at in (0..whole).step_by(V::LANES) {
            vector(from.add(at * BYTES)).store(to.add(at));
        }
        for at in whole..len {
            *to.add(at) = element(from.add(at * BYTES));
        }
    }
}

/// Whether `len` floats, a multiple of the lanes, are all finite.
///
/// # Safety
/// `from` must hold `len` floats; `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn all_finite<V: F32Math>(from: *const f32, len: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        let mut found = [zero; 4];
        let mut at = 0;
        while at < len {
            // 0 · x is 0 unless x is NaN or infinite, and then NaN stays.
            for found in &mut found {
                if at < len {
                    *found = V::load(from.add(at)).fma(zero, *found);
                    at += V::LANES;
                }
            }
        }
        found[0].add(found[1]).add(found[2].add(found[3])).all_zero()
    }
}
