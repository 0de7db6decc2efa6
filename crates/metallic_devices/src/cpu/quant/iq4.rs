//! The formats whose 4-bit codes index a non-linear table: IQ4_NL and IQ4_XS.

use super::block::Block;
use super::legacy_quants::{f16_at, nibbles};

/// The table's values plus 128.
pub(crate) const IQ4_CODES: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

#[inline(always)]
fn look_up(bytes: &[u8], codes: &mut [u8]) {
    nibbles(bytes, codes);
    for code in codes {
        *code = IQ4_CODES[usize::from(*code & 15)];
    }
}

/// 32 elements: f16 scale, 32 × 4-bit index.
pub(crate) struct Iq4Nl;

impl Block for Iq4Nl {
    const LEN: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 18] = block.try_into().expect("one block");
        scale[0] = f16_at(block, 0);
        look_up(&block[2..], &mut codes[..32]);
    }
}

/// 256 elements: f16 scale, eight 6-bit scales (two high bits each in a u16, then four low bits
/// each in 4 bytes), 256 × 4-bit index.
pub(crate) struct Iq4Xs;

impl Block for Iq4Xs {
    const LEN: usize = 256;
    const BYTES: usize = 136;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const HAS_MIN: bool = false;

    #[inline(always)]
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], _min: &mut [f32]) {
        let block: &[u8; 136] = block.try_into().expect("one block");
        let d = f16_at(block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (g, codes) in codes[..256].chunks_exact_mut(32).enumerate() {
            let low = block[4 + g / 2] >> (4 * (g % 2)) & 15;
            let six_bits = i32::from(low) | i32::from(high >> (2 * g) & 3) << 4;
            scale[g] = d * (six_bits - 32) as f32;
            look_up(&block[8 + 16 * g..24 + 16 * g], codes);
        }
    }
}
