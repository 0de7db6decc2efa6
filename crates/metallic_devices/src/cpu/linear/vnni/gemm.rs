//! Prefill: many rows of x by a tile of W that is unpacked once.
//!
//! A tile is 16 or 32 rows of W at a time in one panel: for each chunk of 64 elements of k, 16
//! vectors of codes (vector `j`: elements 4j … 4j + 3 of each of the 16 rows), then the scales of
//! its 2 or 4 groups, then their minimums. A kernel of 6 rows of x by 2 panels broadcasts 4 codes
//! of x at a time; no sum crosses lanes.

use std::arch::x86_64::*;

use super::activations::GROUP_WORDS;
use super::chunk::Chunks;
use crate::cpu::linear::products::Task;
use crate::cpu::quant::Block;

/// Rows of W in a panel: the lanes of a vector.
pub(in crate::cpu::linear) const PANEL: usize = 16;
/// Rows of x in a kernel.
const MR: usize = 6;

/// 32-bit words of one chunk of a panel.
const fn chunk_words<B: Block>() -> usize {
    PANEL * 16 + 64 / B::GROUP * PANEL * if B::HAS_MIN { 2 } else { 1 }
}

/// 32-bit words of a panel over `k` elements.
pub(super) fn panel_words<B: Block>(k: usize) -> usize {
    k.div_ceil(64) * chunk_words::<B>()
}

/// Unpacks rows `start..start + 16` of W; rows past the last repeat it.
///
/// # Safety
/// The machine has AVX-512 VNNI and VBMI; `out` has [`panel_words`] words.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn pack<C: Chunks>(task: &Task, start: usize, mut out: *mut i32) {
    let blocks_per_step = 64 * C::CHUNKS / C::Block::LEN;
    let step_bytes = blocks_per_step * C::Block::BYTES;
    let blocks = task.k() / C::Block::LEN;
    let rows: [*const u8; PANEL] =
        std::array::from_fn(|r| task.row((start + r).min(task.n() - 1)).as_ptr());
    // Chunks of the 16 rows, of one step.
    let mut codes = [[_mm512_setzero_si512(); PANEL]; 4];
    let mut scales = [[_mm512_setzero_ps(); PANEL]; 4];
    let mut mins = [[_mm512_setzero_ps(); PANEL]; 4];
    for step in 0..blocks.div_ceil(blocks_per_step) {
        let whole = (step + 1) * blocks_per_step <= blocks;
        for (r, row) in rows.iter().enumerate() {
            let mut padded = [0u8; 256];
            // SAFETY: the step lies in the row, or its one block is copied before zeros.
            unsafe {
                let mut from = row.add(step * step_bytes);
                if !whole {
                    padded.as_mut_ptr().copy_from_nonoverlapping(from, C::Block::BYTES);
                    from = padded.as_ptr();
                }
                let open = C::open(from);
                for index in 0..C::CHUNKS {
                    let chunk = C::chunk(from, open, index);
                    codes[index][r] = chunk.codes;
                    scales[index][r] = chunk.scale;
                    mins[index][r] = chunk.min;
                }
            }
        }
        for index in 0..C::CHUNKS {
            // SAFETY: a panel has room for each chunk; a vector array is 16 × 16 words.
            unsafe {
                transpose(&codes[index], out);
                let mut at = out.add(16 * PANEL);
                for values in [&scales[index], &mins[index]] {
                    for lane in (0..16).step_by(C::Block::GROUP / 4) {
                        _mm512_store_ps(at.cast(), column(values, lane));
                        at = at.add(PANEL);
                    }
                    if !C::Block::HAS_MIN {
                        break;
                    }
                }
                out = out.add(chunk_words::<C::Block>());
            }
        }
    }
}

/// Lane `lane` of each of 16 vectors.
#[inline(always)]
unsafe fn column(rows: &[__m512; 16], lane: usize) -> __m512 {
    // SAFETY: the caller has AVX-512; the indices stay inside the array.
    unsafe {
        let step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let index = _mm512_slli_epi32::<4>(step);
        _mm512_i32gather_ps::<4>(index, rows.as_ptr().cast::<f32>().add(lane))
    }
}

/// Writes 16 × 16 words with rows and columns exchanged.
#[inline(always)]
unsafe fn transpose(rows: &[__m512i; 16], out: *mut i32) {
    // SAFETY: the caller has AVX-512 and gives 256 words on a cache line.
    unsafe {
        let mut a = *rows;
        for i in (0..16).step_by(2) {
            a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        let mut b = a;
        for i in (0..16).step_by(4) {
            b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
            b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
            b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
            b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
        }
        // Quarter q of b[4g + j] is now column 4q + j of rows 4g … 4g + 3.
        for j in 0..4 {
            let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
            let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
            let even_high = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
            let odd_high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
            let columns = [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even_high),
                _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd_high),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even_high),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd_high),
            ];
            for (q, column) in columns.into_iter().enumerate() {
                _mm512_store_si512(out.add(16 * (4 * q + j)).cast(), column);
            }
        }
    }
}

