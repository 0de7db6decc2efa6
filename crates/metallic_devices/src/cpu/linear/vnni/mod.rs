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
//! The columns of one row are from before lines were asked for in their order; `../ahead.rs` has
//! what came of that. From 4 to 8 rows, decoding is bound by arithmetic: 170 GFLOP/s a core.

mod activations;
mod chunk;
mod gemm;
mod gemv;
mod super_chunk;

use std::ops::Range;

use metallic::tensor::DType;

use self::activations::{GROUP_WORDS, LANE_WORDS, round_groups, round_lanes};
use self::chunk::Chunks;
pub(super) use self::gemm::PANEL;
use super::products::Task;
use super::scratch::with_task_scratch;
use crate::cpu::quant::Block;

/// Evaluates `$body` with `$C` naming the [`Chunks`] of a quantised `DType`.
macro_rules! with_chunks {
    ($dtype:expr, $C:ident => $body:expr) => {{
        macro_rules! arm {
            ($name:path) => {{
                type $C = $name;
                $body
            }};
        }
        match $dtype {
            DType::Q8_0 => arm!(chunk::Q8_0),
            DType::Q4_0 => arm!(chunk::Q4_0),
            DType::Q4_1 => arm!(chunk::Q4_1),
            DType::Q5_0 => arm!(chunk::Q5_0),
            DType::Q5_1 => arm!(chunk::Q5_1),
            DType::Iq4Nl => arm!(chunk::Iq4Nl),
            DType::Q2K => arm!(super_chunk::Q2K),
            DType::Q3K => arm!(super_chunk::Q3K),
            DType::Q4K => arm!(super_chunk::Q4K),
            DType::Q5K => arm!(super_chunk::Q5K),
            DType::Q6K => arm!(super_chunk::Q6K),
            DType::Iq4Xs => arm!(super_chunk::Iq4Xs),
            DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => {
                unreachable!("only quantised weights come here")
            }
        }
    }};
}

/// 32-bit words of one rounded row of `k` elements, for many rows of x or for few.
pub(super) fn row_words(k: usize, many: bool) -> usize {
    k.div_ceil(64) * if many { GROUP_WORDS } else { LANE_WORDS }
}

/// Rounds one row of `k` floats to [`row_words`] words, for formats like B.
///
/// # Safety
/// The machine has [`crate::cpu::simd::Level::Avx512Vnni`]; `x` and `out` have the row.
pub(super) unsafe fn round_row<B: Block>(x: *const f32, k: usize, out: *mut i32, many: bool) {
    // SAFETY: the caller's promise.
    unsafe { if many { round_groups::<B>(x, k, out) } else { round_lanes::<B>(x, k, out) } }
}

/// Columns `columns` of y for few rows of x.
pub(super) fn decode(task: &Task, x: &[i32], columns: Range<usize>) {
    with_chunks!(task.dtype(), C => {
        // SAFETY: the machine has the instructions; the columns are the caller's own.
        unsafe { gemv::columns::<C>(task, x, columns.start, columns.end) };
    });
}

/// 32-bit words of a panel of [`PANEL`] unpacked rows of W.
pub(super) fn panel_words(task: &Task) -> usize {
    with_chunks!(task.dtype(), C => gemm::panel_words::<<C as Chunks>::Block>(task.k()))
}

/// Rows `part` of y and the columns of some panels from column `start` on.
pub(super) fn prefill(task: &Task, x: &[i32], part: Range<usize>, tile: (usize, usize)) {
    with_chunks!(task.dtype(), C => multiply_tile::<C>(task, x, part, tile));
}

/// Panels of W from column `start` on by the rows `part` of x.
fn multiply_tile<C: Chunks>(
    task: &Task,
    x: &[i32],
    part: Range<usize>,
    (start, panels): (usize, usize),
) {
    let words = gemm::panel_words::<C::Block>(task.k());
    with_task_scratch(|scratch| {
        let w = scratch.a.take::<i32>(panels * words);
        // SAFETY: the machine has the instructions; w has room for the panels; the columns and
        // rows are the caller's own.
        unsafe {
            for (panel, out) in w.chunks_exact_mut(words).enumerate() {
                gemm::pack::<C>(task, start + panel * gemm::PANEL, out.as_mut_ptr());
            }
            gemm::multiply::<C::Block>(task, x, w, part, (start, panels));
        }
    });
}
