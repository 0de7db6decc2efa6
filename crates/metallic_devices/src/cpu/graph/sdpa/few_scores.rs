//! The first product of `few.rs`: scores of some stored keys with few rows of queries.
//!
//! Products of a key stay in lanes, and are summed for as many keys at once as a vector has lanes.

use super::few::{Few, Rows, TILE_KEYS};
use super::tile::{Stored, load_vectors};
use crate::cpu::vector_math::F32Math;

impl Few<'_> {
    /// Scores of `count` keys from `first` on, `[rows, TILE_KEYS]`.
    ///
    /// # Safety
    /// The pointers hold what their fields say, the keys exist, and so do `V`'s instructions.
    #[inline(always)]
    pub(super) unsafe fn scores<V: F32Math, S: Stored>(
        &self,
        keys: Rows,
        first: usize,
        count: usize,
    ) {
        // SAFETY: the scratch has a square for each row; keys below `count` exist.
        unsafe {
            for block in (0..count).step_by(V::LANES) {
                let live = V::LANES.min(count - block);
                for at in 0..live {
                    let key = first + block + at;
                    keys.prefetch(key);
                    self.products::<V, S>(keys.row(key), at);
                }
                for row in 0..self.rows {
                    self.sum_lanes::<V>(row, block, live);
                }
            }
        }
    }

    /// The scores of row `row` from its square, for `live` keys from `block` on.
    #[inline(always)]
    unsafe fn sum_lanes<V: F32Math>(&self, row: usize, block: usize, live: usize) {
        // SAFETY: as above; the scratch has a square for each row.
        unsafe {
            let square = self.unsummed.add(row * V::LANES * V::LANES);
            square.add(live * V::LANES).write_bytes(0, (V::LANES - live) * V::LANES);
            V::sum_each(square).store(self.scores.add(row * TILE_KEYS + block));
        }
    }

    /// The products of one key with every row, lane by lane, as line `at` of each row's square.
    #[inline(always)]
    unsafe fn products<V: F32Math, S: Stored>(&self, key: *const u8, at: usize) {
        let vectors = self.call.head_dim() / V::LANES;
        for from in (0..vectors).step_by(4) {
            // SAFETY: the caller's promise.
            unsafe {
                match (vectors - from, from) {
                    (1, _) => self.products_of::<V, S, 1>(key, at, from),
                    (2, _) => self.products_of::<V, S, 2>(key, at, from),
                    (3, _) => self.products_of::<V, S, 3>(key, at, from),
                    // The usual widths are multiples of four vectors.
                    (_, 0) => self.products_of::<V, S, 4>(key, at, 0),
                    _ => self.products_of::<V, S, 4>(key, at, from),
                }
            }
        }
    }

    /// The part of [`Few::products`] of N vectors of the key.
    #[inline(always)]
    unsafe fn products_of<V: F32Math, S: Stored, const N: usize>(
        &self,
        key: *const u8,
        at: usize,
        from: usize,
    ) {
        let dim = self.call.head_dim();
        // SAFETY: the caller's promise; queries and scratch have `rows` rows.
        unsafe {
            let key: [V; N] = load_vectors::<V, S, N>(key, from);
            for row in 0..self.rows {
                let q = self.q.add(row * dim + from * V::LANES);
                let to = self.unsummed.add((row * V::LANES + at) * V::LANES);
                let mut sum = key[0].mul(V::load(q));
                for (i, key) in key.into_iter().enumerate().skip(1) {
                    sum = key.fma(V::load(q.add(i * V::LANES)), sum);
                }
                if from > 0 {
                    sum = sum.add(V::load(to));
                }
                sum.store(to);
            }
        }
    }
}
