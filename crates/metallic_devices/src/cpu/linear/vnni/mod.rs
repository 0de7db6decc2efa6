//! Integer products on AVX-512 with VNNI and VBMI, for every quantised format.
//!
//! - `gemv.rs` for few rows of x: reads W once, bound by memory on most formats.
//! - `gemm.rs` for many rows of x: unpacks W into tiles, bound by the dot product units.
//!
//! Zen 5, n = 4864, k = 1024 (`benches/linear.rs`). One core: median of 6 runs; two cores: best of
//! 6, since the machine was shared and the median of two threads was that of one core.
//!
//! | type | 1 row, one core | 1 row, two | 512 rows, one core | 512 rows, two |
//! |---|---|---|---|---|
//! | Q8_0 | 25 GB/s | 45 GB/s | 619 GFLOP/s | 1152 GFLOP/s |
//! | Q4_0 | 17 GB/s | 33 GB/s | 638 GFLOP/s | 1196 GFLOP/s |
//! | Q4_1 | 20 GB/s | 36 GB/s | 574 GFLOP/s | 1047 GFLOP/s |
//! | Q5_0 | 20 GB/s | 38 GB/s | 602 GFLOP/s | 1232 GFLOP/s |
//! | Q4_K | 20 GB/s | 37 GB/s | 506 GFLOP/s | 1169 GFLOP/s |
//! | Q5_K | 25 GB/s | 48 GB/s | 590 GFLOP/s | 1174 GFLOP/s |
//! | Q6_K | 23 GB/s | 43 GB/s | 555 GFLOP/s | 1131 GFLOP/s |
//!
//! From 4 to 8 rows, decoding is bound by arithmetic: 170 GFLOP/s a core.

mod activations;
mod chunk;
mod gemm;
mod gemv;
mod super_chunk;

use metallic::tensor::DType;

use self::activations::{GROUP_WORDS, LANE_WORDS, round_groups, round_lanes};
use self::chunk::Chunks;
use super::scratch::{with_shared_scratch, with_task_scratch};
use super::{Task, split};
use crate::cpu::pool::ThreadPool;
use crate::cpu::quant::Block;

/// From this many rows of x on, W is unpacked into tiles.
const MANY: usize = 12;
/// Bytes of unpacked W that one task holds: half of a second-level cache.
const TILE_BYTES: usize = 512 << 10;

/// Computes the product; the machine must have [`crate::cpu::simd::Level::Avx512Vnni`].
pub(super) fn run(pool: &ThreadPool, task: &Task) {
    match task.dtype() {
        DType::Q8_0 => run_chunks::<chunk::Q8_0>(pool, task),
        DType::Q4_0 => run_chunks::<chunk::Q4_0>(pool, task),
        DType::Q4_1 => run_chunks::<chunk::Q4_1>(pool, task),
        DType::Q5_0 => run_chunks::<chunk::Q5_0>(pool, task),
        DType::Q5_1 => run_chunks::<chunk::Q5_1>(pool, task),
        DType::Iq4Nl => run_chunks::<chunk::Iq4Nl>(pool, task),
        DType::Q2K => run_chunks::<super_chunk::Q2K>(pool, task),
        DType::Q3K => run_chunks::<super_chunk::Q3K>(pool, task),
        DType::Q4K => run_chunks::<super_chunk::Q4K>(pool, task),
        DType::Q5K => run_chunks::<super_chunk::Q5K>(pool, task),
        DType::Q6K => run_chunks::<super_chunk::Q6K>(pool, task),
        DType::Iq4Xs => run_chunks::<super_chunk::Iq4Xs>(pool, task),
        DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => {
            unreachable!("only quantised weights come here")
        }
    }
}

fn run_chunks<C: Chunks>(pool: &ThreadPool, task: &Task) {
    with_shared_scratch(|scratch| {
        let many = task.m() >= MANY;
        let words = if many { GROUP_WORDS } else { LANE_WORDS };
        let row_words = task.k().div_ceil(64) * words;
        let x = scratch.a.take::<i32>(task.m() * row_words);
        round_rows::<C::Block>(pool, task, x, row_words);
        if many { run_gemm::<C>(pool, task, x) } else { run_gemv::<C>(pool, task, x) }
    });
}

/// A pointer to rows that tasks write one by one.
#[derive(Clone, Copy)]
struct Rows(*mut i32);

// SAFETY: each task writes its own row.
unsafe impl Sync for Rows {}

/// Rounds all rows of x, on all threads where there are many.
fn round_rows<B: Block>(pool: &ThreadPool, task: &Task, x: &mut [i32], row_words: usize) {
    let (rows, tasks) = split(task.m(), 1, (64 << 10) / task.k(), pool.threads());
    let out = Rows(x.as_mut_ptr());
    pool.run(tasks, &|index| {
        let out = &out;
        for row in index * rows..task.m().min((index + 1) * rows) {
            // SAFETY: the machine has the instructions; `row` is this task's own, inside x and
            // `out`.
            unsafe {
                let (x, out) =
                    (task.args.x.as_ptr().add(row * task.k()), out.0.add(row * row_words));
                if task.m() >= MANY {
                    round_groups::<B>(x, task.k(), out);
                } else {
                    round_lanes::<B>(x, task.k(), out);
                }
            }
        }
    });
}

fn run_gemv<C: Chunks>(pool: &ThreadPool, task: &Task, x: &[i32]) {
    let least = (16 << 10) / task.row_bytes;
    let (columns, tasks) = split(task.n(), 4, least, pool.threads());
    pool.run(tasks, &|index| {
        let end = task.n().min((index + 1) * columns);
        // SAFETY: the machine has the instructions; the columns are this task's own.
        unsafe { gemv::columns::<C>(task, x, index * columns, end) };
    });
}

fn run_gemm<C: Chunks>(pool: &ThreadPool, task: &Task, x: &[i32]) {
    let words = gemm::panel_words::<C::Block>(task.k());
    let most = (TILE_BYTES / (4 * words)).clamp(2, 8) & !1;
    let (columns, _) = split(task.n(), 2 * gemm::PANEL, 1, pool.threads());
    let panels = most.min(columns / gemm::PANEL);
    let tiles = task.n().div_ceil(panels * gemm::PANEL);
    // Few tiles: the rows of x are split too, at the price of unpacking a tile more than once.
    let parts = (2 * pool.threads()).div_ceil(tiles).min(task.m().div_ceil(96)).max(1);
    let rows = task.m().div_ceil(parts);
    pool.run(tiles * parts, &|index| {
        let start = index / parts * panels * gemm::PANEL;
        let panels = panels.min((task.n() - start).div_ceil(gemm::PANEL));
        let part = index % parts * rows;
        let part = part.min(task.m())..task.m().min(part + rows);
        with_task_scratch(|scratch| {
            let w = scratch.a.take::<i32>(panels * words);
            // SAFETY: the machine has the instructions; w has room for the panels; the columns
            // and rows are this task's own.
            unsafe {
                for (panel, out) in w.chunks_exact_mut(words).enumerate() {
                    gemm::pack::<C>(task, start + panel * gemm::PANEL, out.as_mut_ptr());
                }
                gemm::multiply::<C::Block>(task, x, w, part, (start, panels));
            }
        });
    });
}
