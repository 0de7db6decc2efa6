//! f32 matrix products on one thread, over strided views.
//!
//! - [`gemm_f32_nt`]: C = A · Bᵀ, both operands contiguous along k (weights, QKᵀ). The tile of C
//!   holds vectors along k which are summed at the end, so nothing is packed or transposed.
//! - [`gemm_f32_nn`]: C = A · B, B contiguous along n (probabilities times values).
//!
//! Versions of both; speeds are of `gemm_f32_nt` on one Zen 5 core with 512 rows and k = 1024, by
//! `benches/linear.rs`: AVX-512 (6 × 4 accumulators; 215 GFLOP/s), AVX2 (3 × 4; about 60), NEON
//! (4 × 4; not measured), plain. `gemm_f32_nn` has not been measured.
//! Not: threads (callers split C) and not quantised operands (`linear`).

use super::simd::Level;
use super::vector::{F32Lanes, Plain};

/// A read-only matrix view: `rows × cols`, contiguous along `cols`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    /// Element (r, c) is at `r * stride + c`.
    pub(crate) data: &'a [f32],
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// Elements from one row to the next; at least `cols`, unless there is one row.
    pub(crate) stride: usize,
}

/// A writable matrix view: `rows × cols`, contiguous along `cols`.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    /// Element (r, c) is at `r * stride + c`.
    pub(crate) data: &'a mut [f32],
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) cols: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

fn covers(len: usize, rows: usize, cols: usize, stride: usize) -> bool {
    rows == 0 || cols == 0 || ((rows == 1 || stride >= cols) && (rows - 1) * stride + cols <= len)
}

/// The operands of a product as the micro-kernels see them.
#[derive(Clone, Copy)]
pub(crate) struct RawGemm {
    pub(crate) a: *const f32,
    pub(crate) a_stride: usize,
    pub(crate) b: *const f32,
    pub(crate) b_stride: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Adds to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

fn raw(a: Matrix, b: Matrix, c: &mut MatrixMut, accumulate: bool) -> RawGemm {
    assert!(covers(a.data.len(), a.rows, a.cols, a.stride), "a does not cover its shape");
    assert!(covers(b.data.len(), b.rows, b.cols, b.stride), "b does not cover its shape");
    assert!(covers(c.data.len(), c.rows, c.cols, c.stride), "c does not cover its shape");
    RawGemm {
        a: a.data.as_ptr(),
        a_stride: a.stride,
        b: b.data.as_ptr(),
        b_stride: b.stride,
        c: c.data.as_mut_ptr(),
        c_stride: c.stride,
        m: a.rows,
        n: c.cols,
        k: a.cols,
        accumulate,
    }
}

/// C\[m, n\] = A\[m, k\] · B\[n, k\]ᵀ, or C += … with `accumulate`.
///
/// # Panics
/// When shapes disagree or a view is longer than its data.
pub(crate) fn gemm_f32_nt(level: Level, a: Matrix, b: Matrix, c: &mut MatrixMut, accumulate: bool) {
    assert!(a.cols == b.cols && a.rows == c.rows && b.rows == c.cols, "shapes of a · bᵀ");
    // SAFETY: the views cover their shapes.
    unsafe { gemm_nt_raw(level, raw(a, b, c, accumulate)) };
}

/// C\[m, n\] = A\[m, k\] · B\[k, n\], or C += … with `accumulate`.
///
/// # Panics
/// When shapes disagree or a view is longer than its data.
pub(crate) fn gemm_f32_nn(level: Level, a: Matrix, b: Matrix, c: &mut MatrixMut, accumulate: bool) {
    assert!(a.cols == b.rows && a.rows == c.rows && b.cols == c.cols, "shapes of a · b");
    let gemm = raw(a, b, c, accumulate);
    // SAFETY: the views cover their shapes; `usable` only gives levels that the machine has.
    unsafe {
        match level.usable() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => nn_avx512(gemm),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => nn_avx2(gemm),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => nn::<std::arch::aarch64::float32x4_t, 4, 4>(gemm),
            _ => nn::<Plain, 2, 4>(gemm),
        }
    }
}

