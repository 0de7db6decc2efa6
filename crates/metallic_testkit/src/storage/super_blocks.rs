//! q4_k, q5_k and q6_k: super-blocks of 256 elements in ggml's layouts, to f64 and back.
//!
//! The simplest quantiser that holds what it stored: scales are rounded towards 0, so that the
//! extreme codes of every part occur and the same scales are found again. Not the best one: what
//! matters is that a block is valid and that the oracle reads the same numbers as a device.

use half::f16;

/// Elements of a super-block.
pub(super) const LEN: usize = 256;
/// Elements of a part of q4_k and q5_k, and of q6_k.
const PART: usize = 32;
const PART_6: usize = 16;
/// Largest scale of a part of q4_k and q5_k (6 bits), and of q6_k (a signed byte).
const MAX_SCALE: f64 = 63.0;
const MAX_SCALE_6: f64 = 127.0;
/// Largest code of q6_k that is used, on either side of 0.
const MAX_CODE_6: f64 = 31.0;

/// The largest f16 that is not above `value`, which is not negative.
fn f16_below(value: f64) -> f16 {
    let near = f16::from_f64(value);
    if near.to_f64() > value { f16::from_bits(near.to_bits() - 1) } else { near }
}

/// How often `unit` goes into `value`, at most `most`; 0 of a unit of 0.
fn times(value: f64, unit: f64, most: f64) -> f64 {
    if unit > 0.0 { (value / unit).floor().clamp(0.0, most) } else { 0.0 }
}

/// `(value − base) / step` as a code from `least` to `most`.
fn code(value: f64, step: f64, least: f64, most: f64) -> f64 {
    if step > 0.0 { (value / step).round().clamp(least, most) } else { 0.0 }
}

/// A super-block of parts with a scale and a minimum each: `d · scale · code − dmin · minimum`.
struct Parts {
    d: f16,
    dmin: f16,
    scales: [u8; LEN / PART],
    minimums: [u8; LEN / PART],
    codes: [u8; LEN],
}

impl Parts {
    /// The parts of `values` with codes up to `most`.
    fn of(values: &[f64], most: f64) -> Self {
        let fold = |part: &[f64], pick: fn(f64, f64) -> f64, first: f64| {
            part.iter().copied().fold(first, pick)
        };
        let parts: Vec<&[f64]> = values.chunks_exact(PART).collect();
        let lows: Vec<f64> = parts.iter().map(|part| -fold(part, f64::min, 0.0)).collect();
        let dmin = f16_below(fold(&lows, f64::max, 0.0) / MAX_SCALE);
        let minimum = |low: f64| times(low, dmin.to_f64(), MAX_SCALE);
        let minimums: Vec<f64> = lows.into_iter().map(minimum).collect();
        let above = parts.iter().zip(&minimums).map(|(part, minimum)| {
            let high = fold(part, f64::max, f64::NEG_INFINITY);
            (high + dmin.to_f64() * minimum).max(0.0)
        });
        let above: Vec<f64> = above.collect();
        let d = f16_below(fold(&above, f64::max, 0.0) / (most * MAX_SCALE));
        let mut made =
            Self { d, dmin, scales: [0; LEN / PART], minimums: [0; LEN / PART], codes: [0; LEN] };
        for (index, part) in parts.into_iter().enumerate() {
            let scale = times(above[index], most * d.to_f64(), MAX_SCALE);
            made.scales[index] = scale as u8;
            made.minimums[index] = minimums[index] as u8;
            for (element, value) in part.iter().enumerate() {
                let from_base = value + dmin.to_f64() * minimums[index];
                let code = code(from_base, d.to_f64() * scale, 0.0, most);
                made.codes[index * PART + element] = code as u8;
            }
        }
        made
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        (0..LEN).map(|index| {
            let part = index / PART;
            self.d.to_f64() * f64::from(self.scales[part]) * f64::from(self.codes[index])
                - self.dmin.to_f64() * f64::from(self.minimums[part])
        })
    }

    /// Scales and minimums, 6 bits each: the first four of both in the low bits of a byte, the others
    /// four bits together in one byte and two bits above the first ones.
    fn packed(&self) -> [u8; 12] {
        let (scales, minimums) = (&self.scales, &self.minimums);
        let mut bytes = [0; 12];
        for part in 0..4 {
            bytes[part] = scales[part] | scales[part + 4] >> 4 << 6;
            bytes[part + 4] = minimums[part] | minimums[part + 4] >> 4 << 6;
            bytes[part + 8] = scales[part + 4] & 15 | (minimums[part + 4] & 15) << 4;
        }
        bytes
    }

