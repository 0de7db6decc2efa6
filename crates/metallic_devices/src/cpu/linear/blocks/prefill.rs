//! Prefill: many rows of x by a tile of W that is unpacked once.
//!
//! A tile is made of panels of 8 rows of W: for each block of 32 elements of k, 8 vectors of codes
//! (vector `j`: elements 4j … 4j + 3 of each of the 8 rows), then the scales of its 1 or 2 groups, then
//! their minimums. A kernel of 4 rows of x by 2 panels broadcasts 4 codes of x at a time; no sum
//! crosses lanes.

use std::ops::Range;

use super::activations::GROUP_WORDS;
use super::formats::{Chunk, Format, Groups};
use super::lanes::Lanes;
use crate::cpu::linear::products::Task;
use crate::cpu::quant::Block;

/// Rows of W in a panel: the lanes of eight integers.
pub(in crate::cpu::linear) const PANEL: usize = 8;

/// Words of one block of a panel.
const fn block_words<B: Block>() -> usize {
    PANEL * 8 + 32 / B::GROUP * PANEL * if B::HAS_MIN { 2 } else { 1 }
}

/// Words of a panel over `k` elements.
pub(super) fn panel_words<B: Block>(k: usize) -> usize {
    k / 32 * block_words::<B>()
}

/// Unpacks rows `start..start + 8` of W; rows past the last repeat it.
///
/// # Safety
/// `L`'s instructions exist.
#[inline(always)]
pub(super) unsafe fn pack<L: Lanes, F: Format>(task: &Task, start: usize, out: &mut [i32]) {
    let chunks = F::Block::LEN / 32;
    for r in 0..PANEL {
        let mut groups = Groups::NONE;
        let row = task.row((start + r).min(task.n() - 1));
        let outs = out.chunks_exact_mut(chunks * block_words::<F::Block>());
        for (block, out) in row.chunks_exact(F::Block::BYTES).zip(outs) {
            let block = block.as_ptr();
            // SAFETY: a whole block; each chunk has its words of `out`.
            unsafe {
                F::open::<L>(block, &mut groups);
                put::<L, F, 0>(block, &groups, r, out);
                if F::Block::LEN == 256 {
                    put::<L, F, 1>(block, &groups, r, out);
                    put::<L, F, 2>(block, &groups, r, out);
                    put::<L, F, 3>(block, &groups, r, out);
                    put::<L, F, 4>(block, &groups, r, out);
                    put::<L, F, 5>(block, &groups, r, out);
                    put::<L, F, 6>(block, &groups, r, out);
                    put::<L, F, 7>(block, &groups, r, out);
                }
            }
        }
    }
}

/// Chunk `INDEX` of a block as row `r` of a panel.
#[inline(always)]
unsafe fn put<L: Lanes, F: Format, const INDEX: usize>(
    block: *const u8,
    groups: &Groups,
    r: usize,
    out: &mut [i32],
) {
    let out = &mut out[INDEX * block_words::<F::Block>()..][..block_words::<F::Block>()];
    let (mut words, mut lanes) = ([0i32; 8], [[0.0f32; 8]; 2]);
    // SAFETY: the caller has the instructions and gives a block; the arrays have 32 bytes each.
    unsafe {
        let Chunk { codes, scale, min } = F::chunk::<L, INDEX>(block, groups);
        L::store(codes, words.as_mut_ptr().cast());
        L::store_floats(scale, lanes[0].as_mut_ptr());
        L::store_floats(min, lanes[1].as_mut_ptr());
    }
    let (codes, factors) = out.split_at_mut(8 * PANEL);
    for (out, word) in codes.chunks_exact_mut(PANEL).zip(words) {
        out[r] = word;
    }
    let groups = 32 / F::Block::GROUP;
    for (at, out) in factors.chunks_exact_mut(PANEL).enumerate() {
        out[r] = lanes[at / groups][at % groups * 4].to_bits() as i32;
    }
}

