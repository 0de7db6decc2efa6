//! Decoding: few rows of x by all rows of W, with weights read once from memory.
//!
//! R rows of W and M rows of x at a time; each chunk of 64 weights is unpacked in registers and
//! used for all M. Sums stay in the lanes of one vector per product until the row's end.
//!
//! Two rows at once are as fast as four from memory, or faster; how it is asked for: [`Ahead`].

use std::arch::x86_64::*;

use super::activations::LANE_WORDS;
use super::chunk::{Chunk, Chunks};
use crate::cpu::linear::ahead::Ahead;
use crate::cpu::linear::products::Task;
use crate::cpu::quant::Block;

/// Bytes of the largest step of a format.
const STEP_BYTES: usize = 256;
/// Columns `start..end` of y; `x` holds the rounded rows of [`super::activations::round_lanes`].
///
/// # Safety
/// The machine has AVX-512 VNNI and VBMI; the columns belong to the caller.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn columns<C: Chunks>(task: &Task, x: &[i32], start: usize, end: usize) {
    let mut ahead = Ahead::new(task.row(start).as_ptr(), (end - start) * task.row_bytes);
    let mut col = start;
    while col < end {
        let rows = match (task.m(), end - col) {
            (1, 2..) => 2,
            (_, 4..) => 4,
            _ => 1,
        };
        let mut row = 0;
        while row < task.m() {
            let left = task.m() - row;
            // SAFETY: rows and columns lie inside y, and the columns are the caller's.
            unsafe {
                match (rows, left) {
                    (2, _) => tile::<C, 2, 1>(task, x, (row, col), &mut ahead),
                    (4, 1) => tile::<C, 4, 1>(task, x, (row, col), &mut ahead),
                    (4, 2) => tile::<C, 4, 2>(task, x, (row, col), &mut ahead),
                    (4, 3) => tile::<C, 4, 3>(task, x, (row, col), &mut ahead),
                    (4, _) => tile::<C, 4, 4>(task, x, (row, col), &mut ahead),
                    (_, 1) => tile::<C, 1, 1>(task, x, (row, col), &mut ahead),
                    (_, 2) => tile::<C, 1, 2>(task, x, (row, col), &mut ahead),
                    (_, 3) => tile::<C, 1, 3>(task, x, (row, col), &mut ahead),
                    (_, _) => tile::<C, 1, 4>(task, x, (row, col), &mut ahead),
                }
            }
            row += left.min(4);
        }
        col += rows;
    }
}

#[inline(always)]
unsafe fn tile<C: Chunks, const R: usize, const M: usize>(
    task: &Task,
    x: &[i32],
    (row, col): (usize, usize),
    ahead: &mut Ahead,
) {
    let blocks_per_step = 64 * C::CHUNKS / C::Block::LEN;
    let step_bytes = blocks_per_step * C::Block::BYTES;
    let blocks = task.k() / C::Block::LEN;
    let steps = blocks / blocks_per_step;
    let x_row = task.k().div_ceil(64) * LANE_WORDS;
    // SAFETY: whole steps lie inside the rows of W, and x has a chunk for each of theirs.
    unsafe {
        // Loops and not closures, which lose the instructions where they are not inlined.
        let mut w = [std::ptr::null::<u8>(); R];
        for (r, w) in w.iter_mut().enumerate() {
            *w = task.row(col + r).as_ptr();
        }
        let mut x = x.as_ptr().add(row * x_row);
        let mut sums = [[_mm512_setzero_ps(); M]; R];
        for _ in 0..steps {
            // Later rows of x find W in the cache.
            if row == 0 {
                ahead.ask(R * step_bytes);
            }
            let mut open = [C::open(w[0]); R];
            for r in 1..R {
                open[r] = C::open(w[r]);
            }
            for index in 0..C::CHUNKS {
                for r in 0..R {
                    add::<C, M>(&mut sums[r], C::chunk(w[r], open[r], index), x, x_row);
                }
                x = x.add(LANE_WORDS);
            }
            for w in &mut w {
                *w = w.add(step_bytes);
            }
        }
        if !blocks.is_multiple_of(blocks_per_step) {
            // Half a step: zeros behind it have scale 0.
            for r in 0..R {
                let mut step = [0u8; STEP_BYTES];
                step.as_mut_ptr().copy_from_nonoverlapping(w[r], C::Block::BYTES);
                let open = C::open(step.as_ptr());
                add::<C, M>(&mut sums[r], C::chunk(step.as_ptr(), open, 0), x, x_row);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (m, sum) in sums.iter().enumerate() {
                task.write(row + m, col + r, _mm512_reduce_add_ps(*sum));
            }
        }
    }
}

/// One chunk of W by the same chunk of M rows of x.
#[inline(always)]
unsafe fn add<C: Chunks, const M: usize>(
    sums: &mut [__m512; M],
    w: Chunk,
    x: *const i32,
    x_row: usize,
) {
    // SAFETY: the caller gives a chunk of each row of x.
    unsafe {
        for (m, sum) in sums.iter_mut().enumerate() {
            let x = x.add(m * x_row);
            let codes = _mm512_load_si512(x.cast());
            let scale = _mm512_mul_ps(w.scale, _mm512_load_ps(x.add(16).cast()));
            let correction = _mm512_load_si512(x.add(32).cast());
            let start = if C::Block::HAS_MIN { _mm512_setzero_si512() } else { correction };
            let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, w.codes, codes));
            *sum = _mm512_fmadd_ps(products, scale, *sum);
            if C::Block::HAS_MIN {
                *sum = _mm512_fmadd_ps(w.min, _mm512_castsi512_ps(correction), *sum);
            }
        }
    }
}
