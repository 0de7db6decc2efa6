//! Rows of x as 8-bit codes, laid out for the kernels of this folder.
//!
//! The numbers are those of `../activations.rs`: f32 scale per 32 elements, codes rounded to nearest
//! even. Each block of 32 stands together with all that its kernel multiplies by.

use crate::cpu::linear::activations::quantize_block;
use crate::cpu::quant::Block;

/// Words of one block for decoding: 8 of codes, scale of each lane, correction of each lane.
pub(super) const LANE_WORDS: usize = 24;
/// Words of one block for prefill: 8 of codes, the scale, corrections of 1 or 2 groups.
pub(super) const GROUP_WORDS: usize = 12;

/// Codes, scale, and for each four codes what the format's offset or minimum adds to a product:
/// −offset · Σ codes, or the bits of scale · Σ codes.
#[inline(always)]
fn round<B: Block>(x: &[f32; 32]) -> ([i32; 8], f32, [i32; 8]) {
    let mut codes = [0i8; 32];
    let scale = quantize_block(x, &mut codes);
    let mut sums = [0i32; 8];
    for (sum, codes) in sums.iter_mut().zip(codes.chunks_exact(4)) {
        *sum = codes.iter().map(|code| i32::from(*code)).sum();
    }
    (bytemuck::cast(codes), scale, sums)
}

/// What sums of codes are corrected by, as words.
#[inline(always)]
fn correction<B: Block>(scale: f32, sum: i32) -> i32 {
    match (B::HAS_MIN, B::OFFSET) {
        (true, _) => (scale * sum as f32).to_bits() as i32,
        // Codes are signed there.
        (_, 128) => 0,
        (_, offset) => -i32::from(offset) * sum,
    }
}

/// One row in blocks of [`LANE_WORDS`].
#[inline(always)]
pub(super) fn round_lanes<B: Block>(x: &[f32], out: &mut [i32]) {
    for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(LANE_WORDS)) {
        let (codes, scale, sums) = round::<B>(x.try_into().expect("one block"));
        out[..8].copy_from_slice(&codes);
        out[8..16].fill(scale.to_bits() as i32);
        for (out, sum) in out[16..].iter_mut().zip(sums) {
            *out = correction::<B>(scale, sum);
        }
    }
}

/// One row in blocks of [`GROUP_WORDS`].
#[inline(always)]
pub(super) fn round_groups<B: Block>(x: &[f32], out: &mut [i32]) {
    for (x, out) in x.chunks_exact(32).zip(out.chunks_exact_mut(GROUP_WORDS)) {
        let (codes, scale, sums) = round::<B>(x.try_into().expect("one block"));
        out[..8].copy_from_slice(&codes);
        out[8] = scale.to_bits() as i32;
        for (out, sums) in out[9..].iter_mut().zip(sums.chunks_exact(B::GROUP / 4)) {
            *out = correction::<B>(scale, sums.iter().sum());
        }
    }
}