    /// d, dmin and the packed scales at the start of `block`; codes are left out.
    fn unpack(block: &[u8]) -> Self {
        let at = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let (mut scales, mut minimums) = ([0; LEN / PART], [0; LEN / PART]);
        let bytes = &block[4..16];
        for part in 0..4 {
            (scales[part], minimums[part]) = (bytes[part] & 63, bytes[part + 4] & 63);
            scales[part + 4] = bytes[part + 8] & 15 | bytes[part] >> 6 << 4;
            minimums[part + 4] = bytes[part + 8] >> 4 | bytes[part + 4] >> 6 << 4;
        }
        Self { d: at(0), dmin: at(2), scales, minimums, codes: [0; LEN] }
    }

    fn head(&self) -> Vec<u8> {
        let numbers = [self.d.to_le_bytes(), self.dmin.to_le_bytes()];
        [numbers.as_flattened(), &self.packed()].concat()
    }
}

/// The byte and the half of it that hold an element's low four bits: parts lie in pairs, the first
/// in the low halves of 32 bytes.
fn nibble(element: usize) -> (usize, usize) {
    let (pair, within) = (element / (2 * PART), element % (2 * PART));
    (pair * PART + within % PART, within / PART * 4)
}

/// Low four bits of all codes.
fn nibbles(codes: &[u8; LEN]) -> [u8; LEN / 2] {
    let mut bytes = [0; LEN / 2];
    for (element, code) in codes.iter().enumerate() {
        let (byte, shift) = nibble(element);
        bytes[byte] |= (code & 15) << shift;
    }
    bytes
}

pub(super) fn encode_q4_k(values: &[f64]) -> Vec<u8> {
    let parts = Parts::of(values, 15.0);
    [parts.head(), nibbles(&parts.codes).to_vec()].concat()
}

pub(super) fn decode_q4_k(block: &[u8]) -> Vec<f64> {
    let mut parts = Parts::unpack(block);
    for (element, code) in parts.codes.iter_mut().enumerate() {
        let (byte, shift) = nibble(element);
        *code = block[16 + byte] >> shift & 15;
    }
    parts.values().collect()
}

pub(super) fn encode_q5_k(values: &[f64]) -> Vec<u8> {
    let parts = Parts::of(values, 31.0);
    // Bit p of byte e is the fifth bit of element e of part p.
    let mut fifth = [0u8; PART];
    for (element, code) in parts.codes.iter().enumerate() {
        fifth[element % PART] |= (code >> 4) << (element / PART);
    }
    [parts.head(), fifth.to_vec(), nibbles(&parts.codes).to_vec()].concat()
}

pub(super) fn decode_q5_k(block: &[u8]) -> Vec<f64> {
    let mut parts = Parts::unpack(block);
    for (element, code) in parts.codes.iter_mut().enumerate() {
        let (byte, shift) = nibble(element);
        let fifth = block[16 + element % PART] >> (element / PART) & 1;
        *code = block[16 + PART + byte] >> shift & 15 | fifth << 4;
    }
    parts.values().collect()
}

/// Where an element of q6_k has its low four and its high two bits: byte and shift of each.
fn places_6(element: usize) -> [(usize, usize); 2] {
    let (half, within) = (element / 128, element % 128);
    let (quarter, column) = (within / 32, within % 32);
    let low = (half * 64 + quarter % 2 * 32 + column, quarter / 2 * 4);
    [low, (half * 32 + column, quarter * 2)]
}

pub(super) fn encode_q6_k(values: &[f64]) -> Vec<u8> {
    let largest = |part: &[f64]| part.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let d = f16_below(largest(values) / (MAX_CODE_6 * MAX_SCALE_6));
    let mut block = vec![0; 128 + 64 + 16];
    for (index, part) in values.chunks_exact(PART_6).enumerate() {
        let scale = times(largest(part), MAX_CODE_6 * d.to_f64(), MAX_SCALE_6);
        block[192 + index] = scale as u8;
        for (element, value) in part.iter().enumerate() {
            let code = code(*value, d.to_f64() * scale, -MAX_CODE_6, MAX_CODE_6) + 32.0;
            let [(low, shift), (high, above)] = places_6(index * PART_6 + element);
            block[low] |= (code as u8 & 15) << shift;
            block[128 + high] |= (code as u8 >> 4) << above;
        }
    }
    block.extend(d.to_le_bytes());
    block
}

pub(super) fn decode_q6_k(block: &[u8]) -> Vec<f64> {
    let d = f16::from_le_bytes([block[208], block[209]]).to_f64();
    let value = |element: usize| {
        let [(low, shift), (high, above)] = places_6(element);
        let code = block[low] >> shift & 15 | (block[128 + high] >> above & 3) << 4;
        let scale = f64::from(i8::from_le_bytes([block[192 + element / PART_6]]));
        d * scale * (f64::from(code) - 32.0)
    };
    (0..LEN).map(value).collect()
}
