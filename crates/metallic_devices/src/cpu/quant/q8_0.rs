//! Encoding f32 to Q8_0, for KV caches. Not: the activations of integer products, which keep
//! f32 scales (`linear/activations.rs`).

use crate::cpu::simd::{Level, with_level};

/// Encodes `x` as Q8_0 blocks of 32 elements: `scale = max |x| / 127`, codes rounded half away
/// from zero, as ggml's reference does.
///
/// # Panics
/// When `x` is not a whole number of blocks, or `out` is not 34 bytes for each.
pub fn quantize_row_q8_0(level: Level, x: &[f32], out: &mut [u8]) {
    assert!(x.len().is_multiple_of(32), "{} elements are not whole blocks", x.len());
    assert_eq!(out.len(), x.len() / 32 * 34, "bytes of a q8_0 row");
    with_level(level, || encode(x, out));
}

#[inline(always)]
fn encode(x: &[f32], out: &mut [u8]) {
    for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(34)) {
        let x: &[f32; 32] = x.try_into().expect("one block");
        let (scale_bytes, codes) = out.split_at_mut(2);
        let scale = max_abs(x) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        scale_bytes.copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (x * inverse).round() as i32 as i8 as u8;
        }
    }
}

/// The largest magnitude, in eight lanes so that it vectorises.
#[inline(always)]
pub(crate) fn max_abs(x: &[f32; 32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in x.chunks_exact(8) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}