/// Rows `rows` of y and the columns of `panels` packed panels from `start` on.
///
/// # Safety
/// `L`'s instructions exist; `w` has that many panels; the part of y belongs to the caller.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes, F: Format>(
    task: &Task,
    x: &[i32],
    w: &[i32],
    rows: Range<usize>,
    (start, panels): (usize, usize),
) {
    let words = panel_words::<F::Block>(task.k());
    let x_row = task.k() / 32 * GROUP_WORDS;
    let mut row = rows.start;
    while row < rows.end {
        let count = match rows.end - row {
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        for panel in (0..panels).step_by(2) {
            let (w, col) = (&w[panel * words..], start + panel * PANEL);
            let tile = Tile { task, x: x[row * x_row..].as_ptr(), w: w.as_ptr(), row, col };
            // SAFETY: the tile lies inside the caller's part of y.
            unsafe {
                match (count, panels - panel) {
                    (4, 2..) => kernel::<L, F, 4, 2>(&tile),
                    (2, 2..) => kernel::<L, F, 2, 2>(&tile),
                    (_, 2..) => kernel::<L, F, 1, 2>(&tile),
                    (4, _) => kernel::<L, F, 4, 1>(&tile),
                    (2, _) => kernel::<L, F, 2, 1>(&tile),
                    (_, _) => kernel::<L, F, 1, 1>(&tile),
                }
            }
        }
        row += count;
    }
}

struct Tile<'a> {
    task: &'a Task<'a>,
    x: *const i32,
    w: *const i32,
    row: usize,
    col: usize,
}

/// M rows of x by P panels.
#[inline(always)]
unsafe fn kernel<L: Lanes, F: Format, const M: usize, const P: usize>(tile: &Tile) {
    let task = tile.task;
    let blocks = task.k() / 32;
    let (x_row, panel) = (blocks * GROUP_WORDS, panel_words::<F::Block>(task.k()));
    let groups = 32 / F::Block::GROUP;
    let quads = F::Block::GROUP / 4;
    // SAFETY: x has M rows and w has P panels of `blocks` blocks; y has these elements.
    unsafe {
        let (mut x, mut w) = (tile.x, tile.w);
        let mut sums = [[L::splat(0.0); P]; M];
        for _ in 0..blocks {
            for group in 0..groups {
                let first = group * quads;
                let products = products::<L, F, M, P>(
                    (w.add(first * PANEL).cast(), panel * 4),
                    (x.add(first), x_row),
                    quads,
                );
                for p in 0..P {
                    let scales = w.add(p * panel + PANEL * (8 + group)).cast();
                    let scale = L::load_floats(scales);
                    for m in 0..M {
                        let x = x.add(m * x_row);
                        let correction = x.add(9 + group);
                        let mut product = products[m][p];
                        if !F::Block::HAS_MIN && !F::SIGNED {
                            product = L::add_ints(product, L::splat_int(*correction));
                        }
                        let scale = L::mul(scale, L::splat(*x.add(8).cast()));
                        sums[m][p] = L::fma(L::to_floats(product), scale, sums[m][p]);
                        if F::Block::HAS_MIN {
                            let min = L::load_floats(scales.add(PANEL * groups));
                            sums[m][p] = L::fma(min, L::splat(*correction.cast()), sums[m][p]);
                        }
                    }
                }
            }
            x = x.add(GROUP_WORDS);
            w = w.add(block_words::<F::Block>());
        }
        for p in 0..P {
            let col = tile.col + p * PANEL;
            let lanes = (task.n() - col).min(PANEL);
            for (m, sums) in sums.iter().enumerate() {
                let mut out = [0.0; PANEL];
                L::store_floats(sums[p], out.as_mut_ptr());
                for (lane, sum) in out.into_iter().enumerate().take(lanes) {
                    task.write(tile.row + m, col + lane, sum);
                }
            }
        }
    }
}

/// [`Lanes::quads`] for a format.
#[inline(always)]
unsafe fn products<L: Lanes, F: Format, const M: usize, const P: usize>(
    w: (*const u8, usize),
    x: (*const i32, usize),
    quads: usize,
) -> [[L::Ints; P]; M] {
    // A constant of a trait is no argument of a constant yet.
    // SAFETY: the caller's promise.
    unsafe {
        match F::MAX {
            ..=7 => L::quads::<false, 7, M, P>(w, x, quads),
            8..=15 => L::quads::<false, 15, M, P>(w, x, quads),
            16..=31 => L::quads::<false, 31, M, P>(w, x, quads),
            32..=63 => L::quads::<false, 63, M, P>(w, x, quads),
            _ => L::quads::<true, 128, M, P>(w, x, quads),
        }
    }
}
