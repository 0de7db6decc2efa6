//! Bits of f16 and bf16 to f32 without branches, so that loops over them vectorise.
//!
//! Not: the other direction, which needs rounding; see `kernels/convert.rs`.

/// The f32 value of IEEE binary16 bits. Exact; NaN payloads are kept.
#[inline(always)]
pub(crate) fn f16_bits_to_f32(bits: u16) -> f32 {
    /// 2^112 moves the exponent from f16's bias of 15 to f32's of 127, subnormals included.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { special } else { finite })
}

/// The f32 value of bfloat16 bits.
#[inline(always)]
pub(crate) fn bf16_bits_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bit_patterns() {
        for bits in 0..=u16::MAX {
            let (want, got) = (half::f16::from_bits(bits).to_f32(), f16_bits_to_f32(bits));
            assert!(want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()), "{bits:x}");
            let (want, got) = (half::bf16::from_bits(bits).to_f32(), bf16_bits_to_f32(bits));
            assert!(want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()), "{bits:x}");
        }
    }
}
