//! Packing: stored rows to f32 tiles, queries to panels, sums to stored rows.
//!
//! Not: masks or arithmetic beyond the scale.

use metallic::tensor::DType;

use crate::cpu::quant::{bf16_bits_to_f32, f16_bits_to_f32};
use crate::cpu::simd::prefetch;
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

/// A storage type, one vector of a row at a time.
pub(super) trait Stored {
    /// Vector `index` of the row at `row`.
    unsafe fn load<V: F32Math>(row: *const u8, index: usize) -> V;

    /// Element `at` of the row at `row`.
    unsafe fn element(row: *const u8, at: usize) -> f32;
}

/// N vectors of the row at `row`, from vector `from` on. A loop and not a closure, which loses the
/// instructions where it is not inlined.
///
/// # Safety
/// The row has these vectors, and `V`'s instructions exist.
#[inline(always)]
pub(super) unsafe fn load_vectors<V: F32Math, S: Stored, const N: usize>(
    row: *const u8,
    from: usize,
) -> [V; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut vectors = [V::splat(0.0); N];
        for (i, vector) in vectors.iter_mut().enumerate() {
            *vector = S::load(row, from + i);
        }
        vectors
    }
}

pub(super) struct F32Rows;
pub(super) struct F16Rows;
pub(super) struct Bf16Rows;
/// Blocks of 32 elements: an f16 scale, then bytes. No vector has more lanes.
pub(super) struct Q8Rows;

impl Stored for F32Rows {
    #[inline(always)]
    unsafe fn load<V: F32Math>(row: *const u8, index: usize) -> V {
        // SAFETY: the caller gives a row with this vector.
        unsafe { V::load(row.add(index * V::LANES * 4).cast()) }
    }
    #[inline(always)]
    unsafe fn element(row: *const u8, at: usize) -> f32 {
        // SAFETY: the caller gives a row with this element.
        unsafe { row.add(at * 4).cast::<f32>().read_unaligned() }
    }
}

impl Stored for F16Rows {
    #[inline(always)]
    unsafe fn load<V: F32Math>(row: *const u8, index: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_f16(row.add(index * V::LANES * 2)) }
    }
    #[inline(always)]
    unsafe fn element(row: *const u8, at: usize) -> f32 {
        // SAFETY: as above.
        f16_bits_to_f32(unsafe { row.add(at * 2).cast::<u16>().read_unaligned() })
    }
}

impl Stored for Bf16Rows {
    #[inline(always)]
    unsafe fn load<V: F32Math>(row: *const u8, index: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_bf16(row.add(index * V::LANES * 2)) }
    }
    #[inline(always)]
    unsafe fn element(row: *const u8, at: usize) -> f32 {
        // SAFETY: as above.
        bf16_bits_to_f32(unsafe { row.add(at * 2).cast::<u16>().read_unaligned() })
    }
}

impl Stored for Q8Rows {
    #[inline(always)]
    unsafe fn load<V: F32Math>(row: *const u8, index: usize) -> V {
        let (block, within) = (index * V::LANES / 32, index * V::LANES % 32);
        // SAFETY: as above.
        unsafe {
            let block = row.add(block * 34);
            let scale = V::splat(f16_bits_to_f32(block.cast::<u16>().read_unaligned()));
            V::load_i8(block.add(2 + within)).mul(scale)
        }
    }
    #[inline(always)]
    unsafe fn element(row: *const u8, at: usize) -> f32 {
        // SAFETY: as above.
        unsafe {
            let block = row.add(at / 32 * 34);
            let scale = f16_bits_to_f32(block.cast::<u16>().read_unaligned());
            f32::from(*block.add(2 + at % 32).cast::<i8>()) * scale
        }
    }
}

/// Decodes rows.
///
/// # Safety
/// `from` and `to` must hold the rows; `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn decode_rows<V: F32Math>(rows: Rows) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows.dtype {
            DType::F16 => decode_stored::<V, F16Rows>(rows, rows.len * 2),
            DType::Bf16 => decode_stored::<V, Bf16Rows>(rows, rows.len * 2),
            DType::Q8_0 => decode_stored::<V, Q8Rows>(rows, rows.len / 32 * 34),
            _ => decode_stored::<V, F32Rows>(rows, rows.len * 4),
        }
    }
}

/// Whole vectors, then single elements, of each row of `bytes` bytes; asks for later rows. No
/// closures: one that is not inlined has no vector instructions.
#[inline(always)]
unsafe fn decode_stored<V: F32Math, S: Stored>(rows: Rows, bytes: usize) {
    let Rows { mut from, mut to, len, .. } = rows;
    for _ in 0..rows.count {
        if rows.ahead > 0 {
            for line in (0..bytes).step_by(64) {
                prefetch(from.wrapping_add(rows.ahead * rows.step + line));
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            for vector in 0..len / V::LANES {
                S::load::<V>(from, vector).store(to.add(vector * V::LANES));
            }
            for at in len / V::LANES * V::LANES..len {
                *to.add(at) = S::element(from, at);
            }
        }
        from = from.wrapping_add(rows.step);
        to = to.wrapping_add(rows.to_stride);
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
