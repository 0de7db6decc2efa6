//! Stored weights into registers, 32 elements at a time: the formats of 32 elements.
//!
//! Lane `l` of eight holds elements 4l … 4l + 3 of a chunk as bytes, with their scale and minimum as f32
//! in the same lane of two other vectors. Codes are those of the format's `Block`, except that an offset
//! of 128 is taken off already: those bytes are signed.
//! Not: the formats of 256 elements (`super_formats.rs`).

use super::lanes::Lanes;
use crate::cpu::quant::{self, Block};

/// 32 elements of one row.
pub(super) struct Chunk<L: Lanes> {
    /// In the order of the elements.
    pub codes: L::Bytes,
    /// The scale of each lane.
    pub scale: L::Floats,
    /// The minimum of each lane; anything when the format has none.
    pub min: L::Floats,
}

/// What all chunks of one block share: scales and minimums of its groups, where they are not read
/// with the chunk.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub scales: [f32; 16],
    pub mins: [f32; 16],
}

impl Groups {
    pub(super) const NONE: Groups = Groups { scales: [0.0; 16], mins: [0.0; 16] };
}

/// A format that is read block by block, in chunks of 32 elements.
///
/// # Safety
/// Functions need `L`'s instructions and a readable block.
pub(super) unsafe trait Format {
    /// The format as scalar code reads it: its constants hold here too.
    type Block: Block;
    /// The largest magnitude of a code.
    const MAX: i32;
    /// Whether codes are signed.
    const SIGNED: bool = Self::Block::OFFSET == 128;

    /// Reads what all chunks of the block share.
    #[inline(always)]
    unsafe fn open<L: Lanes>(_block: *const u8, _groups: &mut Groups) {}
    /// Chunk `INDEX` of the block.
    unsafe fn chunk<L: Lanes, const INDEX: usize>(block: *const u8, groups: &Groups) -> Chunk<L>;
}

/// Signed codes of a format whose block keeps them plus 128.
const IQ4_SIGNED: [i8; 16] = {
    let (mut table, mut i) = ([0; 16], 0);
    while i < 16 {
        table[i] = (quant::IQ4_CODES[i] ^ 128) as i8;
        i += 1;
    }
    table
};

/// The values that 4-bit indices stand for.
#[inline(always)]
pub(super) unsafe fn iq4<L: Lanes>(indices: L::Bytes) -> L::Bytes {
    // SAFETY: the caller has the instructions.
    unsafe { L::look_up(&IQ4_SIGNED, indices) }
}

/// Implements [`Format`] for a block of 32 elements.
macro_rules! block_format {
    ($name:ident, $max:expr, $L:ident, $block:ident => $chunk:expr) => {
        pub(super) struct $name;

        // SAFETY: reads one block of the format and no more.
        unsafe impl Format for $name {
            type Block = quant::$name;
            const MAX: i32 = $max;

            #[inline(always)]
            unsafe fn chunk<$L: Lanes, const INDEX: usize>(
                $block: *const u8,
                _groups: &Groups,
            ) -> Chunk<$L> {
                // SAFETY: the caller has the instructions and gives a block.
                unsafe { $chunk }
            }
        }
    };
}

block_format!(Q8_0, 128, L, block => {
    let scale = L::splat_half(block);
    Chunk { codes: L::load(block.add(2)), scale, min: scale }
});

block_format!(Q4_0, 15, L, block => {
    let scale = L::splat_half(block);
    Chunk { codes: L::nibbles(block.add(2)), scale, min: scale }
});

block_format!(Q4_1, 15, L, block => {
    let (scale, min) = (L::splat_half(block), L::splat_half(block.add(2)));
    Chunk { codes: L::nibbles(block.add(4)), scale, min }
});

block_format!(Q5_0, 31, L, block => {
    let scale = L::splat_half(block);
    let codes = L::or(L::nibbles(block.add(6)), L::where_bit(block.add(2), 16));
    Chunk { codes, scale, min: scale }
});

block_format!(Q5_1, 31, L, block => {
    let (scale, min) = (L::splat_half(block), L::splat_half(block.add(2)));
    let codes = L::or(L::nibbles(block.add(8)), L::where_bit(block.add(4), 16));
    Chunk { codes, scale, min }
});

block_format!(Iq4Nl, 128, L, block => {
    let scale = L::splat_half(block);
    Chunk { codes: iq4::<L>(L::nibbles(block.add(2))), scale, min: scale }
});
