//! Packing: stored rows to f32 tiles, queries to panels, sums to stored rows.
//!
//! Not: masks or arithmetic beyond the scale.

use metallic::tensor::DType;

use crate::cpu::quant::{bf16_bits_to_f32, f16_bits_to_f32};
use crate::cpu::vector_math::F32Math;

/// Stored rows to decode.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub dtype: DType,
    /// The first row.
    pub from: *const u8,
    /// Bytes from one stored row to the next.
    pub step: usize,
    pub count: usize,
    /// Elements of a row, whole blocks of q8_0.
    pub len: usize,
    pub to: *mut f32,
    /// Elements from one decoded row to the next.
    pub to_stride: usize,
    /// How many rows ahead to ask for; 0 for none.
    pub ahead: usize,
}

/// Decodes rows.
///
/// # Safety
/// `from` and `to` must hold the rows; `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn decode_rows<V: F32Math>(rows: Rows) {
    let len = rows.len;
    // SAFETY: the caller's promise; q8_0 has a scale and 32 bytes in each 34.
    unsafe {
        match rows.dtype {
            DType::F16 => each_row::<V>(rows, len * 2, |from, to| {
                convert::<V, 2>(
                    len,
                    from,
                    to,
                    |at| V::load_f16(at),
                    |at| f16_bits_to_f32(at.cast::<u16>().read_unaligned()),
                );
            }),
            DType::Bf16 => each_row::<V>(rows, len * 2, |from, to| {
                convert::<V, 2>(
                    len,
                    from,
                    to,
                    |at| V::load_bf16(at),
                    |at| bf16_bits_to_f32(at.cast::<u16>().read_unaligned()),
                );
            }),
            DType::Q8_0 => each_row::<V>(rows, len / 32 * 34, |from, to| {
                for block in 0..len / 32 {
                    let from = from.add(block * 34);
                    let scale = V::splat(f16_bits_to_f32(from.cast::<u16>().read_unaligned()));
                    for at in (0..32).step_by(V::LANES) {
                        V::load_i8(from.add(2 + at)).mul(scale).store(to.add(block * 32 + at));
                    }
                }
            }),
            _ => each_row::<V>(rows, len * 4, |from, to| {
                convert::<V, 4>(
                    len,
                    from,
                    to,
                    |at| V::load(at.cast()),
                    |at| at.cast::<f32>().read_unaligned(),
                );
            }),
        }
    }
}

/// Calls `decode(from, to)` for each row and asks for later ones. The caller holds the promise of
/// [`decode_rows`].
#[inline(always)]
fn each_row<V: F32Math>(rows: Rows, bytes: usize, decode: impl Fn(*const u8, *mut f32)) {
    let (mut from, mut to) = (rows.from, rows.to);
    for _ in 0..rows.count {
        if rows.ahead > 0 {
            for line in (0..bytes).step_by(64) {
                V::prefetch(from.wrapping_add(rows.ahead * rows.step + line));
            }
        }
        decode(from, to);
        from = from.wrapping_add(rows.step);
        to = to.wrapping_add(rows.to_stride);
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
