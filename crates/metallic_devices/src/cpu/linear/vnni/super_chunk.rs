//! Stored weights into registers, 64 elements at a time: the formats of 256 elements.
//!
//! A step is one block; its 8 or 16 scales are computed once, and each of its four chunks
//! permutes the ones it needs into its lanes. See `chunk.rs`.

use std::arch::x86_64::*;

use super::chunk::{Chunk, Chunks, iq4_codes, low_then_high};

/// The scales and the minimums of a block's groups, one lane each.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    scales: __m512,
    mins: __m512,
}

#[inline(always)]
unsafe fn u32_at(block: *const u8, at: usize) -> u32 {
    // SAFETY: the caller gives four bytes there.
    unsafe { block.add(at).cast::<u32>().read_unaligned() }
}

/// The f16 at byte `at`, in every lane.
#[inline(always)]
unsafe fn half_at(block: *const u8, at: usize) -> __m512 {
    // SAFETY: the caller has AVX-512 F and gives two bytes there.
    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(block.add(at).cast::<i16>().read_unaligned())) }
}

/// Each lane's group where 16 groups have 16 elements: chunk `index` has four of them.
#[inline(always)]
unsafe fn spread_16(groups: __m512, index: usize) -> __m512 {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(4 * index as i32));
        _mm512_permutexvar_ps(lanes, groups)
    }
}

/// Each lane's group where 8 groups have 32 elements: chunk `index` has two of them.
#[inline(always)]
unsafe fn spread_32(groups: __m512, index: usize) -> __m512 {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let lanes = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(2 * index as i32));
        _mm512_permutexvar_ps(lanes, groups)
    }
}

/// The same 32 bytes twice.
#[inline(always)]
unsafe fn twice(from: *const u8) -> __m512i {
    // SAFETY: the caller has AVX-512 F and gives 32 bytes.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast())) }
}

/// The lower half shifted right by `low` bits, the upper by `high`, across bytes.
#[inline(always)]
unsafe fn shift_halves(bytes: __m512i, low: usize, high: usize) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let (l, h) = (low as i64, high as i64);
        _mm512_srlv_epi64(bytes, _mm512_setr_epi64(l, l, l, l, h, h, h, h))
    }
}

/// Adds `value` where bit `2 · index` of the lower half's byte, or bit `2 · index + 1` of the
/// upper half's, is set.
#[inline(always)]
unsafe fn add_where_set(codes: __m512i, bits: __m512i, index: usize, value: i8) -> __m512i {
    // SAFETY: the caller has AVX-512 BW.
    unsafe {
        let low = _mm256_set1_epi8((1u8 << (2 * index)) as i8);
        let high = _mm256_set1_epi8((2u8 << (2 * index)) as i8);
        let wanted = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
        let set = _mm512_test_epi8_mask(bits, wanted);
        _mm512_mask_add_epi8(codes, set, codes, _mm512_set1_epi8(value))
    }
}

/// Scales in lanes 0..8 and minimums in lanes 8..16 of a Q4_K or Q5_K block.
#[inline(always)]
unsafe fn scales_and_mins(block: *const u8) -> __m512 {
    // SAFETY: the caller has AVX-512 and gives a block, which starts with these 16 bytes.
    unsafe {
        let (a, b, c) = (u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
        let six = 0x3f3f_3f3f;
        let (four, two) = (0x0f0f_0f0f, 0x0303_0303);
        let scales_high = (c & four) | (a >> 6 & two) << 4;
        let mins_high = (c >> 4 & four) | (b >> 6 & two) << 4;
        let packed = _mm_setr_epi32(
            (a & six) as i32,
            scales_high as i32,
            (b & six) as i32,
            mins_high as i32,
        );
        let factor = _mm512_mask_blend_ps(
            0xff00,
            half_at(block, 0),
            _mm512_sub_ps(_mm512_setzero_ps(), half_at(block, 2)),
        );
        _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(packed)))
    }
}

/// Implements [`Chunks`] for a block of 256 elements.
macro_rules! super_chunks {
    ($name:ident, $block:ident => $open:expr, ($groups:ident, $index:ident) => $chunk:expr) => {
        pub(super) struct $name;

        // SAFETY: reads one block of the format and no more.
        unsafe impl Chunks for $name {
            type Block = crate::cpu::quant::$name;
            const CHUNKS: usize = 4;
            type Step = Groups;

            #[inline(always)]
            unsafe fn open($block: *const u8) -> Groups {
                // SAFETY: the caller has the instructions and gives a block.
                unsafe { $open }
            }

            #[inline(always)]
            unsafe fn chunk($block: *const u8, $groups: Groups, $index: usize) -> Chunk {
                // SAFETY: the caller has the instructions and gives a block.
                unsafe { $chunk }
            }
        }
    };
}

