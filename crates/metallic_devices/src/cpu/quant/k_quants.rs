//! The formats of 256 elements with scales of their own quantisation: Q2_K to Q6_K.
//!
//! Each spreads its low bits over chunks so that one mask and shift of a run of bytes gives
//! consecutive elements. `g` counts groups, `c` chunks of 64 and `h` halves of 128 elements.

use super::block::Block;
use super::legacy_quants::f16_at;

/// 16 bytes of 4-bit scales (low) and minimums (high), 64 bytes of 2-bit codes, f16 scale, f16
/// minimum.
pub(crate) struct Q2K;

impl Block for Q2K {
    const LEN: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const OFFSET: u8 = 0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]) {
        let block: &[u8; 84] = block.try_into().expect("one block");
        let (d, d_min) = (f16_at(block, 80), f16_at(block, 82));
        for g in 0..16 {
            scale[g] = d * f32::from(block[g] & 15);
            min[g] = -(d_min * f32::from(block[g] >> 4));
        }
        for (i, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let (h, shift) = (i / 4, 2 * (i % 4));
            for (code, byte) in codes.iter_mut().zip(&block[16 + 32 * h..48 + 32 * h]) {
                *code = byte >> shift & 3;
            }
        }
    }
}

/// 32 bytes of third bits, 64 bytes of 2-bit codes, 12 bytes of 6-bit scales, f16 scale.
pub(crate) struct Q3K;

impl Block for Q3K {
    const LEN: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const OFFSET: u8 = 4;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 110] = block.try_into().expect("one block");
        let d = f16_at(block, 108);
        let packed = &block[96..108];
        for (g, scale) in scale[..16].iter_mut().enumerate() {
            let low = packed[g % 8] >> (4 * (g / 8)) & 15;
            let high = packed[8 + g % 4] >> (2 * (g / 4)) & 3;
            *scale = d * (i32::from(low | high << 4) - 32) as f32;
        }
        for (i, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let (h, shift) = (i / 4, 2 * (i % 4));
            let low = &block[32 + 32 * h..64 + 32 * h];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(&block[..32]) {
                *code = (low >> shift & 3) | (high >> i & 1) << 2;
            }
        }
    }
}

/// The eight 6-bit scales and eight 6-bit minimums of Q4_K and Q5_K, from their 12 bytes.
#[inline(always)]
pub(crate) fn scales_and_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for g in 0..4 {
        scales[g] = packed[g] & 63;
        mins[g] = packed[g + 4] & 63;
        scales[g + 4] = (packed[g + 8] & 15) | (packed[g] >> 6) << 4;
        mins[g + 4] = (packed[g + 8] >> 4) | (packed[g + 4] >> 6) << 4;
    }
    (scales, mins)
}

#[inline(always)]
fn scale_groups(block: &[u8], scale: &mut [f32], min: &mut [f32]) {
    let (d, d_min) = (f16_at(block, 0), f16_at(block, 2));
    let packed: &[u8; 12] = block[4..16].try_into().expect("12 bytes");
    let (scales, mins) = scales_and_mins(packed);
    for g in 0..8 {
        scale[g] = d * f32::from(scales[g]);
        min[g] = -(d_min * f32::from(mins[g]));
    }
}

/// f16 scale, f16 minimum, 12 bytes of 6-bit scales and minimums, 128 bytes of 4-bit codes.
pub(crate) struct Q4K;

impl Block for Q4K {
    const LEN: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]) {
        let block: &[u8; 144] = block.try_into().expect("one block");
        scale_groups(block, scale, min);
        for (g, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let (c, shift) = (g / 2, 4 * (g % 2));
            for (code, byte) in codes.iter_mut().zip(&block[16 + 32 * c..48 + 32 * c]) {
                *code = byte >> shift & 15;
            }
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the codes.
pub(crate) struct Q5K;

impl Block for Q5K {
    const LEN: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]) {
        let block: &[u8; 176] = block.try_into().expect("one block");
        scale_groups(block, scale, min);
        for (g, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let (c, shift) = (g / 2, 4 * (g % 2));
            let low = &block[48 + 32 * c..80 + 32 * c];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(&block[16..48]) {
                *code = (low >> shift & 15) | (high >> g & 1) << 4;
            }
        }
    }
}

/// 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 i8 scales, f16 scale.
pub(crate) struct Q6K;

impl Block for Q6K {
    const LEN: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 210] = block.try_into().expect("one block");
        let d = f16_at(block, 208);
        for (scale, byte) in scale[..16].iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(*byte as i8);
        }
        for (i, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let (h, quarter) = (i / 4, i % 4);
            let low_at = 64 * h + 32 * (quarter % 2);
            let low = &block[low_at..low_at + 32];
            let high = &block[128 + 32 * h..160 + 32 * h];
            for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                *code = (low >> (4 * (quarter / 2)) & 15) | (high >> (2 * quarter) & 3) << 4;
            }
        }
    }
}
