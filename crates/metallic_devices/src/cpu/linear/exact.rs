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

use super::scratch::with_task_scratch;
use super::{Task, split};
use crate::cpu::gemm_f32::{RawGemm, gemm_nt_raw};
use crate::cpu::pool::ThreadPool;
use crate::cpu::quant::dequantize_row_at;

/// Rows of a decoded tile where x has many rows.
const TILE: usize = 64;
/// Rows of a decoded tile where x has few rows.
const SMALL_TILE: usize = 4;
/// Up to this many rows of x count as few.
const FEW: usize = 8;

pub(super) fn run(pool: &ThreadPool, task: &Task) {
    let few = task.m() <= FEW;
    let tile = if few { SMALL_TILE } else { TILE };
    let least = if few { (32 << 10) / task.row_bytes.max(1) } else { 1 };
    let (rows, tasks) = if few {
        split(task.n(), tile, least, pool.threads())
    } else {
        split(task.n(), 16, least, pool.threads())
    };
    pool.run(tasks, &|index| {
        let end = task.n().min((index + 1) * rows);
        for start in (index * rows..end).step_by(tile) {
            multiply_tile(task, start, end.min(start + tile));
        }
    });
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
                dequantize_row_at(task.args.level, task.dtype(), task.row(row), &mut out[..k]);
            }
            decoded.as_ptr()
        };
        let gemm = RawGemm {
            a: task.args.x.as_ptr(),
            a_stride: k,
            b,
            b_stride: stride,
            // SAFETY: `start` is a column of y.
            c: unsafe { task.y.0.add(start) },
            c_stride: task.n(),
            m: task.m(),
            n: end - start,
            k,
            accumulate: task.args.bias.is_some(),
        };
        if let Some(bias) = task.args.bias {
            for row in 0..task.m() {
                // SAFETY: these columns of y belong to this task.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(
                        task.y.0.add(row * task.n() + start),
                        end - start,
                    )
                };
                out.copy_from_slice(&bias[start..end]);
            }
        }
        // SAFETY: x, the tile and the columns of y cover these shapes; the columns are this
        // task's own.
        unsafe { gemm_nt_raw(task.args.level, gemm) };
    });
}
