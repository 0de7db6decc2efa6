//! The first product of `few.rs`: scores of some stored keys with few rows of queries.
//!
//! Products of a key stay in lanes, and are summed for as many keys at once as a vector has
//! lanes. The numbers of rows and widths that models have are known to the compiler, which then
//! keeps two keys in registers and unrolls the rows: 14/2 heads of 64, 4096 keys from the caches of
//! one Zen 5 core, 155 µs in place of 200.

use super::few::{Few, Rows, TILE_KEYS};
use super::tile::{F32Rows, Stored, load_vectors};
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
        let vectors = self.call.head_dim() / V::LANES;
        // SAFETY: the caller's promise; rows and vectors are those of the call.
        unsafe {
            // Registers for two keys, a query and two sums.
            match (self.rows, vectors) {
                _ if V::LANES < 16 => self.any_scores::<V, S>(keys, first, count),
                (1, 4) => self.fixed_scores::<V, S, 1, 4>(keys, first, count),
                (2, 4) => self.fixed_scores::<V, S, 2, 4>(keys, first, count),
                (3, 4) => self.fixed_scores::<V, S, 3, 4>(keys, first, count),
                (4, 4) => self.fixed_scores::<V, S, 4, 4>(keys, first, count),
                (7, 4) => self.fixed_scores::<V, S, 7, 4>(keys, first, count),
                (8, 4) => self.fixed_scores::<V, S, 8, 4>(keys, first, count),
                (1, 8) => self.fixed_scores::<V, S, 1, 8>(keys, first, count),
                (2, 8) => self.fixed_scores::<V, S, 2, 8>(keys, first, count),
                (4, 8) => self.fixed_scores::<V, S, 4, 8>(keys, first, count),
                (7, 8) => self.fixed_scores::<V, S, 7, 8>(keys, first, count),
                (8, 8) => self.fixed_scores::<V, S, 8, 8>(keys, first, count),
                _ => self.any_scores::<V, S>(keys, first, count),
            }
        }
    }

    /// [`Few::scores`] for R rows of W vectors.
    #[inline(always)]
    unsafe fn fixed_scores<V: F32Math, S: Stored, const R: usize, const W: usize>(
        &self,
        keys: Rows,
        first: usize,
        count: usize,
    ) {
        // SAFETY: as above.
        unsafe {
            for block in (0..count).step_by(V::LANES) {
                let live = V::LANES.min(count - block);
                for at in (0..live / 2 * 2).step_by(2) {
                    self.fixed_products::<V, S, R, W, 2>(keys, first + block + at, at);
                }
                if live % 2 == 1 {
                    self.fixed_products::<V, S, R, W, 1>(keys, first + block + live - 1, live - 1);
                }
                for row in 0..R {
                    self.sum_lanes::<V>(row, block, live);
                }
            }
        }
    }

    /// The products of K keys from `key` on with R rows, lane by lane, as lines `at` and
    /// following of each row's square.
    #[inline(always)]
    unsafe fn fixed_products<
        V: F32Math,
        S: Stored,
        const R: usize,
        const W: usize,
        const K: usize,
    >(
        &self,
        keys: Rows,
        key: usize,
        at: usize,
    ) {
        // SAFETY: as above.
        unsafe {
            for k in 0..K {
                keys.prefetch::<V>(key + k);
            }
            let mut vectors = [[V::splat(0.0); W]; K];
            for (k, vectors) in vectors.iter_mut().enumerate() {
                *vectors = load_vectors::<V, S, W>(keys.row(key + k), 0);
            }
            for row in 0..R {
                let q = self.q.add(row * W * V::LANES).cast();
                let q: [V; W] = load_vectors::<V, F32Rows, W>(q, 0);
                for (k, key) in vectors.iter().enumerate() {
                    let mut sum = key[0].mul(q[0]);
                    for i in 1..W {
                        sum = key[i].fma(q[i], sum);
                    }
                    sum.store(self.unsummed.add((row * V::LANES + at + k) * V::LANES));
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

    /// [`Few::scores`] for any number of rows and any width.
    #[inline(always)]
    unsafe fn any_scores<V: F32Math, S: Stored>(&self, keys: Rows, first: usize, count: usize) {
        // SAFETY: the scratch has a square for each row; keys below `count` exist.
        unsafe {
            for block in (0..count).step_by(V::LANES) {
                let live = V::LANES.min(count - block);
                for at in 0..live {
                    let key = first + block + at;
                    keys.prefetch::<V>(key);
                    self.products::<V, S>(keys.row(key), at);
                }
                for row in 0..self.rows {
                    self.sum_lanes::<V>(row, block, live);
                }
            }
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
