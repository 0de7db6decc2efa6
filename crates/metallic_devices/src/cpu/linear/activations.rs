//! Rows of x as 8-bit codes: what every integer path multiplies with.
//!
//! Each 32 elements share an f32 scale, `max |x| / 127`; codes are rounded to nearest even.
//! Not: Q8_0, whose scale is an f16.

use super::scratch::Scratch;
use crate::cpu::quant::max_abs;
use crate::cpu::simd::{Level, with_level};

/// Elements that share a scale.
pub(super) const BLOCK: usize = 32;

/// The codes of `m` rows of `k` elements.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    /// `[m, k]`, −127 to 127.
    pub codes: &'a [i8],
    /// `[m, k / 32]`.
    pub scales: &'a [f32],
    /// Sums of the codes of each 16 elements: `[m, k / 16]`.
    pub sums: &'a [i32],
    pub k: usize,
}

impl<'a> Activations<'a> {
    /// Rounds `x: [m, k]` into `scratch`.
    pub(super) fn quantize(level: Level, x: &[f32], k: usize, scratch: &'a mut Scratch) -> Self {
        let codes = scratch.a.take::<i8>(x.len());
        let scales = scratch.b.take::<f32>(x.len() / BLOCK);
        let sums = scratch.c.take::<i32>(x.len() / 16);
        with_level(level, || quantize(x, codes, scales, sums));
        Self { codes, scales, sums, k }
    }

    /// Row `row` alone: codes, scales, sums.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> (&'a [i8], &'a [f32], &'a [i32]) {
        let k = self.k;
        (
            &self.codes[row * k..][..k],
            &self.scales[row * (k / BLOCK)..][..k / BLOCK],
            &self.sums[row * (k / 16)..][..k / 16],
        )
    }
}

#[inline(always)]
fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for (((x, codes), scale), sums) in blocks.zip(scales).zip(sums.chunks_exact_mut(2)) {
        *scale = quantize_block(x.try_into().expect("one block"), codes);
        for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(16)) {
            *sum = codes.iter().map(|code| i32::from(*code)).sum();
        }
    }
}

/// Rounds one block to `codes` and returns its scale.
#[inline(always)]
pub(super) fn quantize_block(x: &[f32; BLOCK], codes: &mut [i8]) -> f32 {
    /// Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let scale = max_abs(x) / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse + ROUND).to_bits() as i8;
    }
    scale
}
