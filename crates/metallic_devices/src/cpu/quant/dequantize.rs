//! One stored row to f32. Not: strided or gathered rows (`kernels/embedding.rs`).

use super::block::{Block, with_block};
use super::half_float::{bf16_bits_to_f32, f16_bits_to_f32};
use crate::cpu::simd::{Level, with_level};

/// Decodes `out.len()` elements of `dtype` with the machine's best instructions.
///
/// Bit-exact to ggml's definition of each format in f32 arithmetic.
///
/// # Panics
/// When `bytes` is not exactly `dtype.row_bytes(out.len())` long, or `dtype` is not a float or
/// quantised type.
pub fn dequantize_row(dtype: metallic::tensor::DType, bytes: &[u8], out: &mut [f32]) {
    dequantize_row_at(Level::detect(), dtype, bytes, out);
}

/// [`dequantize_row`] at a given level; every level gives the same bits.
///
/// # Panics
/// As [`dequantize_row`].
pub fn dequantize_row_at(
    level: Level,
    dtype: metallic::tensor::DType,
    bytes: &[u8],
    out: &mut [f32],
) {
    assert_eq!(dtype.row_bytes(out.len()), Some(bytes.len()), "row of {dtype}");
    with_block!(
        dtype,
        B => with_level(level, || decode_blocks::<B>(bytes, out)),
        with_level(level, || decode_plain(level, dtype, bytes, out))
    );
}

#[inline(always)]
fn decode_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let (mut codes, mut scale, mut min) = ([0; 256], [0.0; 16], [0.0; 16]);
    for (block, out) in bytes.chunks_exact(B::BYTES).zip(out.chunks_exact_mut(B::LEN)) {
        let codes = &mut codes[..B::LEN];
        B::unpack(block, codes, &mut scale, &mut min);
        let groups = codes.chunks_exact(B::GROUP).zip(out.chunks_exact_mut(B::GROUP));
        for (g, (codes, out)) in groups.enumerate() {
            let (scale, min) = (scale[g], min[g]);
            for (code, out) in codes.iter().zip(out) {
                let signed = (i32::from(*code) - i32::from(B::OFFSET)) as f32;
                *out = if B::HAS_MIN { scale * signed + min } else { scale * signed };
            }
        }
    }
}

#[inline(always)]
fn decode_plain(level: Level, dtype: metallic::tensor::DType, bytes: &[u8], out: &mut [f32]) {
    use metallic::tensor::DType;
    match dtype {
        DType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        DType::F16 => {
            let done = decode_f16_by_8(level, bytes, out);
            for (out, bytes) in out[done..].iter_mut().zip(bytes[2 * done..].chunks_exact(2)) {
                *out = f16_bits_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
            }
        }
        DType::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16_bits_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
            }
        }
        other => panic!("{other} has no f32 values"),
    }
}

/// Decodes whole groups of 8 where the machine has an instruction for it, and returns how many
/// elements that were. Unlike the plain loop, subnormals do not slow it down.
fn decode_f16_by_8(level: Level, bytes: &[u8], out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if level.usable() >= Level::Avx2 {
        // SAFETY: the machine has F16C.
        unsafe { decode_f16c(bytes, out) };
        return out.len() / 8 * 8;
    }
    let _ = (level, bytes, out);
    0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn decode_f16c(bytes: &[u8], out: &mut [f32]) {
    use std::arch::x86_64::*;
    for (out, bytes) in out.chunks_exact_mut(8).zip(bytes.chunks_exact(16)) {
        // SAFETY: the chunks have 8 floats and 16 bytes.
        unsafe {
            let halves = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metallic::tensor::DType;

    /// Written by `tests/golden/generate_quants.py` with the gguf package's numpy code.
    const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/quants_v1.bin");

    struct Reader(&'static [u8]);

    impl Reader {
        fn take(&mut self, len: usize) -> &'static [u8] {
            let (head, tail) = self.0.split_at(len);
            self.0 = tail;
            head
        }

        fn u32(&mut self) -> usize {
            u32::from_le_bytes(self.take(4).try_into().unwrap()) as usize
        }
    }

    fn golden_rows() -> Vec<(String, &'static [u8], Vec<f32>)> {
        let mut reader = Reader(GOLDEN);
        assert_eq!(reader.take(4), b"MQGD");
        assert_eq!(reader.u32(), 1, "schema version: run generate_quants.py again");
        (0..reader.u32())
            .map(|_| {
                let name_len = reader.u32();
                let name = String::from_utf8(reader.take(name_len).to_vec()).unwrap();
                let (elements, byte_len) = (reader.u32(), reader.u32());
                let bytes = reader.take(byte_len);
                let values = reader
                    .take(4 * elements)
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                (name, bytes, values)
            })
            .collect()
    }

    #[test]
    fn decodes_to_the_golden_bits() {
        let mut seen = Vec::new();
        for (name, bytes, want) in golden_rows() {
            let Ok(dtype) = name.parse::<DType>() else { continue };
            seen.push(dtype);
            for level in Level::available() {
                let mut got = vec![0.0; want.len()];
                dequantize_row_at(level, dtype, bytes, &mut got);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_eq!(got.to_bits(), want.to_bits(), "{name} {level:?} element {i}");
                }
            }
        }
        for dtype in DType::ALL.into_iter().filter(|d| d.is_quantized() || d.is_float()) {
            assert!(seen.contains(&dtype), "no golden row for {dtype}");
        }
    }

    #[test]
    fn block_shapes_agree_with_the_element_types() {
        for dtype in DType::ALL.into_iter().filter(|d| d.is_quantized()) {
            let shape = with_block!(dtype, B => (B::LEN, B::BYTES), unreachable!());
            assert_eq!(shape, (dtype.block_len(), dtype.block_bytes()), "{dtype}");
        }
    }

    #[test]
    fn encodes_q8_0_to_the_golden_bytes() {
        let (_, want, values) =
            golden_rows().into_iter().find(|(name, ..)| name == "encode q8_0").unwrap();
        for level in Level::available() {
            let mut got = vec![0; want.len()];
            crate::cpu::quant::quantize_row_q8_0(level, &values, &mut got);
            assert_eq!(got, want, "{level:?}");
        }
    }
}
