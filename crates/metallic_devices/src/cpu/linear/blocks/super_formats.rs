//! Stored weights into registers, 32 elements at a time: the formats of 256 elements.
//!
//! The 8 or 16 scales of a block are computed once, and each of its eight chunks reads its own from the
//! first-level cache. See `formats.rs`.

use super::formats::{Chunk, Format, Groups, iq4};
use super::lanes::Lanes;
use crate::cpu::quant;

#[inline(always)]
unsafe fn u32_at(block: *const u8, at: usize) -> u32 {
    // SAFETY: the caller gives four bytes there.
    unsafe { block.add(at).cast::<u32>().read_unaligned() }
}

/// Two words as eight bytes, the first one first.
#[inline(always)]
fn eight(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// Eight scales from `at` on: `factor` times unsigned bytes.
#[inline(always)]
unsafe fn put<L: Lanes>(to: &mut [f32; 16], at: usize, factor: L::Floats, floats: L::Floats) {
    // SAFETY: the caller has the instructions; `at` is 0 or 8.
    unsafe { L::store_floats(L::mul(factor, floats), to.as_mut_ptr().add(at)) };
}

/// The f16 at byte `at`, negative.
#[inline(always)]
unsafe fn minus_half<L: Lanes>(block: *const u8, at: usize) -> L::Floats {
    // SAFETY: the caller has the instructions and gives two bytes there.
    unsafe { L::mul(L::splat_half(block.add(at)), L::splat(-1.0)) }
}

/// Scales and minimums of a Q4_K or Q5_K block.
#[inline(always)]
unsafe fn scales_and_mins<L: Lanes>(block: *const u8, groups: &mut Groups) {
    // SAFETY: the caller gives a block, which starts with these 16 bytes.
    unsafe {
        let (a, b, c) = (u32_at(block, 4), u32_at(block, 8), u32_at(block, 12));
        let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
        let scales = eight(a & six, (c & four) | (a >> 6 & two) << 4);
        let mins = eight(b & six, (c >> 4 & four) | (b >> 6 & two) << 4);
        put::<L>(&mut groups.scales, 0, L::splat_half(block), L::bytes_to_floats(scales));
        put::<L>(&mut groups.mins, 0, minus_half::<L>(block, 2), L::bytes_to_floats(mins));
    }
}

/// What one chunk of 32 elements has in common: group `g` of 32.
#[inline(always)]
unsafe fn of_32<L: Lanes>(codes: L::Bytes, groups: &Groups, g: usize) -> Chunk<L> {
    // SAFETY: the caller has the instructions.
    unsafe { Chunk { codes, scale: L::splat(groups.scales[g]), min: L::splat(groups.mins[g]) } }
}

/// The same where groups have 16 elements: two of them.
#[inline(always)]
unsafe fn of_16<L: Lanes>(codes: L::Bytes, groups: &Groups, index: usize) -> Chunk<L> {
    // SAFETY: the caller has the instructions; a block has 16 groups.
    unsafe {
        let scale = L::pair(groups.scales.as_ptr().add(2 * index));
        Chunk { codes, scale, min: L::pair(groups.mins.as_ptr().add(2 * index)) }
    }
}

/// Bits `2 · (INDEX % 4)` and the next of 32 bytes at `from`.
#[inline(always)]
unsafe fn two_bits<L: Lanes, const INDEX: usize>(from: *const u8) -> L::Bytes {
    // SAFETY: the caller has the instructions and gives 32 bytes.
    unsafe {
        let bytes = L::load(from);
        match INDEX % 4 {
            0 => L::field::<0>(bytes, 3),
            1 => L::field::<2>(bytes, 3),
            2 => L::field::<4>(bytes, 3),
            _ => L::field::<6>(bytes, 3),
        }
    }
}

/// The low halves of 32 bytes, or the high ones.
#[inline(always)]
unsafe fn half<L: Lanes>(from: *const u8, high: bool) -> L::Bytes {
    // SAFETY: the caller has the instructions and gives 32 bytes.
    unsafe {
        let bytes = L::load(from);
        if high { L::field::<4>(bytes, 15) } else { L::field::<0>(bytes, 15) }
    }
}

/// Implements [`Format`] for a block of 256 elements.
macro_rules! super_format {
    (
        $name:ident, $max:expr, $L:ident, $block:ident, $groups:ident => $open:expr,
        $index:ident => $chunk:expr
    ) => {
        pub(super) struct $name;

        // SAFETY: reads one block of the format and no more.
        unsafe impl Format for $name {
            type Block = quant::$name;
            const MAX: i32 = $max;

            #[inline(always)]
            unsafe fn open<$L: Lanes>($block: *const u8, $groups: &mut Groups) {
                // SAFETY: the caller has the instructions and gives a block.
                unsafe { $open }
            }

            #[inline(always)]
            unsafe fn chunk<$L: Lanes, const $index: usize>(
                $block: *const u8,
                $groups: &Groups,
            ) -> Chunk<$L> {
                // SAFETY: the caller has the instructions and gives a block.
                unsafe { $chunk }
            }
        }
    };
}

super_format!(Q4K, 15, L, block, groups => scales_and_mins::<L>(block, groups), INDEX => {
    let codes = half::<L>(block.add(16 + 32 * (INDEX / 2)), INDEX % 2 == 1);
    of_32::<L>(codes, groups, INDEX)
});

super_format!(Q5K, 31, L, block, groups => scales_and_mins::<L>(block, groups), INDEX => {
    let codes = half::<L>(block.add(48 + 32 * (INDEX / 2)), INDEX % 2 == 1);
    let fifth = L::where_set(L::load(block.add(16)), 1 << INDEX, 16);
    of_32::<L>(L::or(codes, fifth), groups, INDEX)
});

super_format!(Q6K, 63, L, block, groups => {
    let factor = L::splat_half(block.add(208));
    for half in 0..2 {
        let bytes = block.add(192 + 8 * half).cast::<u64>().read_unaligned();
        put::<L>(&mut groups.scales, 8 * half, factor, L::signed_to_floats(bytes));
    }
}, INDEX => {
    let (side, quarter) = (INDEX / 4, INDEX % 4);
    let low = half::<L>(block.add(64 * side + 32 * (quarter % 2)), quarter >= 2);
    let top = two_bits::<L, INDEX>(block.add(128 + 32 * side));
    of_16::<L>(L::or(low, L::times_16(top)), groups, INDEX)
});

super_format!(Q2K, 3, L, block, groups => {
    let (scale, min) = (L::splat_half(block.add(80)), minus_half::<L>(block, 82));
    let four = 0x0f0f_0f0f_0f0f_0f0f;
    for half in 0..2 {
        let bytes = block.add(8 * half).cast::<u64>().read_unaligned();
        put::<L>(&mut groups.scales, 8 * half, scale, L::bytes_to_floats(bytes & four));
        put::<L>(&mut groups.mins, 8 * half, min, L::bytes_to_floats(bytes >> 4 & four));
    }
}, INDEX => {
    of_16::<L>(two_bits::<L, INDEX>(block.add(16 + 32 * (INDEX / 4))), groups, INDEX)
});

super_format!(Q3K, 7, L, block, groups => {
    let (a, b, c) = (u32_at(block, 96), u32_at(block, 100), u32_at(block, 104));
    let six = |low: u32, high: u32| (low & 0x0f0f_0f0f) | (high & 0x0303_0303) << 4;
    // Less 32, byte by byte: below 32 the three high bits are set, else none of them.
    let less_32 = |bytes: u64| {
        let low = !bytes & 0x2020_2020_2020_2020;
        (bytes & 0x1f1f_1f1f_1f1f_1f1f) | low | low << 1 | low << 2
    };
    let factor = L::splat_half(block.add(108));
    let halves = [eight(six(a, c), six(b, c >> 2)), eight(six(a >> 4, c >> 4), six(b >> 4, c >> 6))];
    for (half, bytes) in halves.into_iter().enumerate() {
        put::<L>(&mut groups.scales, 8 * half, factor, L::signed_to_floats(less_32(bytes)));
    }
}, INDEX => {
    let low = two_bits::<L, INDEX>(block.add(32 + 32 * (INDEX / 4)));
    let third = L::where_set(L::load(block), 1 << INDEX, 4);
    of_16::<L>(L::or(low, third), groups, INDEX)
});

super_format!(Iq4Xs, 128, L, block, groups => {
    let (low, high) = (u32_at(block, 4), block.add(2).cast::<u16>().read_unaligned());
    let d = crate::cpu::quant::f16_bits_to_f32(block.cast::<u16>().read_unaligned());
    for g in 0..8 {
        let six = (low >> (4 * g) & 15) | u32::from(high >> (2 * g) & 3) << 4;
        groups.scales[g] = d * (six as i32 - 32) as f32;
    }
}, INDEX => {
    let codes = L::nibbles(block.add(8 + 16 * INDEX));
    of_32::<L>(iq4::<L>(codes), groups, INDEX)
});
