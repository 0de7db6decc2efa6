//! Decoding: few rows of x by all rows of W, with weights read once from memory.
//!
//! R rows of W and M rows of x at a time; each chunk of 32 weights is unpacked in registers and used
//! for all M. Sums stay in the lanes of one vector per product until the row's end.

use super::activations::LANE_WORDS;
use super::formats::{Chunk, Format, Groups};
use super::lanes::Lanes;
use crate::cpu::linear::ahead::Ahead;
use crate::cpu::linear::products::Task;
use crate::cpu::quant::Block;

/// Columns `start..end` of y; `x` holds the rounded rows of [`super::activations::round_lanes`].
///
/// # Safety
/// `L`'s instructions exist; the columns belong to the caller.
#[inline(always)]
pub(super) unsafe fn columns<L: Lanes, F: Format>(
    task: &Task,
    x: &[i32],
    start: usize,
    end: usize,
) {
    let mut ahead = Ahead::new(task.row(start).as_ptr(), (end - start) * task.row_bytes);
    let mut col = start;
    while col < end {
        let rows = (end - col).min(2);
        let mut row = 0;
        while row < task.m() {
            // SAFETY: rows and columns lie inside y, and the columns are the caller's.
            row += unsafe {
                match (rows, task.m() - row) {
                    (2, 4..) => tile::<L, F, 2, 4>(task, x, (row, col), &mut ahead),
                    (2, 2..) => tile::<L, F, 2, 2>(task, x, (row, col), &mut ahead),
                    (2, _) => tile::<L, F, 2, 1>(task, x, (row, col), &mut ahead),
                    _ => tile::<L, F, 1, 1>(task, x, (row, col), &mut ahead),
                }
            };
        }
        col += rows;
    }
}

/// R columns of M rows of y; returns M.
#[inline(always)]
unsafe fn tile<L: Lanes, F: Format, const R: usize, const M: usize>(
    task: &Task,
    x: &[i32],
    (row, col): (usize, usize),
    ahead: &mut Ahead,
) -> usize {
    let x_row = task.k() / 32 * LANE_WORDS;
    // SAFETY: blocks lie inside the rows of W, and x has a block for each 32 elements.
    unsafe {
        // Loops and not closures, which lose the instructions where they are not inlined.
        let mut w = [std::ptr::null::<u8>(); R];
        for (r, w) in w.iter_mut().enumerate() {
            *w = task.row(col + r).as_ptr();
        }
        let mut x = x.as_ptr().add(row * x_row);
        let mut sums = [[L::splat(0.0); M]; R];
        let mut groups = [Groups::NONE; R];
        for _ in 0..task.k() / F::Block::LEN {
            // Later rows of x find W in the cache.
            if row == 0 {
                ahead.ask(R * F::Block::BYTES);
            }
            for (w, groups) in w.iter().zip(&mut groups) {
                F::open::<L>(*w, groups);
            }
            add::<L, F, R, M, 0>(&mut sums, &w, &groups, &mut x, x_row);
            if F::Block::LEN == 256 {
                add::<L, F, R, M, 1>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 2>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 3>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 4>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 5>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 6>(&mut sums, &w, &groups, &mut x, x_row);
                add::<L, F, R, M, 7>(&mut sums, &w, &groups, &mut x, x_row);
            }
            for w in &mut w {
                *w = w.add(F::Block::BYTES);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (m, sum) in sums.iter().enumerate() {
                task.write(row + m, col + r, L::sum(*sum));
            }
        }
    }
    M
}

/// Chunk `INDEX` of R blocks of W by the same elements of M rows of x, which is moved on.
#[inline(always)]
unsafe fn add<L: Lanes, F: Format, const R: usize, const M: usize, const INDEX: usize>(
    sums: &mut [[L::Floats; M]; R],
    w: &[*const u8; R],
    groups: &[Groups; R],
    x: &mut *const i32,
    x_row: usize,
) {
    // SAFETY: the caller gives a block of each row of x.
    unsafe {
        for r in 0..R {
            let Chunk { codes, scale, min } = F::chunk::<L, INDEX>(w[r], &groups[r]);
            for (m, sum) in sums[r].iter_mut().enumerate() {
                let x = x.add(m * x_row);
                let mut products = dot::<L, F>(codes, L::load(x.cast()));
                let correction = x.add(16);
                if !F::Block::HAS_MIN && !F::SIGNED {
                    products = L::add_ints(products, L::load_ints(correction));
                }
                let scale = L::mul(scale, L::load_floats(x.add(8).cast()));
                *sum = L::fma(L::to_floats(products), scale, *sum);
                if F::Block::HAS_MIN {
                    *sum = L::fma(min, L::load_floats(correction.cast()), *sum);
                }
            }
        }
        *x = x.add(LANE_WORDS);
    }
}

#[inline(always)]
unsafe fn dot<L: Lanes, F: Format>(w: L::Bytes, x: L::Bytes) -> L::Ints {
    // A constant of a trait is no argument of a constant yet.
    // SAFETY: the caller has the instructions.
    unsafe { if F::SIGNED { L::dot::<true>(w, x) } else { L::dot::<false>(w, x) } }
}
