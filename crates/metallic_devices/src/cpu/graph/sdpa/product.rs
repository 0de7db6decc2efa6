//! The two products of fused attention, on packed f32 tiles, as register-blocked micro-kernels.
//!
//! Scores are kept transposed, `[keys, queries]`: then the lanes of a vector are queries, the
//! softmax needs no sums across lanes, and keys need no transposition. Both products broadcast
//! one operand from memory and read the other as vectors.
//!
//! Measured through the whole kernel on one core of a Zen 5 EPYC with AVX-512, 14 query and 2 key
//! heads of width 64, f16: 195 GFLOP/s at 512 tokens (173 causal), width 128: 205.
//!
//! Versions by register count: 8 keys × 3 vectors of queries and 6 queries × 4 vectors of values
//! with 32 registers (AVX-512, NEON); 4 × 3 and 6 × 2 with 16.
//! Not: softmax (`softmax.rs`) and packing (`tile.rs`).

use crate::cpu::vector::F32Lanes;

/// Vectors of queries in a panel.
pub(super) const PANEL_VECTORS: usize = 3;

/// A block of scores to compute: `s[key][query] = Σ k[key][d] · q[d][query]`.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// `[keys, dim]`, and readable up to the next multiple of MR keys.
    pub k: *const f32,
    /// `[dim, width]`
    pub q: *const f32,
    /// `[keys, width]`, and writable up to the next multiple of MR keys.
    pub s: *mut f32,
    pub keys: usize,
    pub dim: usize,
}

/// Computes [`Scores`] for a panel of `vectors` vectors of queries.
///
/// # Safety
/// The pointers must cover what [`Scores`] says; `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn scores<V: F32Lanes, const MR: usize>(vectors: usize, args: Scores) {
    // SAFETY: the caller's promise.
    unsafe {
        match vectors {
            1 => scores_of::<V, MR, 1>(args),
            2 => scores_of::<V, MR, 2>(args),
            _ => scores_of::<V, MR, PANEL_VECTORS>(args),
        }
    }
}

#[inline(always)]
unsafe fn scores_of<V: F32Lanes, const MR: usize, const NV: usize>(args: Scores) {
    let Scores { k, q, s, keys, dim } = args;
    let width = NV * V::LANES;
    for key in (0..keys).step_by(MR) {
        // SAFETY: the caller gives MR keys from each multiple of MR on, and panels of `width`.
        unsafe {
            let mut sums = [[V::splat(0.0); NV]; MR];
            let (mut q, mut k) = (q, k.add(key * dim));
            // Four at a time, so that the addresses of MR rows are computed less often.
            for _ in 0..dim / 4 {
                scores_step::<V, MR, NV, 4>(k, q, dim, &mut sums);
                (k, q) = (k.add(4), q.add(4 * width));
            }
            for _ in 0..dim % 4 {
                scores_step::<V, MR, NV, 1>(k, q, dim, &mut sums);
                (k, q) = (k.add(1), q.add(width));
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    sum.store(s.add((key + i) * width + j * V::LANES));
                }
            }
        }
    }
}

/// COUNT more products of MR keys with NV vectors of queries.
#[inline(always)]
unsafe fn scores_step<V: F32Lanes, const MR: usize, const NV: usize, const COUNT: usize>(
    k: *const f32,
    q: *const f32,
    dim: usize,
    sums: &mut [[V; NV]; MR],
) {
    for d in 0..COUNT {
        // SAFETY: the caller gives COUNT columns of MR keys and of the panel.
        unsafe {
            let queries: [V; NV] = std::array::from_fn(|j| V::load(q.add((d * NV + j) * V::LANES)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*k.add(i * dim + d));
                for (sum, query) in sums.iter_mut().zip(queries) {
                    *sum = x.fma(query, *sum);
                }
            }
        }
    }
}

/// A block of weighted values to add: `acc[q][d] = acc[q][d] · alpha[q] + Σ p[key][q] · v[key][d]`.
#[derive(Clone, Copy)]
pub(super) struct Values {
    /// `[keys, width]`
    pub p: *const f32,
    pub width: usize,
    /// `[queries]`
    pub alpha: *const f32,
    /// `[keys, stride]`
    pub v: *const f32,
    /// `[queries, stride]`
    pub acc: *mut f32,
    /// Elements of a row of values or sums, a multiple of the lanes.
    pub stride: usize,
    pub keys: usize,
    pub queries: usize,
}

/// Computes [`Values`].
///
/// # Safety
/// The pointers must cover what [`Values`] says; `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn values<V: F32Lanes, const NV: usize>(args: Values) {
    const MR: usize = 6;
    let mut column = 0;
    while column < args.stride {
        let vectors = ((args.stride - column) / V::LANES).min(NV);
        let mut query = 0;
        while query < args.queries {
            // Equal parts: 7 queries are 4 and 3, not 6 and 1.
            let left = args.queries - query;
            let rows = left.div_ceil(left.div_ceil(MR));
            // SAFETY: query and column stay inside what the caller gave.
            unsafe {
                let part = Values {
                    p: args.p.add(query),
                    alpha: args.alpha.add(query),
                    v: args.v.add(column),
                    acc: args.acc.add(query * args.stride + column),
                    ..args
                };
                match vectors {
                    4 => values_rows::<V, 4>(rows, part),
                    3 => values_rows::<V, 3>(rows, part),
                    2 => values_rows::<V, 2>(rows, part),
                    _ => values_rows::<V, 1>(rows, part),
                }
            }
            query += rows;
        }
        column += vectors * V::LANES;
    }
}

#[inline(always)]
unsafe fn values_rows<V: F32Lanes, const NV: usize>(rows: usize, args: Values) {
    // SAFETY: the caller's promise, for `rows` queries.
    unsafe {
        match rows {
            1 => values_of::<V, 1, NV>(args),
            2 => values_of::<V, 2, NV>(args),
            3 => values_of::<V, 3, NV>(args),
            4 => values_of::<V, 4, NV>(args),
            5 => values_of::<V, 5, NV>(args),
            _ => values_of::<V, 6, NV>(args),
        }
    }
}

#[inline(always)]
unsafe fn values_of<V: F32Lanes, const MR: usize, const NV: usize>(args: Values) {
    let Values { mut p, width, alpha, mut v, acc, stride, keys, .. } = args;
    // SAFETY: the caller gives MR queries and NV vectors of each row.
    unsafe {
        let zero = V::splat(0.0);
        let mut sums = [[zero; NV]; MR];
        for (i, sums) in sums.iter_mut().enumerate() {
            let alpha = V::splat(*alpha.add(i));
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = alpha.fma(V::load(acc.add(i * stride + j * V::LANES)), zero);
            }
        }
        for _ in 0..keys {
            let values: [V; NV] = std::array::from_fn(|j| V::load(v.add(j * V::LANES)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let weight = V::splat(*p.add(i));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = weight.fma(value, *sum);
                }
            }
            p = p.add(width);
            v = v.add(stride);
        }
        for (i, sums) in sums.into_iter().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                sum.store(acc.add(i * stride + j * V::LANES));
            }
        }
    }
}
