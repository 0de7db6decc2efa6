//! One attention call as both SDPA kernels see it: operands, and which key each query may see.
//!
//! Not: how the products are computed (`legacy/sdpa.rs`, `graph/sdpa/`).

use metallic::op::Band;
use metallic::tensor::{DType, Tensor};
use metallic::{Result, op};

use super::exp::exp;
use super::quant::{bf16_bits_to_f32, f16_bits_to_f32};
use super::view::View;

/// A mask tensor broadcast to `[batch, q_heads, q_len, kv_len]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TensorMask {
    /// Added to the scores; −inf hides.
    Additive(View),
    /// Zero hides.
    Bool(View),
}

impl TensorMask {
    /// `mask` as seen by `q` and `k`.
    pub(crate) fn new(mask: &op::MaskTensor, q: &Tensor, k: &Tensor) -> Result<Self> {
        let (q, k) = (q.shape(), k.shape());
        let scores = [q[0], q[1], q[2], k[2]];
        Ok(match mask {
            op::MaskTensor::Additive(mask) => Self::Additive(View::input(&mask.broadcast(scores)?)),
            op::MaskTensor::Bool(mask) => Self::Bool(View::input(&mask.broadcast(scores)?)),
        })
    }
}

/// Operands and rules of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// `[batch, q_heads, q_len, head_dim]`
    pub q: View,
    /// `[batch, kv_heads, kv_len, head_dim]`
    pub k: View,
    /// `[batch, kv_heads, kv_len, v_dim]`
    pub v: View,
    /// `[batch, q_heads, q_len, v_dim]`
    pub out: View,
    /// Mask tensor.
    pub mask: Option<TensorMask>,
    /// i32 `[batch]`, on the last axis.
    pub kv_lens: Option<View>,
    /// Visible diagonals.
    pub band: Band,
    /// Factor of the scores.
    pub scale: f32,
    /// Bound of the scores.
    pub softcap: Option<f32>,
}

/// A query: sequence, head, position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub batch: usize,
    pub head: usize,
    pub position: usize,
}

impl Attention {
    pub(crate) fn batch(&self) -> usize {
        self.q.shape[0]
    }

    pub(crate) fn q_len(&self) -> usize {
        self.q.shape[2]
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.q.shape[3]
    }

    pub(crate) fn kv_heads(&self) -> usize {
        self.k.shape[1]
    }

    pub(crate) fn kv_len(&self) -> usize {
        self.k.shape[2]
    }

    pub(crate) fn v_dim(&self) -> usize {
        self.v.shape[3]
    }

    /// Query heads per key head.
    pub(crate) fn group(&self) -> usize {
        self.q.shape[1] / self.k.shape[1]
    }

    /// Live keys of a sequence.
    pub(crate) fn live(&self, batch: usize) -> usize {
        let Some(lens) = self.kv_lens else { return self.kv_len() };
        let at = lens.row([0, 0, 0]).wrapping_add(batch * lens.element_stride());
        // SAFETY: `kv_lens` has one i32 for each sequence.
        let live = unsafe { at.cast::<i32>().read_unaligned() };
        usize::try_from(live).unwrap_or(0).min(self.kv_len())
    }

    /// The keys `start .. end` that band and live length leave to queries at `position`. Both
    /// ends grow with the position.
    pub(crate) fn visible(&self, batch: usize, position: usize) -> (usize, usize) {
        let live = self.live(batch);
        let (start, end) =
            self.band.visible(position, self.band.diagonal(self.q_len(), live), live);
        (start, end.max(start))
    }

    /// Whether `query` may see `key`, by all rules together.
    pub(crate) fn allows(&self, query: Query, key: usize) -> bool {
        let (start, end) = self.visible(query.batch, query.position);
        if !(start..end).contains(&key) {
            return false;
        }
        let mut score = [0.0];
        self.mask_row(query, key, 1, &mut score);
        score[0] != f32::NEG_INFINITY
    }

