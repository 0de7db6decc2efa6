//! The numbers of one attention call that change from step to step, as a feed of four integers.

use bytemuck::{Pod, Zeroable};
use metallic::op::{Band, MaskKind};

/// Beyond any position there is (an axis has at most 2³¹ / 8 elements), with room to add two.
const FAR: i128 = 1 << 28;

/// Fed as i32 `[4]`.
///
/// Query `i` sees key `j` when `j < live` and `i + low <= j <= i + high`, where `live` is `kv_len`
/// or the sequence's own live length, clamped to it, and `live` is added to `low` and `high`
/// unless the caller placed the diagonal.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Lengths {
    /// Keys of each sequence that the call gave, live or not.
    pub(crate) kv_len: i32,
    /// First visible key less the query's position.
    pub(crate) low: i32,
    /// Last visible key less the query's position.
    pub(crate) high: i32,
    /// Unused: rows of an array are 16 bytes at least.
    pub(crate) padding: i32,
}

impl Lengths {
    /// The numbers of a call with `q_len` queries and `kv_len` keys; `offset` is where the caller
    /// placed the diagonal.
    pub(crate) fn new(kind: &MaskKind, q_len: usize, kv_len: usize, offset: Option<i64>) -> Self {
        let MaskKind { left, right, .. } = *kind;
        let Band { offset, .. } = Band { left, right, offset };
        let diagonal = offset.map_or(-(q_len as i128), i128::from);
        let bound = |place: i128| place.clamp(-FAR, FAR) as i32;
        // Live lengths are below FAR / 2, so clamping a side keeps what it hides.
        let left = left.map_or(FAR * 2, |left| left as i128);
        let right = right.map_or(FAR * 2, |right| right as i128);
        Self {
            kv_len: bound(kv_len as i128),
            low: bound(diagonal - left),
            high: bound(diagonal + right),
            padding: 0,
        }
    }

    /// The same for queries that begin `rows` later.
    pub(crate) fn moved_by(self, rows: usize) -> Self {
        let rows = rows as i32;
        Self { low: self.low + rows, high: self.high + rows, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metallic::op::MaskTensorKind;

    fn sees(lengths: Lengths, kind: &MaskKind, live: i64, row: i64, key: i64) -> bool {
        let shift = if kind.fixed_offset { 0 } else { live };
        let place = key - row;
        key < live.min(lengths.kv_len.into())
            && (kind.left.is_none() || place >= i64::from(lengths.low) + shift)
            && (kind.right.is_none() || place <= i64::from(lengths.high) + shift)
    }

    #[test]
    fn they_say_what_a_band_says() {
        let bounds = [None, Some(0), Some(3), Some(usize::MAX)];
        let offsets = [None, Some(0), Some(-2), Some(20), Some(i64::MAX), Some(i64::MIN)];
        let tensor = MaskTensorKind::None;
        for (left, right) in bounds.iter().flat_map(|left| bounds.map(|right| (*left, right))) {
            for offset in offsets {
                let band = Band { left, right, offset };
                let kind = MaskKind { left, right, fixed_offset: offset.is_some(), tensor };
                for (q_len, kv_len, live) in [(1, 9, 9), (4, 9, 5), (7, 3, 3)] {
                    for first in [0, 1] {
                        let lengths = Lengths::new(&kind, q_len, kv_len, offset).moved_by(first);
                        for row in first..q_len {
                            let seen = band.visible(row, band.diagonal(q_len, live), live);
                            for key in 0..kv_len {
                                let want = (seen.0..seen.1).contains(&key);
                                let at = (row - first) as i64;
                                let got = sees(lengths, &kind, live as i64, at, key as i64);
                                assert_eq!(got, want, "{band:?} {q_len} {live} {row} {key}");
                            }
                        }
                    }
                }
            }
        }
    }
}
