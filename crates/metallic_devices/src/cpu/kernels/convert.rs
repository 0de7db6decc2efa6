//! Rows from f32 to a stored type and back, and copies of rows between strides.
//!
//! Stored types to write: f32, f16, bf16 (rounded to nearest even) and Q8_0. Reading takes every
//! type. Versions: F16C 8 at a time, the rest plain loops that vectorise.

use metallic::tensor::DType;

use crate::cpu::quant::{dequantize_row_at, quantize_row_q8_0};
use crate::cpu::simd::{Level, with_level};

/// Encodes one row of f32 as `dtype`: f32, f16, bf16 or Q8_0.
///
/// # Panics
/// When `out` is not the bytes of a row of `x.len()` elements, or `dtype` cannot be written.
pub fn encode_row(level: Level, dtype: DType, x: &[f32], out: &mut [u8]) {
    assert_eq!(dtype.row_bytes(x.len()), Some(out.len()), "row of {dtype}");
    match dtype {
        DType::F32 => {
            for (out, x) in out.chunks_exact_mut(4).zip(x) {
                out.copy_from_slice(&x.to_le_bytes());
            }
        }
        DType::F16 => encode_f16(level, x, out),
        DType::Bf16 => with_level(level, || {
            for (out, x) in out.chunks_exact_mut(2).zip(x) {
                out.copy_from_slice(&bf16_bits(*x).to_le_bytes());
            }
        }),
        DType::Q8_0 => quantize_row_q8_0(level, x, out),
        other => panic!("{other} cannot be written"),
    }
}

#[inline(always)]
fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN keeps its upper bits and becomes quiet.
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

fn encode_f16(level: Level, x: &[f32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    let done = if level.usable() >= Level::Avx2 {
        // SAFETY: the machine has F16C, and `out` has two bytes for each element.
        unsafe { encode_f16c(x, out) }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = {
        let _ = level;
        0
    };
    for (out, x) in out[2 * done..].chunks_exact_mut(2).zip(&x[done..]) {
        out.copy_from_slice(&half::f16::from_f32(*x).to_le_bytes());
    }
}

/// Encodes whole groups of 8 and returns how many elements that were.
///
/// # Safety
/// The machine must have F16C, and `out` two bytes for each element.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
unsafe fn encode_f16c(x: &[f32], out: &mut [u8]) -> usize {
    use std::arch::x86_64::*;
    for (out, x) in out.chunks_exact_mut(16).zip(x.chunks_exact(8)) {
        // SAFETY: the chunks have 8 floats and 16 bytes.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    }
    x.len() / 8 * 8
}

/// How many rows, how wide, and how far apart on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// From one source row to the next: elements of f32, bytes of a stored type.
    pub from_stride: usize,
    /// From one destination row to the next: elements of f32, bytes of a stored type.
    pub to_stride: usize,
}

/// Encodes rows of f32 into rows of `dtype`; see [`encode_row`].
///
/// # Panics
/// As [`encode_row`], and when a row lies outside its slice.
pub fn encode_rows(level: Level, dtype: DType, rows: Rows, from: &[f32], to: &mut [u8]) {
    let bytes = dtype.row_bytes(rows.cols).expect("whole blocks");
    for row in 0..rows.rows {
        let from = &from[row * rows.from_stride..][..rows.cols];
        encode_row(level, dtype, from, &mut to[row * rows.to_stride..][..bytes]);
    }
}

/// Decodes rows of `dtype` into rows of f32; see [`dequantize_row_at`].
///
/// # Panics
/// As [`dequantize_row_at`], and when a row lies outside its slice.
pub fn decode_rows(level: Level, dtype: DType, rows: Rows, from: &[u8], to: &mut [f32]) {
    let bytes = dtype.row_bytes(rows.cols).expect("whole blocks");
    for row in 0..rows.rows {
        let from = &from[row * rows.from_stride..][..bytes];
        dequantize_row_at(level, dtype, from, &mut to[row * rows.to_stride..][..rows.cols]);
    }
}

/// Copies rows of `rows.cols` elements of any type; both strides in elements.
///
/// # Panics
/// When a row lies outside its slice.
pub fn copy_rows<T: Copy>(rows: Rows, from: &[T], to: &mut [T]) {
    for row in 0..rows.rows {
        let from = &from[row * rows.from_stride..][..rows.cols];
        to[row * rows.to_stride..][..rows.cols].copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    #[test]
    fn halves_round_as_the_half_crate_does() {
        let mut x = gaussian(1, 1003);
        x[..8].copy_from_slice(&[0.0, -0.0, 1e-8, 65519.9, 65520.0, 1e30, f32::INFINITY, 2049.0]);
        x[9] = f32::NAN;
        for level in Level::available() {
            let mut f16 = vec![0; 2006];
            let mut bf16 = f16.clone();
            encode_row(level, DType::F16, &x, &mut f16);
            encode_row(level, DType::Bf16, &x, &mut bf16);
            for (i, x) in x.iter().enumerate() {
                let bits = |bytes: &[u8]| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
                assert_eq!(bits(&f16), half::f16::from_f32(*x).to_bits(), "{x}");
                assert_eq!(bits(&bf16), half::bf16::from_f32(*x).to_bits(), "{x}");
            }
        }
    }

    #[test]
    fn strided_rows_round_trip() {
        let x = gaussian(2, 3 * 40);
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
            let bytes = dtype.row_bytes(32).unwrap();
            let there = Rows { rows: 3, cols: 32, from_stride: 40, to_stride: bytes + 6 };
            let back = Rows { rows: 3, cols: 32, from_stride: bytes + 6, to_stride: 33 };
            let mut stored = vec![0xee; 3 * (bytes + 6)];
            let mut y = vec![9.0; 3 * 33];
            encode_rows(Level::detect(), dtype, there, &x, &mut stored);
            decode_rows(Level::detect(), dtype, back, &stored, &mut y);
            for row in 0..3 {
                assert_eq!(stored[row * (bytes + 6) + bytes..][..6], [0xee; 6]);
                assert_eq!(y[row * 33 + 32], 9.0);
                for col in 0..32 {
                    assert!((y[row * 33 + col] - x[row * 40 + col]).abs() < 0.03, "{dtype}");
                }
            }
        }
        let mut to = [0; 5];
        copy_rows(
            Rows { rows: 2, cols: 2, from_stride: 3, to_stride: 2 },
            &[1, 2, 3, 4, 5],
            &mut to,
        );
        assert_eq!(to, [1, 2, 4, 5, 0]);
    }
}