    /// Applies the mask tensor to the scores of `query` for keys `first, first + 1, …`, every
    /// `stride`-th element of `scores`. What is hidden becomes −inf whatever it was.
    #[inline(always)]
    pub(crate) fn mask_row(&self, query: Query, first: usize, stride: usize, scores: &mut [f32]) {
        let Query { batch, head, position } = query;
        let row = |view: &View| MaskRow::new(view, [batch, head, position], first);
        // SAFETY (all reads below): the mask broadcasts to the scores, so it has this row, with
        // an element for each key.
        match &self.mask {
            None => {}
            Some(TensorMask::Bool(view)) => {
                let mask = row(view);
                for (key, score) in scores.iter_mut().step_by(stride).enumerate() {
                    // SAFETY: see above.
                    let allowed = unsafe { mask.read::<u8>(key) } != 0;
                    *score = if allowed { *score } else { f32::NEG_INFINITY };
                }
            }
            Some(TensorMask::Additive(view)) => {
                let mask = row(view);
                match view.dtype {
                    DType::F16 => add_mask(scores, stride, |key| {
                        // SAFETY: see above.
                        f16_bits_to_f32(unsafe { mask.read(key) })
                    }),
                    DType::Bf16 => add_mask(scores, stride, |key| {
                        // SAFETY: see above.
                        bf16_bits_to_f32(unsafe { mask.read(key) })
                    }),
                    _ => add_mask(scores, stride, |key| {
                        // SAFETY: see above.
                        unsafe { mask.read(key) }
                    }),
                }
            }
        }
    }
}

/// A value row with a NaN or an infinity in it, taken out of its tile.
pub(crate) struct NonFinite {
    /// Its place in the tile.
    pub key: usize,
    /// The row.
    pub value: Vec<f32>,
}

/// Whether some element is NaN or infinite. Vectorises.
#[inline(always)]
pub(crate) fn any_non_finite(x: &[f32]) -> bool {
    x.iter().fold(false, |found, x| found | (x.to_bits() & 0x7f80_0000 == 0x7f80_0000))
}

/// Replaces value rows with NaN or infinity by zeros, since 0 · NaN would let a hidden one
/// through, and returns them. `tile`: rows of `stride` elements, `v_dim` of them used.
#[cold]
pub(crate) fn take_non_finite(tile: &mut [f32], stride: usize, v_dim: usize) -> Vec<NonFinite> {
    let mut taken = Vec::new();
    for (key, row) in tile.chunks_exact_mut(stride).enumerate() {
        let row = &mut row[..v_dim];
        if any_non_finite(row) {
            taken.push(NonFinite { key, value: row.to_vec() });
            row.fill(0.0);
        }
    }
    taken
}

/// `sum += weight · value`.
pub(crate) fn add_scaled(sum: &mut [f32], weight: f32, value: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(value) {
        *sum += weight * value;
    }
}

/// One row of a mask tensor.
#[derive(Clone, Copy)]
pub(crate) struct MaskRow {
    at: *mut u8,
    step: usize,
}

impl MaskRow {
    /// The row of `mask` at `[a, b, c]`, from column `first` on.
    #[inline(always)]
    pub(crate) fn new(mask: &View, row: [usize; 3], first: usize) -> Self {
        let step = mask.element_stride();
        Self { at: mask.row(row).wrapping_add(first * step), step }
    }

    /// # Safety
    /// The row must have an element `key` of type `T`.
    #[inline(always)]
    pub(crate) unsafe fn read<T: Copy>(self, key: usize) -> T {
        // SAFETY: the caller's promise. Files may place tensors at any byte.
        unsafe { self.at.wrapping_add(key * self.step).cast::<T>().read_unaligned() }
    }
}

/// Adds `mask(key)` to every `stride`-th score; −inf replaces it instead, since a hidden score
/// may be NaN.
#[inline(always)]
pub(crate) fn add_mask(scores: &mut [f32], stride: usize, mask: impl Fn(usize) -> f32) {
    for (key, score) in scores.iter_mut().step_by(stride).enumerate() {
        let added = mask(key);
        *score = if added == f32::NEG_INFINITY { added } else { *score + added };
    }
}

/// Bounds scores: `cap · tanh(s / cap)`.
#[inline(always)]
pub(crate) fn soften(scores: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for score in scores {
        *score = cap * tanh(*score * inverse);
    }
}

/// tanh to a few units in the last place: from e^2x, and near 0, where that loses digits, from
/// the Taylor series.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let far = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    let square = x * x;
    let mut series = 62.0 / 2835.0;
    for c in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0] {
        series = series * square + c;
    }
    let near = x + x * square * series;
    if x.abs() < 0.3 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_accurate_and_saturates() {
        for step in -4000..4000 {
            let x = step as f32 * 0.005 + 1e-4;
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs();
            assert!(error <= 6e-7 * want.abs() + 1e-12, "{x}: {error}");
        }
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }
}
