//! Few rows: one new token, or as many as share a key head. Keys and values stream by once.
//!
//! With few rows, unpacking a tile of keys costs as much as using it. Here keys and values are
//! converted in registers and never stored, the lanes of a score vector are keys, and both
//! products read what they broadcast from the first-level cache. Every product is taken, also of
//! keys that a mask gives no weight: so when a sum is not finite in the end, the caller starts
//! again with the general loop, which looks at each such key.
//!
//! Not: the usual shapes on AVX-512 (`few_lanes.rs`), the first product (`few_scores.rs`), unpacked
//! tiles (`block.rs`), the rows that stand for queries and their masks (`attention.rs`).

use std::ops::Range;

use metallic::tensor::DType;

use super::PREFETCH_KEYS;
use super::block::Item;
use super::tile::{Bf16Rows, F16Rows, F32Rows, Q8Rows, Stored, all_finite, load_vectors};
use crate::cpu::attention::{Attention, soften};
use crate::cpu::exp::exp;
use crate::cpu::simd::prefetch;
use crate::cpu::vector_math::F32Math;
use crate::cpu::view::View;

/// Rows that this kernel takes at most.
pub(super) const MAX_ROWS: usize = 8;
/// Keys between two looks at the maximum.
pub(super) const TILE_KEYS: usize = 64;
/// Rows of values that are summed together: with four vectors each, as many values and one weight
/// they fit 32 registers. Seven would fit too, but the compiler then spills.
const VALUE_ROWS: usize = 6;

/// Floats of scratch for scores.
pub(super) const SCORES: usize = MAX_ROWS * TILE_KEYS;
/// Floats of scratch for products whose lanes are not summed yet, for `lanes` lanes.
pub(super) const fn unsummed(lanes: usize) -> usize {
    MAX_ROWS * lanes * lanes
}

/// One item with few rows, and its part of the keys.
pub(super) struct Few<'a> {
    pub call: &'a Attention,
    pub item: Item,
    pub rows: usize,
    /// Keys that some row sees.
    pub keys: Range<usize>,
    /// Keys that every row sees, by band and length.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for `few_lanes` alone"))]
    pub every: Range<usize>,
    /// `[rows, head_dim]`, scaled.
    pub q: *const f32,
    /// `[rows, v_dim]`, zeros before.
    pub acc: *mut f32,
    /// `[rows]`, −inf before.
    pub max: *mut f32,
    /// `[rows]`, zeros before.
    pub sum: *mut f32,
    /// [`SCORES`] floats.
    pub scores: *mut f32,
    /// [`unsummed`] floats.
    pub unsummed: *mut f32,
}

/// Whether [`Few::run`] takes calls like `call` with items of `rows` rows.
pub(super) fn takes<V: F32Math>(call: &Attention, rows: usize) -> bool {
    let (k, v) = (call.k.dtype, call.v.dtype);
    rows <= MAX_ROWS
        && k == v
        && matches!(k, DType::F32 | DType::F16 | DType::Bf16 | DType::Q8_0)
        && call.head_dim().is_multiple_of(V::LANES)
        && call.v_dim().is_multiple_of(V::LANES)
}

/// Stored rows of keys or values.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    first: *const u8,
    step: usize,
    bytes: usize,
}

impl Rows {
    fn new(view: &View, batch: usize, kv_head: usize) -> Self {
        let bytes = view.dtype.row_bytes(view.shape[3]).unwrap_or_default();
        Self { first: view.row([batch, kv_head, 0]), step: view.row_stride(), bytes }
    }

    #[inline(always)]
    pub(super) fn row(&self, key: usize) -> *const u8 {
        self.first.wrapping_add(key * self.step)
    }

    /// Asks for the row some way behind `key`.
    #[inline(always)]
    pub(super) fn prefetch(&self, key: usize) {
        let row = self.row(key + PREFETCH_KEYS);
        for line in (0..self.bytes).step_by(64) {
            prefetch(row.wrapping_add(line));
        }
    }
}

