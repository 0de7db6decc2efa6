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
//! The columns of one row are from before lines were asked for in their order; `gemv.rs` has what
//! came of that. From 4 to 8 rows, decoding is bound by arithmetic: 170 GFLOP/s a core.

mod activations;
mod chunk;
mod gemm;
mod gemv;
mod super_chunk;

use std::ops::Range;

use metallic::tensor::DType;

use self::activations::{GROUP_WORDS, LANE_WORDS, round_groups, round_lanes};
use self::chunk::Chunks;
use super::products::{Task, each_rows};
use super::scratch::{Scratch, with_task_scratch};
use super::split;
use crate::cpu::pool::ThreadPool;
use crate::cpu::quant::Block;

/// From this many rows of x on, W is unpacked into tiles.
const MANY: usize = 12;
/// Bytes of unpacked W that one task holds: half of a second-level cache.
const TILE_BYTES: usize = 512 << 10;

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

/// What rows of x are rounded for: formats that agree in this share the rounded rows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Whether corrections are sums times scales; otherwise sums times the offset.
    has_min: bool,
    offset: u8,
    /// Elements of a group, where corrections are kept by group; 0 where they are by lane.
    group: usize,
}

impl Form {
    fn of(task: &Task) -> Self {
        let group = |group| if task.m() >= MANY { group } else { 0 };
        with_chunks!(task.dtype(), C => {
            type B = <C as Chunks>::Block;
            Form { has_min: B::HAS_MIN, offset: B::OFFSET, group: group(B::GROUP) }
        })
    }

    fn row_words(self, k: usize) -> usize {
        k.div_ceil(64) * if self.group > 0 { GROUP_WORDS } else { LANE_WORDS }
    }
}

/// Rows that tasks write one by one.
#[derive(Clone, Copy)]
struct Rows(*mut i32);

// SAFETY: each task writes its own rows.
unsafe impl Sync for Rows {}

/// Makes the rows of x ready and rounds them, on all threads where there are many, once for each
/// form among the products; gives each product its rows. The machine must have
/// [`crate::cpu::simd::Level::Avx512Vnni`].
pub(super) fn round<'a, const N: usize>(
    pool: &ThreadPool,
    tasks: &[Task; N],
    scratch: &'a mut Scratch,
) -> [&'a [i32]; N] {
    let input = tasks[0].input;
    let forms = tasks.each_ref().map(|task| task.is_integer().then(|| Form::of(task)));
    // The first product of each form stands for all of it.
    let first = |number: usize| forms[..number].iter().all(|form| *form != forms[number]);
    // Each form starts on a cache line, as kernels load whole ones.
    let words = |form: Option<Form>| {
        form.map_or(0, |form| (input.m * form.row_words(input.k)).next_multiple_of(16))
    };
    let owners = (0..N).filter(|number| first(*number));
    let out =
        Rows(scratch.a.take::<i32>(owners.map(|number| words(forms[number])).sum()).as_mut_ptr());
    let mut starts = [0; N];
    let mut end = 0;
    for number in 0..N {
        let owner = forms[..number].iter().position(|form| *form == forms[number]);
        starts[number] = owner.map_or(end, |owner| starts[owner]);
        end += if owner.is_none() { words(forms[number]) } else { 0 };
    }
    each_rows(pool, input, &|rows: Range<usize>| {
        let out = &out;
        if let Some(prepare) = input.prepare {
            prepare(rows.clone());
        }
        for (number, task) in tasks.iter().enumerate().filter(|(number, _)| first(*number)) {
            let Some(form) = forms[number] else { continue };
            let row_words = form.row_words(input.k);
            for row in rows.clone() {
                // SAFETY: the machine has the instructions; `row` is this task's own, inside x
                // and `out`.
                unsafe {
                    let x = input.x.add(row * input.k);
                    let out = out.0.add(starts[number] + row * row_words);
                    with_chunks!(task.dtype(), C => {
                        type B = <C as Chunks>::Block;
                        match form.group {
                            0 => round_lanes::<B>(x, input.k, out),
                            _ => round_groups::<B>(x, input.k, out),
                        }
                    });
                }
            }
        }
    });
    std::array::from_fn(|number| {
        // SAFETY: inside what was taken, which stays borrowed; nothing writes it from here on.
        unsafe { std::slice::from_raw_parts(out.0.add(starts[number]), words(forms[number])) }
    })
}

/// How columns are shared out.
pub(super) struct Shares {
    pub(super) count: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Few rows of x.
    Gemv { columns: usize },
    /// Many: tiles of so many panels, by parts of so many rows.
    Gemm { panels: usize, parts: usize, rows: usize },
}

impl Shares {
    pub(super) fn new(task: &Task, threads: usize) -> Self {
        if task.m() < MANY {
            let least = (16 << 10) / task.row_bytes;
            // One thread has nobody to share with, and starts on one stream of memory only once.
            let (columns, count) =
                if threads == 1 { (task.n(), 1) } else { split(task.n(), 4, least, threads) };
            return Self { count, kind: Kind::Gemv { columns } };
        }
        let words = panel_words(task);
        let most = (TILE_BYTES / (4 * words)).clamp(2, 8) & !1;
        let (columns, _) = split(task.n(), 2 * gemm::PANEL, 1, threads);
        let panels = most.min(columns / gemm::PANEL);
        let tiles = task.n().div_ceil(panels * gemm::PANEL);
        // Few tiles: the rows of x are split too, at the price of unpacking a tile more than once.
        let parts = (2 * threads).div_ceil(tiles).min(task.m().div_ceil(96)).max(1);
        let rows = task.m().div_ceil(parts);
        Self { count: tiles * parts, kind: Kind::Gemm { panels, parts, rows } }
    }

    /// One of `count` shares; `x`: the rounded rows of this product.
    pub(super) fn run(&self, task: &Task, x: &[i32], index: usize) {
        with_chunks!(task.dtype(), C => match self.kind {
            Kind::Gemv { columns } => {
                let end = task.n().min((index + 1) * columns);
                // SAFETY: the machine has the instructions; the columns are this share's own.
                unsafe { gemv::columns::<C>(task, x, index * columns, end) };
            }
            Kind::Gemm { panels, parts, rows } => {
                let start = index / parts * panels * gemm::PANEL;
                let panels = panels.min((task.n() - start).div_ceil(gemm::PANEL));
                let part = (index % parts * rows).min(task.m());
                multiply_tile::<C>(task, x, part..task.m().min(part + rows), (start, panels));
            }
        });
    }
}

fn panel_words(task: &Task) -> usize {
    with_chunks!(task.dtype(), C => gemm::panel_words::<<C as Chunks>::Block>(task.k()))
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
