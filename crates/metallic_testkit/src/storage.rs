//! Values as bytes: f32, f16, bf16, q8_0, q4_0, q5_0, q4_k, q5_k, q6_k, i32 and bool to f64 and back.
//!
//! Written for tests, one value at a time; devices have their own, fast ones.

mod super_blocks;

use half::{bf16, f16};
use metallic::tensor::DType;

/// Elements of a q8_0 block: an f16 scale, then 32 signed bytes (ggml's layout).
const Q8_BLOCK: usize = 32;
/// Elements of a q4_0 block: an f16 scale, then 16 bytes with elements `i` in their low and
/// `i + 16` in their high halves, each plus 8 (ggml's layout).
const Q4_BLOCK: usize = 32;
/// Elements of a q5_0 block: an f16 scale, 4 bytes with the fifth bit of each element, then 16 bytes
/// with the low ones as in q4_0, each code plus 16 (ggml's layout).
const Q5_BLOCK: usize = 32;

/// The bytes of `values` in `dtype`, each rounded to the nearest value of the type.
///
/// # Panics
/// For a type no test stores, or a row that is no whole number of blocks.
pub fn encode(dtype: DType, values: &[f64]) -> Vec<u8> {
    match dtype {
        DType::F32 => each(values, |value| (value as f32).to_le_bytes()),
        DType::F16 => each(values, |value| f16::from_f64(value).to_le_bytes()),
        DType::Bf16 => each(values, |value| bf16::from_f64(value).to_le_bytes()),
        DType::I32 => each(values, |value| (value as i32).to_le_bytes()),
        DType::Bool => each(values, |value| [u8::from(value != 0.0)]),
        DType::Q8_0 => blocks(values, Q8_BLOCK, encode_q8_0),
        DType::Q4_0 => blocks(values, Q4_BLOCK, encode_q4_0),
        DType::Q5_0 => blocks(values, Q5_BLOCK, encode_q5_0),
        DType::Q4K => blocks(values, super_blocks::LEN, super_blocks::encode_q4_k),
        DType::Q5K => blocks(values, super_blocks::LEN, super_blocks::encode_q5_k),
        DType::Q6K => blocks(values, super_blocks::LEN, super_blocks::encode_q6_k),
        other => panic!("the test kit stores no {other}"),
    }
}

/// Whole blocks of `len` values, each encoded.
fn blocks<B: IntoIterator<Item = u8>>(
    values: &[f64],
    len: usize,
    encode: impl Fn(&[f64]) -> B,
) -> Vec<u8> {
    assert!(values.len().is_multiple_of(len), "a row has whole blocks of {len}");
    values.chunks_exact(len).flat_map(encode).collect()
}

/// The values in `bytes` of type `dtype`, exactly.
///
/// # Panics
/// For a type no test stores.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    match dtype {
        DType::F32 => words(bytes, |word| f64::from(f32::from_le_bytes(word))),
        DType::F16 => words(bytes, |word| f16::from_le_bytes(word).to_f64()),
        DType::Bf16 => words(bytes, |word| bf16::from_le_bytes(word).to_f64()),
        DType::I32 => words(bytes, |word| f64::from(i32::from_le_bytes(word))),
        DType::Bool => words(bytes, |[byte]| f64::from(u8::from(byte != 0))),
        DType::Q8_0 => bytes.chunks_exact(2 + Q8_BLOCK).flat_map(decode_q8_0).collect(),
        DType::Q4_0 => bytes.chunks_exact(2 + Q4_BLOCK / 2).flat_map(decode_q4_0).collect(),
        DType::Q5_0 => bytes.chunks_exact(6 + Q5_BLOCK / 2).flat_map(decode_q5_0).collect(),
        DType::Q4K => bytes.chunks_exact(144).flat_map(super_blocks::decode_q4_k).collect(),
        DType::Q5K => bytes.chunks_exact(176).flat_map(super_blocks::decode_q5_k).collect(),
        DType::Q6K => bytes.chunks_exact(210).flat_map(super_blocks::decode_q6_k).collect(),
        other => panic!("the test kit stores no {other}"),
    }
}

/// `values` after storage in `dtype`: what an oracle must be given.
pub fn rounded(dtype: DType, values: &[f64]) -> Vec<f64> {
    // The float types without the detour through bytes: long cases have millions of values.
    let each = |round: fn(f64) -> f64| values.iter().map(|&value| round(value)).collect();
    match dtype {
        DType::F32 => each(|value| f64::from(value as f32)),
        DType::F16 => each(|value| f16::from_f64(value).to_f64()),
        DType::Bf16 => each(|value| bf16::from_f64(value).to_f64()),
        dtype => decode(dtype, &encode(dtype, values)),
    }
}

/// The most negative finite value of a float type, which many programs write into masks.
///
/// # Panics
/// For a type that is no float.
pub fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::MIN),
        DType::F16 => f16::MIN.to_f64(),
        DType::Bf16 => bf16::MIN.to_f64(),
        other => panic!("{other} is no float type"),
    }
}

/// One block of NaN, or of a value no test expects where a type has no NaN.
pub fn poison(dtype: DType) -> Vec<u8> {
    match dtype {
        DType::Q8_0 => encode(dtype, &[f64::NAN; Q8_BLOCK]),
        DType::I32 => i32::MAX.to_le_bytes().to_vec(),
        dtype => encode(dtype, &[f64::NAN]),
    }
}