impl Few<'_> {
    /// Adds all keys to the running state; false when a sum is not finite, and nothing is worth
    /// keeping. NV is how many vectors of values are summed at once.
    ///
    /// # Safety
    /// The pointers must hold what their fields say; [`takes`] said yes; `V`'s instructions exist.
    #[inline(always)]
    pub(super) unsafe fn run<V: F32Math, const NV: usize>(&self) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            match self.call.k.dtype {
                DType::F16 => self.run_stored::<V, F16Rows, NV>(),
                DType::Bf16 => self.run_stored::<V, Bf16Rows, NV>(),
                DType::Q8_0 => self.run_stored::<V, Q8Rows, NV>(),
                _ => self.run_stored::<V, F32Rows, NV>(),
            }
        }
    }

    #[inline(always)]
    unsafe fn run_stored<V: F32Math, S: Stored, const NV: usize>(&self) -> bool {
        if self.keys.is_empty() {
            return true;
        }
        let keys = Rows::new(&self.call.k, self.item.batch, self.item.kv_head);
        let values = Rows::new(&self.call.v, self.item.batch, self.item.kv_head);
        // SAFETY: 16 lanes are AVX-512's; else as below.
        #[cfg(target_arch = "x86_64")]
        if V::LANES == 16 && unsafe { self.lanes::<S>(keys, values) } {
            // SAFETY: as below.
            return unsafe { self.is_finite::<V>() };
        }
        let mut tile = self.keys.start;
        while tile < self.keys.end {
            let count = TILE_KEYS.min(self.keys.end - tile);
            // SAFETY: the caller's promise; the tile lies in `keys`.
            unsafe {
                self.scores::<V, S>(keys, tile, count);
                self.mask(tile, count);
                let alpha = self.weigh::<V>(count);
                self.add_values::<V, S, NV>(values, tile, count, &alpha);
            }
            tile += count;
        }
        // SAFETY: as above.
        unsafe { self.is_finite::<V>() }
    }

    /// Softcap, band and mask tensor.
    fn mask(&self, first: usize, count: usize) {
        let call = self.call;
        for row in 0..self.rows {
            // SAFETY: the scratch has TILE_KEYS scores for each row.
            let scores =
                unsafe { std::slice::from_raw_parts_mut(self.scores.add(row * TILE_KEYS), count) };
            if let Some(cap) = call.softcap {
                soften(scores, cap);
            }
            let query = self.item.query(call, row);
            let (start, end) = call.visible(self.item.batch, query.position);
            if start > first {
                scores[..count.min(start - first)].fill(f32::NEG_INFINITY);
            }
            if end < first + count {
                scores[end.saturating_sub(first)..].fill(f32::NEG_INFINITY);
            }
            if call.mask.is_some() {
                call.mask_row(query, first, 1, scores);
            }
        }
    }

    /// Replaces scores by e^(score − max), and updates maxima and sums. Returns what each row's
    /// sums so far are to be multiplied with.
    #[inline(always)]
    unsafe fn weigh<V: F32Math>(&self, count: usize) -> [f32; MAX_ROWS] {
        let padded = count.next_multiple_of(V::LANES);
        let mut alphas = [1.0; MAX_ROWS];
        for (row, alpha) in alphas.iter_mut().enumerate().take(self.rows) {
            // SAFETY: the scratch has TILE_KEYS scores for each row, a multiple of the lanes.
            unsafe {
                let scores = self.scores.add(row * TILE_KEYS);
                for at in count..padded {
                    *scores.add(at) = f32::NEG_INFINITY;
                }
                let old = *self.max.add(row);
                let mut max = V::splat(old);
                for at in (0..padded).step_by(V::LANES) {
                    max = max.max_number(V::load(scores.add(at)));
                }
                let max = max.max_lane();
                // −inf − −inf would be NaN; a finite stand-in gives e^−inf = 0.
                let base = max.max(f32::MIN);
                let mut sum = V::splat(0.0);
                for at in (0..padded).step_by(V::LANES) {
                    let weight = V::load(scores.add(at)).sub(V::splat(base)).exp();
                    weight.store(scores.add(at));
                    sum = sum.add(weight);
                }
                *alpha = if max > old { exp(old - base) } else { 1.0 };
                *self.sum.add(row) = *self.sum.add(row) * *alpha + sum.sum_lanes();
                *self.max.add(row) = max;
            }
        }
        alphas
    }

    /// Adds `count` weighted values from key `first` on to the sums.
    #[inline(always)]
    unsafe fn add_values<V: F32Math, S: Stored, const NV: usize>(
        &self,
        values: Rows,
        first: usize,
        count: usize,
        alpha: &[f32; MAX_ROWS],
    ) {
        let vectors = self.call.v_dim() / V::LANES;
        // Equal parts: 7 rows are 4 and 3, not 6 and 1.
        let together = self.rows.div_ceil(self.rows.div_ceil(VALUE_ROWS));
        for row in (0..self.rows).step_by(together) {
            let rows = together.min(self.rows - row);
            for from in (0..vectors).step_by(NV) {
                let sums =
                    Sums { row, from, first, count, values, prefetch: row == 0 && from == 0 };
                // SAFETY: rows and vectors lie inside the sums.
                unsafe {
                    match (vectors - from).min(NV) {
                        4 => self.values_rows::<V, S, 4>(rows, sums, alpha),
                        3 => self.values_rows::<V, S, 3>(rows, sums, alpha),
                        2 => self.values_rows::<V, S, 2>(rows, sums, alpha),
                        _ => self.values_rows::<V, S, 1>(rows, sums, alpha),
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn values_rows<V: F32Math, S: Stored, const NV: usize>(
        &self,
        rows: usize,
        sums: Sums,
        alpha: &[f32; MAX_ROWS],
    ) {
        // SAFETY: the caller's promise, for `rows` rows.
        unsafe {
            match rows {
                1 => self.values_of::<V, S, 1, NV>(sums, alpha),
                2 => self.values_of::<V, S, 2, NV>(sums, alpha),
                3 => self.values_of::<V, S, 3, NV>(sums, alpha),
                4 => self.values_of::<V, S, 4, NV>(sums, alpha),
                5 => self.values_of::<V, S, 5, NV>(sums, alpha),
                _ => self.values_of::<V, S, VALUE_ROWS, NV>(sums, alpha),
            }
        }
    }

    #[inline(always)]
    unsafe fn values_of<V: F32Math, S: Stored, const R: usize, const NV: usize>(
        &self,
        part: Sums,
        alpha: &[f32; MAX_ROWS],
    ) {
        let Sums { row, from, first, count, values, prefetch } = part;
        let stride = self.call.v_dim();
        // SAFETY: the caller gives R rows and NV vectors of each; keys below `count` exist.
        unsafe {
            let acc = self.acc.add(row * stride + from * V::LANES);
            let weights = self.scores.add(row * TILE_KEYS);
            let mut sums = [[V::splat(0.0); NV]; R];
            for (i, sums) in sums.iter_mut().enumerate() {
                let alpha = V::splat(alpha[row + i]);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = alpha.mul(V::load(acc.add(i * stride + j * V::LANES)));
                }
            }
            for at in 0..count {
                if prefetch {
                    values.prefetch(first + at);
                }
                let value: [V; NV] = load_vectors::<V, S, NV>(values.row(first + at), from);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let weight = V::splat(*weights.add(i * TILE_KEYS + at));
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = weight.fma(value, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    sum.store(acc.add(i * stride + j * V::LANES));
                }
            }
        }
    }

    /// Whether all sums are numbers.
    #[inline(always)]
    unsafe fn is_finite<V: F32Math>(&self) -> bool {
        // SAFETY: the sums have `rows` rows of whole vectors.
        unsafe {
            (0..self.rows).all(|row| (*self.sum.add(row)).is_finite())
                && all_finite::<V>(self.acc, self.rows * self.call.v_dim())
        }
    }
}

/// A block of sums, and the keys that enter it.
#[derive(Clone, Copy)]
struct Sums {
    row: usize,
    /// First vector of each row.
    from: usize,
    /// First key.
    first: usize,
    count: usize,
    values: Rows,
    /// Whether this is the first walk over these values.
    prefetch: bool,
}
