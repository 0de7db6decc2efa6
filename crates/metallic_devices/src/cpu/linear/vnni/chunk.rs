//! Stored weights into registers, 64 elements at a time: the formats of 32 elements.
//!
//! Lane `l` of 16 holds elements 4l … 4l + 3 of a chunk as unsigned bytes, with their scale and
//! minimum as f32 in the same lane of two other vectors, so that one integer dot product, one
//! conversion and one or two fused products treat 64 elements.
//! Not: the formats of 256 elements (`super_chunk.rs`).

use std::arch::x86_64::*;

use crate::cpu::quant::IQ4_CODES;

/// 64 elements of one row.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// Unsigned codes in the order of the elements.
    pub codes: __m512i,
    /// The scale of each lane.
    pub scale: __m512,
    /// The minimum of each lane; anything when the format has none.
    pub min: __m512,
}

/// A format that is read in steps of `CHUNKS` chunks of 64 elements.
///
/// # Safety
/// Methods need AVX-512 F, BW, DQ, VL, VNNI and VBMI, and `STEP_BYTES` readable bytes.
pub(super) unsafe trait Chunks {
    /// The format as scalar code reads it: its constants hold here too.
    type Block: crate::cpu::quant::Block;
    /// Chunks per step: one pair of 32-element blocks, or four of a 256-element block.
    const CHUNKS: usize;
    /// What is known of a whole step: the scales of a 256-element block.
    type Step: Copy;

    /// Reads what all chunks of the step share.
    unsafe fn open(step: *const u8) -> Self::Step;
    /// Chunk `index` of the step.
    unsafe fn chunk(step: *const u8, open: Self::Step, index: usize) -> Chunk;
}

/// f16 `first` in lanes 0..8 and `second` in lanes 8..16, both as indices of 16-bit words.
#[inline(always)]
unsafe fn scale_lanes(bytes: __m512i, first: i16, second: i16) -> __m512 {
    // SAFETY: the caller has AVX-512 BW.
    unsafe {
        let words = _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first));
        let halves = _mm512_permutexvar_epi16(_mm512_castsi256_si512(words), bytes);
        _mm512_cvtph_ps(_mm512_castsi512_si256(halves))
    }
}

/// The f16 at the start of two blocks: the first in lanes 0..8, that at byte `second` in lanes 8..16.
/// Where no other use is made of the bytes around them this is cheaper than a permutation.
#[inline(always)]
unsafe fn head_lanes(step: *const u8, second: usize) -> __m512 {
    // SAFETY: the caller has AVX-512 VL and gives both blocks, of more than four bytes each.
    unsafe {
        let head = |at| step.add(at).cast::<i32>().read_unaligned();
        let heads = _mm256_mask_set1_epi32(_mm256_set1_epi32(head(0)), 0xf0, head(second));
        // Odd lanes hold whatever follows.
        _mm512_moveldup_ps(_mm512_cvtph_ps(heads))
    }
}

/// The 4-bit codes of two blocks: 16 bytes from `first` on, and the last 16 of what was loaded.
#[inline(always)]
unsafe fn nibbles(bytes: __m512i, first: i8) -> __m512i {
    // SAFETY: the caller has AVX-512 BW and VBMI.
    unsafe {
        let count = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let both = |at| _mm256_broadcastsi128_si256(_mm_add_epi8(count, _mm_set1_epi8(at)));
        let index = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(both(first)), both(48));
        low_then_high(_mm512_permutexvar_epi8(index, bytes))
    }
}

/// The low halves of the bytes of quarters 0 and 2, the high halves of quarters 1 and 3.
#[inline(always)]
pub(super) unsafe fn low_then_high(bytes: __m512i) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let shift = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
        _mm512_and_si512(_mm512_srlv_epi64(bytes, shift), _mm512_set1_epi8(15))
    }
}

/// Adds 16 where the two blocks' 32 bits at byte `first` and `second` are set.
#[inline(always)]
unsafe fn with_fifth_bits(
    codes: __m512i,
    step: *const u8,
    (first, second): (usize, usize),
) -> __m512i {
    // SAFETY: the caller has AVX-512 BW and gives both blocks.
    unsafe {
        let bits = |at| u64::from(step.add(at).cast::<u32>().read_unaligned());
        let mask = bits(first) | bits(second) << 32;
        _mm512_mask_add_epi8(codes, mask, codes, _mm512_set1_epi8(16))
    }
}

/// The first 32 and the last 32 of `COUNT` bytes. A masked load of 64 is several times slower.
#[inline(always)]
unsafe fn load<const COUNT: usize>(from: *const u8) -> __m512i {
    // SAFETY: the caller has AVX-512 F and gives `COUNT` bytes, which are more than 32.
    unsafe {
        let first = _mm256_loadu_si256(from.cast());
        let last = _mm256_loadu_si256(from.add(COUNT - 32).cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), last)
    }
}

/// The 16 table values plus 128, looked up by codes of 4 bits.
#[inline(always)]
pub(super) unsafe fn iq4_codes(codes: __m512i) -> __m512i {
    // SAFETY: the caller has AVX-512 BW; the table has 16 bytes.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(IQ4_CODES.as_ptr().cast()));
        _mm512_shuffle_epi8(table, codes)
    }
}

/// Implements [`Chunks`] for a pair of 32-element blocks.
macro_rules! pair_chunks {
    ($name:ident, $step:ident => $chunk:expr) => {
        pub(super) struct $name;

        // SAFETY: reads two blocks of the format and no more.
        unsafe impl Chunks for $name {
            type Block = crate::cpu::quant::$name;
            const CHUNKS: usize = 1;
            type Step = ();

            #[inline(always)]
            unsafe fn open(_step: *const u8) {}

            #[inline(always)]
            unsafe fn chunk($step: *const u8, _open: (), _index: usize) -> Chunk {
                // SAFETY: the caller has the instructions and gives two blocks.
                unsafe { $chunk }
            }
        }
    };
}

pair_chunks!(Q8_0, step => {
    let low = _mm256_loadu_si256(step.add(2).cast());
    let high = _mm256_loadu_si256(step.add(36).cast());
    let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    let scale = head_lanes(step, 34);
    Chunk { codes: _mm512_xor_si512(codes, _mm512_set1_epi8(-128)), scale, min: scale }
});

pair_chunks!(Q4_0, step => {
    let bytes = load::<36>(step);
    let scale = scale_lanes(bytes, 0, 9);
    Chunk { codes: nibbles(bytes, 2), scale, min: scale }
});

pair_chunks!(Q4_1, step => {
    let bytes = load::<40>(step);
    let (scale, min) = (scale_lanes(bytes, 0, 10), scale_lanes(bytes, 1, 11));
    Chunk { codes: nibbles(bytes, 4), scale, min }
});

pair_chunks!(Q5_0, step => {
    let bytes = load::<44>(step);
    let scale = scale_lanes(bytes, 0, 11);
    let codes = with_fifth_bits(nibbles(bytes, 6), step, (2, 24));
    Chunk { codes, scale, min: scale }
});

pair_chunks!(Q5_1, step => {
    let bytes = load::<48>(step);
    let (scale, min) = (scale_lanes(bytes, 0, 12), scale_lanes(bytes, 1, 13));
    Chunk { codes: with_fifth_bits(nibbles(bytes, 8), step, (4, 28)), scale, min }
});

pair_chunks!(Iq4Nl, step => {
    let bytes = load::<36>(step);
    let scale = scale_lanes(bytes, 0, 9);
    Chunk { codes: iq4_codes(nibbles(bytes, 2)), scale, min: scale }
});