/// Rows `rows` of y and the columns of `panels` packed panels from `start` on.
///
/// # Safety
/// The machine has AVX-512 VNNI and VBMI; `w` has that many panels; the part of y belongs to the
/// caller.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn multiply<B: Block>(
    task: &Task,
    x: &[i32],
    w: &[i32],
    rows: std::ops::Range<usize>,
    (start, panels): (usize, usize),
) {
    let words = panel_words::<B>(task.k());
    let x_row = task.k().div_ceil(64) * GROUP_WORDS;
    for row in rows.clone().step_by(MR) {
        let count = MR.min(rows.end - row);
        for panel in (0..panels).step_by(2) {
            let (w, col) = (&w[panel * words..], start + panel * PANEL);
            let tile = Tile { task, x: x[row * x_row..].as_ptr(), w: w.as_ptr(), row, col };
            // SAFETY: the tile lies inside the caller's part of y.
            unsafe {
                match (count, panels - panel) {
                    (6, 2..) => kernel::<B, 6, 2>(&tile),
                    (5, 2..) => kernel::<B, 5, 2>(&tile),
                    (4, 2..) => kernel::<B, 4, 2>(&tile),
                    (3, 2..) => kernel::<B, 3, 2>(&tile),
                    (2, 2..) => kernel::<B, 2, 2>(&tile),
                    (_, 2..) => kernel::<B, 1, 2>(&tile),
                    (6, _) => kernel::<B, 6, 1>(&tile),
                    (5, _) => kernel::<B, 5, 1>(&tile),
                    (4, _) => kernel::<B, 4, 1>(&tile),
                    (3, _) => kernel::<B, 3, 1>(&tile),
                    (2, _) => kernel::<B, 2, 1>(&tile),
                    (_, _) => kernel::<B, 1, 1>(&tile),
                }
            }
        }
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
unsafe fn kernel<B: Block, const M: usize, const P: usize>(tile: &Tile) {
    let task = tile.task;
    let chunks = task.k().div_ceil(64);
    let (x_row, panel) = (chunks * GROUP_WORDS, panel_words::<B>(task.k()));
    let groups = 64 / B::GROUP;
    let quads = B::GROUP / 4;
    // SAFETY: x has M rows and w has P panels of `chunks` chunks; y has these elements.
    unsafe {
        let (mut x, mut w) = (tile.x, tile.w);
        let mut sums = [[_mm512_setzero_ps(); P]; M];
        for _ in 0..chunks {
            for group in 0..groups {
                let mut products = [[_mm512_setzero_si512(); P]; M];
                if !B::HAS_MIN {
                    for (m, products) in products.iter_mut().enumerate() {
                        *products = [_mm512_set1_epi32(*x.add(m * x_row + 18 + group)); P];
                    }
                }
                for quad in group * quads..(group + 1) * quads {
                    let mut codes = [_mm512_setzero_si512(); P];
                    for (p, codes) in codes.iter_mut().enumerate() {
                        *codes = _mm512_load_si512(w.add(p * panel + 16 * quad).cast());
                    }
                    for (m, products) in products.iter_mut().enumerate() {
                        let four = _mm512_set1_epi32(*x.add(m * x_row + quad));
                        for (product, codes) in products.iter_mut().zip(codes) {
                            *product = _mm512_dpbusd_epi32(*product, codes, four);
                        }
                    }
                }
                for p in 0..P {
                    let scales = w.add(p * panel + 16 * (16 + group)).cast();
                    let scale = _mm512_load_ps(scales);
                    for m in 0..M {
                        let x = x.add(m * x_row);
                        let x_scale = _mm512_set1_ps(*x.add(16 + group * 2 / groups).cast());
                        sums[m][p] = _mm512_fmadd_ps(
                            _mm512_cvtepi32_ps(products[m][p]),
                            _mm512_mul_ps(scale, x_scale),
                            sums[m][p],
                        );
                        if B::HAS_MIN {
                            let min = _mm512_load_ps(scales.add(16 * groups));
                            let correction = _mm512_set1_ps(*x.add(18 + group).cast());
                            sums[m][p] = _mm512_fmadd_ps(min, correction, sums[m][p]);
                        }
                    }
                }
            }
            x = x.add(GROUP_WORDS);
            w = w.add(chunk_words::<B>());
        }
        for p in 0..P {
            let col = tile.col + p * PANEL;
            let lanes = (task.n() - col).min(PANEL);
            let mask = (0xffff_u32 >> (PANEL - lanes)) as u16;
            let bias = match task.part.bias {
                Some(bias) => _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(col)),
                None => _mm512_setzero_ps(),
            };
            for (m, sums) in sums.iter().enumerate() {
                let to = task.part.y.add((tile.row + m) * task.n() + col);
                _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(sums[p], bias));
            }
        }
    }
}