fn each<const N: usize>(values: &[f64], encode: impl Fn(f64) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| encode(value)).collect()
}

fn words<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes.as_chunks::<N>().0.iter().map(|&word| decode(word)).collect()
}

/// A block with anything that is not finite becomes a block of NaN: q8_0 has no other way to
/// say so.
fn encode_q8_0(block: &[f64]) -> [u8; 2 + Q8_BLOCK] {
    let largest = block.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let finite = block.iter().all(|value| value.is_finite());
    let scale = f16::from_f64(if finite { largest / 127.0 } else { f64::NAN });
    let mut bytes = [0; 2 + Q8_BLOCK];
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    for (byte, value) in bytes[2..].iter_mut().zip(block) {
        let quotient = if finite && largest > 0.0 { value / scale.to_f64() } else { 1.0 };
        *byte = (quotient.round().clamp(-127.0, 127.0) as i8).to_le_bytes()[0];
    }
    bytes
}

fn decode_q8_0(block: &[u8]) -> impl Iterator<Item = f64> {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f64();
    block[2..].iter().map(move |&byte| scale * f64::from(i8::from_le_bytes([byte])))
}

/// Codes of -7 to 7 alone, so that a block that was stored once stays as it is.
fn encode_q4_0(block: &[f64]) -> [u8; 2 + Q4_BLOCK / 2] {
    let largest = block.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let scale = f16::from_f64(largest / 7.0);
    let code = |value: f64| {
        let quotient = if largest > 0.0 { value / scale.to_f64() } else { 0.0 };
        (quotient.round().clamp(-7.0, 7.0) + 8.0) as u8
    };
    let mut bytes = [0; 2 + Q4_BLOCK / 2];
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    let (low, high) = block.split_at(Q4_BLOCK / 2);
    for ((byte, &low), &high) in bytes[2..].iter_mut().zip(low).zip(high) {
        *byte = code(low) | code(high) << 4;
    }
    bytes
}

fn decode_q4_0(block: &[u8]) -> impl Iterator<Item = f64> {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f64();
    let value = move |code: u8| scale * (f64::from(code) - 8.0);
    let low = block[2..].iter().map(move |byte| value(byte & 15));
    low.chain(block[2..].iter().map(move |byte| value(byte >> 4)))
}

/// Codes of -15 to 15 alone, as [`encode_q4_0`] does.
fn encode_q5_0(block: &[f64]) -> [u8; 6 + Q5_BLOCK / 2] {
    let largest = block.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let scale = f16::from_f64(largest / 15.0);
    let mut bytes = [0; 6 + Q5_BLOCK / 2];
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    let mut fifth = 0u32;
    for (element, value) in block.iter().enumerate() {
        let quotient = if largest > 0.0 { value / scale.to_f64() } else { 0.0 };
        let code = (quotient.round().clamp(-15.0, 15.0) + 16.0) as u8;
        fifth |= u32::from(code >> 4) << element;
        bytes[6 + element % 16] |= (code & 15) << (element / 16 * 4);
    }
    bytes[2..6].copy_from_slice(&fifth.to_le_bytes());
    bytes
}

fn decode_q5_0(block: &[u8]) -> impl Iterator<Item = f64> {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f64();
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    (0..Q5_BLOCK).map(move |element| {
        let low = block[6 + element % 16] >> (element / 16 * 4) & 15;
        let code = u32::from(low) | (fifth >> element & 1) << 4;
        scale * (f64::from(code) - 16.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn storage_rounds_once_and_then_holds() {
        let mut random = Random::new(1);
        let values: Vec<f64> = (0..256).map(|_| random.normal()).collect();
        for (dtype, error) in [
            (DType::F32, 2f64.powi(-24)),
            (DType::F16, 2f64.powi(-11)),
            (DType::Bf16, 2f64.powi(-8)),
            (DType::Q8_0, 1.0 / 127.0),
            (DType::Q4_0, 1.0 / 13.0),
            (DType::Q5_0, 1.0 / 29.0),
            // Half a step of twice the largest value, and what scales rounded down cut off.
            (DType::Q4K, 1.0 / 9.0),
            (DType::Q5K, 1.0 / 15.0),
            (DType::Q6K, 1.0 / 25.0),
        ] {
            let once = rounded(dtype, &values);
            for (value, once) in values.iter().zip(&once) {
                assert!((value - once).abs() <= 3.5 * error, "{dtype}: {value} became {once}");
            }
            assert_ne!(once, values, "{dtype} must round");
            assert_eq!(rounded(dtype, &once), once, "{dtype}");
            assert_eq!(decode(dtype, &encode(dtype, &values)), once, "{dtype} through bytes");
        }
    }

    #[test]
    fn poison_is_poison() {
        for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
            assert!(decode(dtype, &poison(dtype)).iter().all(|value| value.is_nan()), "{dtype}");
        }
    }

    #[test]
    fn zeros_stay_zeros_in_blocks() {
        use DType::{Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
        for dtype in [Q8_0, Q4_0, Q5_0, Q4K, Q5K, Q6K] {
            assert_eq!(rounded(dtype, &[0.0; 256]), [0.0; 256], "{dtype}");
        }
    }
}