super_chunks!(Q4K, block => {
    let both = scales_and_mins(block);
    Groups { scales: both, mins: both }
}, (groups, index) => {
    let bytes = shift_halves(twice(block.add(16 + 32 * index)), 0, 4);
    Chunk {
        codes: _mm512_and_si512(bytes, _mm512_set1_epi8(15)),
        scale: spread_32(groups.scales, index),
        min: spread_32(groups.mins, index + 4),
    }
});

super_chunks!(Q5K, block => {
    let both = scales_and_mins(block);
    Groups { scales: both, mins: both }
}, (groups, index) => {
    let bytes = shift_halves(twice(block.add(48 + 32 * index)), 0, 4);
    let codes = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
    Chunk {
        codes: add_where_set(codes, twice(block.add(16)), index, 16),
        scale: spread_32(groups.scales, index),
        min: spread_32(groups.mins, index + 4),
    }
});

super_chunks!(Q6K, block => {
    let scales = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(192).cast()));
    let scales = _mm512_mul_ps(half_at(block, 208), _mm512_cvtepi32_ps(scales));
    Groups { scales, mins: scales }
}, (groups, index) => {
    let (half, high) = (index / 2, index % 2);
    let low = shift_halves(_mm512_loadu_si512(block.add(64 * half).cast()), 4 * high, 4 * high);
    let low = _mm512_and_si512(low, _mm512_set1_epi8(15));
    let top = shift_halves(twice(block.add(128 + 32 * half)), 4 * high, 4 * high + 2);
    let top = _mm512_and_si512(top, _mm512_set1_epi8(3));
    let codes = _mm512_or_si512(low, _mm512_slli_epi64::<4>(top));
    let scale = spread_16(groups.scales, index);
    Chunk { codes, scale, min: scale }
});

super_chunks!(Q2K, block => {
    let packed = _mm_loadu_si128(block.cast());
    let four = _mm_set1_epi8(15);
    let scales = _mm512_cvtepu8_epi32(_mm_and_si128(packed, four));
    let mins = _mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16::<4>(packed), four));
    let negative = _mm512_sub_ps(_mm512_setzero_ps(), half_at(block, 82));
    Groups {
        scales: _mm512_mul_ps(half_at(block, 80), _mm512_cvtepi32_ps(scales)),
        mins: _mm512_mul_ps(negative, _mm512_cvtepi32_ps(mins)),
    }
}, (groups, index) => {
    let shift = 4 * (index % 2);
    let bytes = shift_halves(twice(block.add(16 + 32 * (index / 2))), shift, shift + 2);
    Chunk {
        codes: _mm512_and_si512(bytes, _mm512_set1_epi8(3)),
        scale: spread_16(groups.scales, index),
        min: spread_16(groups.mins, index),
    }
});

super_chunks!(Q3K, block => {
    let (a, b, c) = (u32_at(block, 96), u32_at(block, 100), u32_at(block, 104));
    let six = |low: u32, high: u32| ((low & 0x0f0f_0f0f) | (high & 0x0303_0303) << 4) as i32;
    let packed = _mm_setr_epi32(six(a, c), six(b, c >> 2), six(a >> 4, c >> 4), six(b >> 4, c >> 6));
    let signed = _mm512_sub_epi32(_mm512_cvtepu8_epi32(packed), _mm512_set1_epi32(32));
    let scales = _mm512_mul_ps(half_at(block, 108), _mm512_cvtepi32_ps(signed));
    Groups { scales, mins: scales }
}, (groups, index) => {
    let shift = 4 * (index % 2);
    let bytes = shift_halves(twice(block.add(32 + 32 * (index / 2))), shift, shift + 2);
    let codes = _mm512_and_si512(bytes, _mm512_set1_epi8(3));
    let codes = add_where_set(codes, twice(block), index, 4);
    let scale = spread_16(groups.scales, index);
    Chunk { codes, scale, min: scale }
});

super_chunks!(Iq4Xs, block => {
    let high = i32::from(block.add(2).cast::<u16>().read_unaligned());
    let low = _mm512_set1_epi32(u32_at(block, 4) as i32);
    let count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    let low = _mm512_srlv_epi32(low, _mm512_slli_epi32::<2>(count));
    let low = _mm512_and_si512(low, _mm512_set1_epi32(15));
    let high = _mm512_srlv_epi32(_mm512_set1_epi32(high), _mm512_slli_epi32::<1>(count));
    let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(3)));
    let signed = _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
    let scales = _mm512_mul_ps(half_at(block, 0), _mm512_cvtepi32_ps(signed));
    Groups { scales, mins: scales }
}, (groups, index) => {
    let bytes = twice(block.add(8 + 32 * index));
    let codes = low_then_high(_mm512_shuffle_i64x2::<0b01_01_00_00>(bytes, bytes));
    let scale = spread_32(groups.scales, index);
    Chunk { codes: iq4_codes(codes), scale, min: scale }
});
