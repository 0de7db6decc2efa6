//! Few rows of the usual shapes on AVX-512: the lanes of a score vector are rows.
//!
//! P is the rows R rounded up to a power of two, and a vector of scores is 16 / P keys of P rows, so that
//! the 16 sums of products over lanes are taken in registers, maxima and sums of a row need no look
//! across lanes until the tile's end, and the weights of a key lie side by side. Rows and width are
//! known to the compiler. 14/2 heads of 64 in f16, a key and its value from the caches of one Zen 5
//! core: 11 ns, where lanes that are keys take 18.
//!
//! Not: other shapes and other instructions (`few.rs`), which also says what both have in common.

use std::arch::x86_64::*;

use super::few::{Few, Rows, TILE_KEYS};
use super::tile::{F32Rows, Stored, load_vectors};
use crate::cpu::attention::soften;
use crate::cpu::vector::{F32Lanes, sums_of_16};
use crate::cpu::vector_math::F32Math;

const LANES: usize = 16;

/// Running state, lane by lane: row `lane % P`.
struct State {
    max: __m512,
    sum: __m512,
}

impl Few<'_> {
    /// Adds all keys to the running state, where the shape is one of those known; else false.
    ///
    /// # Safety
    /// As [`Few::run`]; the machine has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn lanes<S: Stored>(&self, keys: Rows, values: Rows) -> bool {
        let width = self.call.head_dim();
        if width != self.call.v_dim() {
            return false;
        }
        // SAFETY: the caller's promise; rows and width are those of the call.
        unsafe {
            match (self.rows, width) {
                (1, 64) => self.all_keys::<S, 1, 1, 4>(keys, values),
                (2, 64) => self.all_keys::<S, 2, 2, 4>(keys, values),
                (3, 64) => self.all_keys::<S, 3, 4, 4>(keys, values),
                (4, 64) => self.all_keys::<S, 4, 4, 4>(keys, values),
                (7, 64) => self.all_keys::<S, 7, 8, 4>(keys, values),
                (8, 64) => self.all_keys::<S, 8, 8, 4>(keys, values),
                (1, 128) => self.all_keys::<S, 1, 1, 8>(keys, values),
                (2, 128) => self.all_keys::<S, 2, 2, 8>(keys, values),
                (4, 128) => self.all_keys::<S, 4, 4, 8>(keys, values),
                (7, 128) => self.all_keys::<S, 7, 8, 8>(keys, values),
                (8, 128) => self.all_keys::<S, 8, 8, 8>(keys, values),
                _ => return false,
            }
        }
        true
    }

    /// [`Few::lanes`] for R rows, P lanes each, of W vectors.
    #[inline(always)]
    unsafe fn all_keys<S: Stored, const R: usize, const P: usize, const W: usize>(
        &self,
        keys: Rows,
        values: Rows,
    ) {
        // SAFETY: the caller's promise; tiles lie in `keys`.
        unsafe {
            let mut state =
                State { max: __m512::splat(f32::NEG_INFINITY), sum: __m512::splat(0.0) };
            let mut tile = self.keys.start;
            while tile < self.keys.end {
                let count = TILE_KEYS.min(self.keys.end - tile);
                self.tile_scores::<S, R, P, W>(keys, tile, count);
                self.mask_lanes::<P>(tile, count);
                let alpha = self.weigh_lanes::<P>(&mut state, count);
                // Four vectors of up to four rows, two of more: sums fit the registers.
                if R <= 4 {
                    for from in (0..W).step_by(4) {
                        self.tile_values::<S, R, P, 4>((values, from), tile, count, &alpha);
                    }
                } else {
                    for from in (0..W).step_by(2) {
                        self.tile_values::<S, R, P, 2>((values, from), tile, count, &alpha);
                    }
                }
                tile += count;
            }
            let (mut max, mut sum) = ([0.0; LANES], [0.0; LANES]);
            state.max.store(max.as_mut_ptr());
            state.sum.store(sum.as_mut_ptr());
            for (row, max) in max.iter().enumerate().take(R) {
                *self.max.add(row) = *max;
                *self.sum.add(row) = sum.iter().skip(row).step_by(P).sum();
            }
        }
    }

    /// Scores of `count` keys from `first` on, `[TILE_KEYS, P]`; up to the vector's end those of the last
    /// key again.
    #[inline(always)]
    unsafe fn tile_scores<S: Stored, const R: usize, const P: usize, const W: usize>(
        &self,
        keys: Rows,
        first: usize,
        count: usize,
    ) {
        // SAFETY: the caller's promise; the scratch has TILE_KEYS keys of eight rows.
        unsafe {
            for at in (0..count).step_by(LANES / P) {
                let mut sums = [__m512::splat(0.0); LANES];
                // Two keys in registers, where there are as many.
                for k in (0..LANES / P).step_by(2) {
                    let mut key = [[__m512::splat(0.0); W]; 2];
                    for (i, key) in key.iter_mut().enumerate() {
                        let at = first + (at + k + i).min(count - 1);
                        keys.prefetch(at);
                        *key = load_vectors::<__m512, S, W>(keys.row(at), 0);
                    }
                    for row in 0..R {
                        let q = self.q.add(row * W * LANES).cast();
                        let q: [__m512; W] = load_vectors::<__m512, F32Rows, W>(q, 0);
                        for (i, key) in key.iter().enumerate() {
                            let mut sum = key[0].mul(q[0]);
                            for w in 1..W {
                                sum = key[w].fma(q[w], sum);
                            }
                            sums[(k + i) * P + row] = sum;
                        }
                    }
                }
                sums_of_16(sums).store(self.scores.add(at * P));
            }
        }
    }

    /// Softcap, band and mask tensor; −inf behind the last key.
    #[inline(always)]
    unsafe fn mask_lanes<const P: usize>(&self, first: usize, count: usize) {
        let call = self.call;
        let whole = (count * P).next_multiple_of(LANES);
        // SAFETY: the scratch has TILE_KEYS keys of P rows, a multiple of the lanes.
        let scores = unsafe { std::slice::from_raw_parts_mut(self.scores, whole) };
        scores[count * P..].fill(f32::NEG_INFINITY);
        let scores = &mut scores[..count * P];
        if let Some(cap) = call.softcap {
            soften(scores, cap);
        }
        if self.every.start <= first && first + count <= self.every.end && call.mask.is_none() {
            return;
        }
        for row in 0..self.rows {
            let query = self.item.query(call, row);
            let (start, end) = call.visible(self.item.batch, query.position);
            for (at, score) in scores[row..].iter_mut().step_by(P).enumerate() {
                if !(start..end).contains(&(first + at)) {
                    *score = f32::NEG_INFINITY;
                }
            }
            if call.mask.is_some() {
                call.mask_row(query, first, P, &mut scores[row..]);
            }
        }
    }

    /// Replaces scores by e^(score − max), and updates the state. Returns what the sums of values so
    /// far are to be multiplied with.
    #[inline(always)]
    unsafe fn weigh_lanes<const P: usize>(&self, state: &mut State, count: usize) -> [f32; LANES] {
        let whole = (count * P).next_multiple_of(LANES);
        // SAFETY: the caller has AVX-512; the scratch has that many scores.
        unsafe {
            let scores = self.scores;
            // Two chains, since a maximum takes several cycles.
            let mut max = [state.max; 2];
            for at in (0..whole).step_by(LANES) {
                let chain = &mut max[at / LANES % 2];
                *chain = chain.max_number(__m512::load(scores.add(at)));
            }
            let mut max = max[0].max_number(max[1]);
            // Across the keys of a vector.
            if P <= 8 {
                max = max.max_number(_mm512_shuffle_f32x4::<0b01_00_11_10>(max, max));
            }
            if P <= 4 {
                max = max.max_number(_mm512_shuffle_f32x4::<0b10_11_00_01>(max, max));
            }
            if P <= 2 {
                max = max.max_number(_mm512_permute_ps::<0b01_00_11_10>(max));
            }
            if P == 1 {
                max = max.max_number(_mm512_permute_ps::<0b10_11_00_01>(max));
            }
            // −inf − −inf would be NaN; a finite stand-in gives e^−inf = 0.
            let base = __m512::splat(f32::MIN).max_number(max);
            let alpha = state.max.sub(base).exp();
            let mut sum = [state.sum.mul(alpha), __m512::splat(0.0)];
            for at in (0..whole).step_by(LANES) {
                let weight = __m512::load(scores.add(at)).sub(base).exp();
                weight.store(scores.add(at));
                let chain = &mut sum[at / LANES % 2];
                *chain = chain.add(weight);
            }
            *state = State { max, sum: sum[0].add(sum[1]) };
            let mut lanes = [0.0; LANES];
            alpha.store(lanes.as_mut_ptr());
            lanes
        }
    }

    /// Adds NV vectors, from vector `from` on, of `count` weighted values to the sums of R rows.
    #[inline(always)]
    unsafe fn tile_values<S: Stored, const R: usize, const P: usize, const NV: usize>(
        &self,
        (values, from): (Rows, usize),
        first: usize,
        count: usize,
        alpha: &[f32; LANES],
    ) {
        let stride = self.call.v_dim();
        // SAFETY: the caller gives R rows and NV vectors of each; the keys exist.
        unsafe {
            let acc = self.acc.add(from * LANES);
            let mut sums = [[__m512::splat(0.0); NV]; R];
            for (row, sums) in sums.iter_mut().enumerate() {
                let alpha = __m512::splat(alpha[row]);
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = alpha.mul(__m512::load(acc.add(row * stride + j * LANES)));
                }
            }
            for at in 0..count {
                if from == 0 {
                    values.prefetch(first + at);
                }
                let value = load_vectors::<__m512, S, NV>(values.row(first + at), from);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = __m512::splat(*self.scores.add(at * P + row));
                    for (sum, value) in sums.iter_mut().zip(value) {
                        *sum = weight.fma(value, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    sum.store(acc.add(row * stride + j * LANES));
                }
            }
        }
    }
}
