//! Which keys a query may see. Not: where mask buffers come from (see `cache::masks`).

use crate::tensor::{DType, Tensor};

/// A diagonal band of visible keys.
///
/// Query `i` has its diagonal at key `i + offset` and sees key `j` when
/// `i + offset - left <= j <= i + offset + right`. A bound of `None` is open.
/// `offset` defaults to `live_kv_len - q_len` of each sequence: the lower right corner, which
/// is what a KV cache needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Band {
    /// Keys visible before the diagonal; `None` for all.
    pub left: Option<usize>,
    /// Keys visible after the diagonal; `None` for all, 0 for causal attention.
    pub right: Option<usize>,
    /// The diagonal's place; `None` aligns to the lower right.
    pub offset: Option<i64>,
}

impl Band {
    /// No bound on either side.
    pub const OPEN: Band = Band { left: None, right: None, offset: None };

    /// True when the band hides nothing.
    pub fn is_open(&self) -> bool {
        self.left.is_none() && self.right.is_none()
    }

    /// The diagonal's offset for a sequence of `live_kv_len` keys and `q_len` queries.
    pub fn diagonal(&self, q_len: usize, live_kv_len: usize) -> i64 {
        self.offset.unwrap_or(live_kv_len as i64 - q_len as i64)
    }

    /// The visible keys `start .. end` of query `row` among `live_kv_len` keys; empty when
    /// `start >= end`.
    pub fn visible(&self, row: usize, diagonal: i64, live_kv_len: usize) -> (usize, usize) {
        // Wide enough for every bound and offset there is.
        let live = live_kv_len as i128;
        let center = row as i128 + i128::from(diagonal);
        let start = self.left.map_or(0, |left| center - left as i128);
        let end = self.right.map_or(live, |right| center + right as i128 + 1);
        (start.clamp(0, live) as usize, end.clamp(0, live) as usize)
    }
}

/// A mask given as a tensor that broadcasts to `[batch, q_heads, q_len, kv_len]`.
#[derive(Clone, Debug)]
pub enum MaskTensor {
    /// Added to the scaled scores: 0 allows, −inf disallows; f32, f16 or bf16.
    Additive(Tensor),
    /// Non-zero bytes allow, zero disallows.
    Bool(Tensor),
}

impl MaskTensor {
    /// Sequences and heads of the tensor as it broadcasts to `[batch, heads, q_len, kv_len]`; 1
    /// where it has no such axis.
    pub(crate) fn batch_and_heads(&self) -> (usize, usize) {
        let (MaskTensor::Additive(tensor) | MaskTensor::Bool(tensor)) = self;
        let shape = tensor.shape();
        let from_last = |n: usize| shape.len().checked_sub(n).map_or(1, |axis| shape[axis]);
        (from_last(4), from_last(3))
    }
}

/// The mask of one attention call: a band and a tensor, both optional, both in force.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// The band.
    pub band: Band,
    /// The tensor.
    pub tensor: Option<MaskTensor>,
}

impl Mask {
    /// Every query sees every live key.
    pub fn none() -> Self {
        Self::default()
    }

    /// Query `i` sees keys `j <= i + live_kv_len - q_len`.
    pub fn causal() -> Self {
        Self { band: Band { right: Some(0), ..Band::OPEN }, tensor: None }
    }

    /// Causal, and at most `window` keys including the query's own (Mistral's convention).
    pub fn sliding_window(window: usize) -> Self {
        let band = Band { left: Some(window.saturating_sub(1)), right: Some(0), offset: None };
        Self { band, tensor: None }
    }

    /// Only a tensor added to the scores.
    pub fn additive(tensor: Tensor) -> Self {
        Self { band: Band::OPEN, tensor: Some(MaskTensor::Additive(tensor)) }
    }

    /// Only a tensor of permissions.
    pub fn bool(tensor: Tensor) -> Self {
        Self { band: Band::OPEN, tensor: Some(MaskTensor::Bool(tensor)) }
    }
}

/// What an executable must know of a mask: its kind, never its lengths, offset or contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaskKind {
    /// Keys visible before the diagonal; `None` for all.
    pub left: Option<usize>,
    /// Keys visible after the diagonal; `None` for all.
    pub right: Option<usize>,
    /// Whether the caller gives the diagonal's offset (its value is a feed).
    pub fixed_offset: bool,
    /// The tensor's kind.
    pub tensor: MaskTensorKind,
}

/// The kind of a mask tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskTensorKind {
    /// No tensor.
    None,
    /// Added to the scores, of this element type.
    Additive(DType),
    /// Permissions.
    Bool,
}

impl Mask {
    /// The kind of this mask.
    pub fn kind(&self) -> MaskKind {
        let tensor = match &self.tensor {
            None => MaskTensorKind::None,
            Some(MaskTensor::Additive(mask)) => MaskTensorKind::Additive(mask.dtype()),
            Some(MaskTensor::Bool(_)) => MaskTensorKind::Bool,
        };
        let Band { left, right, offset } = self.band;
        let fixed_offset = offset.is_some() && !self.band.is_open();
        MaskKind { left, right, fixed_offset, tensor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causal_aligns_to_the_lower_right() {
        let band = Mask::causal().band;
        let diagonal = band.diagonal(2, 5);
        assert_eq!(band.visible(0, diagonal, 5), (0, 4));
        assert_eq!(band.visible(1, diagonal, 5), (0, 5));
        // More queries than keys: the first rows see nothing.
        let diagonal = band.diagonal(4, 2);
        assert_eq!(band.visible(1, diagonal, 2), (0, 0));
        assert_eq!(band.visible(2, diagonal, 2), (0, 1));
    }

    #[test]
    fn windows_count_from_the_diagonal() {
        let band = Band { left: Some(1), right: Some(2), offset: Some(3) };
        assert_eq!(band.visible(0, band.diagonal(4, 9), 9), (2, 6));
        let band = Mask::sliding_window(1).band;
        assert_eq!(band.visible(3, 0, 9), (3, 4));
        let extreme =
            Band { left: Some(usize::MAX), right: Some(usize::MAX), offset: Some(i64::MAX) };
        assert_eq!(extreme.visible(usize::MAX >> 1, i64::MAX, 7), (0, 7));
        assert_eq!(extreme.visible(0, i64::MIN, 7), (0, 7));
    }
}