/// [`gemm_f32_nt`] on raw operands, for tiles of a matrix that several threads write.
///
/// # Safety
/// The operands must cover their shapes, and nobody else may touch this tile of C meanwhile.
pub(crate) unsafe fn gemm_nt_raw(level: Level, gemm: RawGemm) {
    // SAFETY: as the caller promises; `usable` only gives levels that the machine has.
    unsafe {
        match level.usable() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vnni => nt_avx512(gemm),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => nt_avx2(gemm),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => nt::<std::arch::aarch64::float32x4_t, 4>(gemm),
            _ => nt::<Plain, 2>(gemm),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn nt_avx512(gemm: RawGemm) {
    // SAFETY: this function enables the instructions; the rest is the caller's promise.
    unsafe { nt::<std::arch::x86_64::__m512, 6>(gemm) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn nt_avx2(gemm: RawGemm) {
    // SAFETY: this function enables the instructions; the rest is the caller's promise.
    unsafe { nt::<std::arch::x86_64::__m256, 3>(gemm) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn nn_avx512(gemm: RawGemm) {
    // SAFETY: this function enables the instructions; the rest is the caller's promise.
    unsafe { nn::<std::arch::x86_64::__m512, 6, 4>(gemm) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn nn_avx2(gemm: RawGemm) {
    // SAFETY: this function enables the instructions; the rest is the caller's promise.
    unsafe { nn::<std::arch::x86_64::__m256, 6, 2>(gemm) }
}

/// k is cut so that a strip of A (6 rows) stays in the first-level cache.
const K_BLOCK: usize = 1024;
/// n is cut so that a block of B (64 rows of 1024) stays in the second-level cache.
const N_BLOCK: usize = 64;

#[inline(always)]
unsafe fn nt<V: F32Lanes, const MR: usize>(mut gemm: RawGemm) {
    let (full, mut k_start) = (gemm, 0);
    loop {
        gemm.k = (full.k - k_start).min(K_BLOCK);
        for n_start in (0..full.n).step_by(N_BLOCK) {
            let n_end = full.n.min(n_start + N_BLOCK);
            let mut row = 0;
            while row < full.m {
                let rows = MR.min(full.m - row);
                // SAFETY: rows, columns and k stay inside the operands that the caller gave.
                unsafe {
                    gemm.a = full.a.add(row * full.a_stride + k_start);
                    let mut col = n_start;
                    while col < n_end {
                        gemm.b = full.b.add(col * full.b_stride + k_start);
                        gemm.c = full.c.add(row * full.c_stride + col);
                        let cols = if n_end - col >= 4 { 4 } else { 1 };
                        match (rows, cols) {
                            (6, 4) => nt_tile::<V, 6, 4>(&gemm),
                            (5, 4) => nt_tile::<V, 5, 4>(&gemm),
                            (4, 4) => nt_tile::<V, 4, 4>(&gemm),
                            (3, 4) => nt_tile::<V, 3, 4>(&gemm),
                            (2, 4) => nt_tile::<V, 2, 4>(&gemm),
                            (1, 4) => nt_tile::<V, 1, 4>(&gemm),
                            (rows, _) => {
                                for r in 0..rows {
                                    let mut one = gemm;
                                    one.a = gemm.a.add(r * full.a_stride);
                                    one.c = gemm.c.add(r * full.c_stride);
                                    nt_tile::<V, 1, 1>(&one);
                                }
                            }
                        }
                        col += cols;
                    }
                }
                row += rows;
            }
        }
        k_start += K_BLOCK;
        if k_start >= full.k {
            return;
        }
        gemm.accumulate = true;
    }
}

/// An MR × NR tile of C with its sums along k in vectors. NR is 1 or 4.
#[inline(always)]
unsafe fn nt_tile<V: F32Lanes, const MR: usize, const NR: usize>(gemm: &RawGemm) {
    // SAFETY: the caller gives MR rows of A, NR rows of B, and a tile of C.
    unsafe {
        let mut sums = [[V::splat(0.0); NR]; MR];
        let whole = gemm.k / V::LANES * V::LANES;
        let mut at = 0;
        while at < whole {
            nt_step(gemm, &mut sums, at, V::LANES);
            at += V::LANES;
        }
        if whole < gemm.k {
            nt_step(gemm, &mut sums, whole, gemm.k - whole);
        }
        for (i, sums) in sums.iter().enumerate() {
            let four = V::sum4([sums[0], sums[1 % NR], sums[2 % NR], sums[3 % NR]]);
            for (j, sum) in four.into_iter().enumerate().take(NR) {
                let c = gemm.c.add(i * gemm.c_stride + j);
                *c = if gemm.accumulate { *c + sum } else { sum };
            }
        }
    }
}

/// `count` floats, a whole vector or fewer.
///
/// A function, as closures are not reliably inlined where the instructions are enabled.
#[inline(always)]
unsafe fn load_some<V: F32Lanes>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller gives `count` readable floats.
    unsafe { if count == V::LANES { V::load(from) } else { V::load_first(from, count) } }
}

/// `count` more elements of k, a whole vector or fewer.
#[inline(always)]
unsafe fn nt_step<V: F32Lanes, const MR: usize, const NR: usize>(
    gemm: &RawGemm,
    sums: &mut [[V; NR]; MR],
    at: usize,
    count: usize,
) {
    // SAFETY: the caller keeps `at + count` within k.
    unsafe {
        let mut b = [V::splat(0.0); NR];
        for (j, b) in b.iter_mut().enumerate() {
            *b = load_some(gemm.b.add(j * gemm.b_stride + at), count);
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let a: V = load_some(gemm.a.add(i * gemm.a_stride + at), count);
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.fma(b, *sum);
            }
        }
    }
}

#[inline(always)]
unsafe fn nn<V: F32Lanes, const MR: usize, const NV: usize>(gemm: RawGemm) {
    let mut row = 0;
    while row < gemm.m {
        let rows = MR.min(gemm.m - row);
        let mut col = 0;
        while col < gemm.n {
            let cols = (gemm.n - col).min(NV * V::LANES);
            // SAFETY: rows and columns stay inside the operands that the caller gave.
            unsafe {
                let mut tile = gemm;
                tile.a = gemm.a.add(row * gemm.a_stride);
                tile.b = gemm.b.add(col);
                tile.c = gemm.c.add(row * gemm.c_stride + col);
                tile.n = cols;
                if rows == MR && cols == NV * V::LANES {
                    nn_tile::<V, MR, NV>(&tile);
                } else {
                    // Edges: one row, one vector at a time.
                    for r in 0..rows {
                        for c in (0..cols).step_by(V::LANES) {
                            let mut edge = tile;
                            edge.a = tile.a.add(r * gemm.a_stride);
                            edge.b = tile.b.add(c);
                            edge.c = tile.c.add(r * gemm.c_stride + c);
                            edge.n = (cols - c).min(V::LANES);
                            nn_tile::<V, 1, 1>(&edge);
                        }
                    }
                }
            }
            col += cols;
        }
        row += rows;
    }
}

/// MR rows by NV vectors of C; `gemm.n` may be short of a vector when NV is 1.
#[inline(always)]
unsafe fn nn_tile<V: F32Lanes, const MR: usize, const NV: usize>(gemm: &RawGemm) {
    // SAFETY: the caller gives MR rows of A, NV vectors of each row of B, and a tile of C.
    unsafe {
        let short = gemm.n < V::LANES;
        let count = if short { gemm.n } else { V::LANES };
        let mut sums = [[V::splat(0.0); NV]; MR];
        if gemm.accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = load_some(gemm.c.add(i * gemm.c_stride + j * V::LANES), count);
                }
            }
        }
        for at in 0..gemm.k {
            let mut b = [V::splat(0.0); NV];
            for (j, b) in b.iter_mut().enumerate() {
                *b = load_some(gemm.b.add(at * gemm.b_stride + j * V::LANES), count);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*gemm.a.add(i * gemm.a_stride + at));
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = a.fma(b, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let to = gemm.c.add(i * gemm.c_stride + j * V::LANES);
                if short { sum.store_first(to, gemm.n) } else { sum.store(to) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    fn close(got: f32, want: f64, k: usize) -> bool {
        (f64::from(got) - want).abs() <= 5e-6 * (k as f64).sqrt() * (1.0 + want.abs())
    }

    #[test]
    fn products_agree_with_f64_on_ragged_shapes() {
        for (m, n, k) in [(1, 1, 1), (6, 4, 16), (7, 9, 33), (13, 67, 1030), (2, 130, 5), (5, 3, 0)]
        {
            let (pad_a, pad_b, pad_c) = (3, 5, 2);
            let a = gaussian(1, m * (k + pad_a));
            let b_nt = gaussian(2, n * (k + pad_b));
            let b_nn = gaussian(3, k * (n + pad_b));
            let a = Matrix { data: &a, rows: m, cols: k, stride: k + pad_a };
            let b_nt = Matrix { data: &b_nt, rows: n, cols: k, stride: k + pad_b };
            let b_nn = Matrix { data: &b_nn, rows: k, cols: n, stride: n + pad_b };
            for level in Level::available() {
                for accumulate in [false, true] {
                    let mut nt = vec![7.0; m * (n + pad_c)];
                    let mut nn = nt.clone();
                    let view = |data| MatrixMut { data, rows: m, cols: n, stride: n + pad_c };
                    gemm_f32_nt(level, a, b_nt, &mut view(&mut nt), accumulate);
                    gemm_f32_nn(level, a, b_nn, &mut view(&mut nn), accumulate);
                    for i in 0..m {
                        for j in 0..n + pad_c {
                            let at = i * (n + pad_c) + j;
                            if j >= n {
                                assert_eq!((nt[at], nn[at]), (7.0, 7.0), "padding is kept");
                                continue;
                            }
                            let start = if accumulate { 7.0 } else { 0.0 };
                            let row = |p: usize| f64::from(a.data[i * a.stride + p]);
                            let want: f64 = (0..k)
                                .map(|p| row(p) * f64::from(b_nt.data[j * b_nt.stride + p]))
                                .sum();
                            assert!(close(nt[at], want + start, k), "nt {level:?} {m} {n} {k}");
                            let want: f64 = (0..k)
                                .map(|p| row(p) * f64::from(b_nn.data[p * b_nn.stride + j]))
                                .sum();
                            assert!(close(nn[at], want + start, k), "nn {level:?} {m} {n} {k}");
                        }
                    }
                }
            }
        }
    }
}
