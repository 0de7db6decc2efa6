//! f32 products: a tile of W is decoded to f32 and multiplied by all rows of x.
//!
//! A tile is a few rows for decoding (it stays in the first-level cache) and 64 rows for prefill
//! (it stays in the second-level cache while x streams by).
//!
//! Zen 5 with AVX-512, n = 4864, k = 1024, best of 6 runs on two cores of a shared machine: one row
//! f32 41 GB/s, f16 43; 512 rows f32 329 GFLOP/s, f16 409, Q4_1 407. One core held to AVX2 about 60.
//! One row by quantised weights is bound by decoding (Q4_1 15 GFLOP/s): models decode with
//! [`super::Precision::Quantized`].

use metallic::tensor::DType;

use super::products::Task;
use super::scratch::with_task_scratch;
use super::split;
use crate::cpu::gemm_f32::{RawGemm, gemm_nt_raw};
use crate::cpu::quant::dequantize_row_at;

/// Rows of a decoded tile where x has many rows.
const TILE: usize = 64;
/// Rows of a decoded tile where x has few rows.
const SMALL_TILE: usize = 4;
/// Up to this many rows of x count as few.
const FEW: usize = 8;

/// How columns are shared out.
pub(super) struct Shares {
    pub(super) count: usize,
    columns: usize,
    tile: usize,
}

impl Shares {
    pub(super) fn new(task: &Task, threads: usize) -> Self {
        let few = task.m() <= FEW;
        let tile = if few { SMALL_TILE } else { TILE };
        let least = if few { (32 << 10) / task.row_bytes.max(1) } else { 1 };
        let (columns, count) = split(task.n(), if few { tile } else { 16 }, least, threads);
        Self { count, columns, tile }
    }

    /// One of `count` shares.
    pub(super) fn run(&self, task: &Task, index: usize) {
        let end = task.n().min((index + 1) * self.columns);
        for start in (index * self.columns..end).step_by(self.tile) {
            multiply_tile(task, start, end.min(start + self.tile));
        }
    }
}

/// Columns `start..end` of y.
fn multiply_tile(task: &Task, start: usize, end: usize) {
    let k = task.k();
    with_task_scratch(|scratch| {
        let in_place =
            task.dtype() == DType::F32 && task.row(start).as_ptr().cast::<f32>().is_aligned();
        // A stride that is no multiple of 4 KiB keeps rows in different sets of the caches.
        let stride = if in_place { k } else { k.next_multiple_of(16) + 16 };
        let b = if in_place {
            task.row(start).as_ptr().cast()
        } else {
            let decoded = scratch.a.take::<f32>(stride * (end - start));
            for (row, out) in (start..end).zip(decoded.chunks_exact_mut(stride)) {
                dequantize_row_at(task.input.level, task.dtype(), task.row(row), &mut out[..k]);
            }
            decoded.as_ptr()
        };
        let gemm = RawGemm {
            a: task.input.x,
            a_stride: k,
            b,
            b_stride: stride,
            // SAFETY: `start` is a column of y.
            c: unsafe { task.part.y.add(start) },
            c_stride: task.n(),
            m: task.m(),
            n: end - start,
            k,
            accumulate: task.part.bias.is_some(),
        };
        if let Some(bias) = task.part.bias {
            for row in 0..task.m() {
                // SAFETY: these columns of y belong to this task.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(
                        task.part.y.add(row * task.n() + start),
                        end - start,
                    )
                };
                out.copy_from_slice(&bias[start..end]);
            }
        }
        // SAFETY: x, the tile and the columns of y cover these shapes; the columns are this
        // task's own.
        unsafe { gemm_nt_raw(task.input.level, gemm) };
    });
}
