//! The formats of 32 elements with one scale: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
//!
//! A 4-bit block keeps elements 0..16 in the low and 16..32 in the high halves of 16 bytes; a
//! 5-bit block adds a little-endian u32 with element `i`'s fifth bit at bit `i`.

use super::block::Block;
use super::half_float::f16_bits_to_f32;

/// The f16 at byte `at`.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_bits_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The two halves of each of 16 bytes.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let bytes: &[u8; 16] = bytes.try_into().expect("16 bytes");
    let (low, high) = codes.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

#[inline(always)]
fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    for (bits, codes) in bytes.iter().zip(codes.chunks_exact_mut(8)) {
        // Bit i of the byte stays in byte i alone; adding 127 moves any bit to the top.
        let spread = u64::from(*bits).wrapping_mul(ONES) & 0x8040_2010_0804_0201;
        let fifths = (spread + 0x7f * ONES) >> 3 & (ONES << 4);
        let eight = u64::from_le_bytes((&*codes).try_into().expect("8 codes")) | fifths;
        codes.copy_from_slice(&eight.to_le_bytes());
    }
}

/// f16 scale, 32 × i8. Codes are the signed values plus 128.
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const LEN: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 34] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        for (code, byte) in codes[..32].iter_mut().zip(&block[2..]) {
            *code = byte ^ 0x80;
        }
    }
}

/// f16 scale, 32 × 4 bit, offset 8.
pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 8;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 18] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        nibbles(&block[2..], &mut codes[..32]);
    }
}

/// f16 scale, f16 minimum, 32 × 4 bit.
pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const BYTES: usize = 20;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]) {
        let block: &[u8; 20] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        min[0] = f16_at(block, 2);
        nibbles(&block[4..], &mut codes[..32]);
    }
}

/// f16 scale, 32 fifth bits, 32 × 4 bit, offset 16.
pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const LEN: usize = 32;
    const BYTES: usize = 22;
    const GROUP: usize = 32;
    const OFFSET: u8 = 16;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 22] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        nibbles(&block[6..], &mut codes[..32]);
        fifth_bits(&block[2..6], &mut codes[..32]);
    }
}

/// f16 scale, f16 minimum, 32 fifth bits, 32 × 4 bit.
pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const LEN: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const OFFSET: u8 = 0;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]) {
        let block: &[u8; 24] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        min[0] = f16_at(block, 2);
        nibbles(&block[8..], &mut codes[..32]);
        fifth_bits(&block[4..8], &mut codes[..32]);
    }
}
