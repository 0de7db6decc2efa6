//! `Sdpa` as composed kernels: QKᵀ, mask, softmax and the sum over values, each a pass over
//! scores that lie in memory.
//!
//! A task is a block of query positions of some heads that share a key head, so keys are decoded
//! once for all of them and never expanded. Band masks come from the mask arena as tensors.
//! Versions: every step has its own per level (`gemm_f32`, `softmax`). Times: docs/cpu-performance.md.
//! Not: fused, nor aware of what a band hides; `graph/sdpa` is.

use std::cell::RefCell;

use metallic::Result;
use metallic::cache::BandRequest;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::{DType, Tensor};

use super::Cpu;
use crate::cpu::attention::{
    Attention, MaskRow, Query, TensorMask, add_mask, add_scaled, any_non_finite, soften,
    take_non_finite,
};
use crate::cpu::gemm_f32::{Matrix, MatrixMut, gemm_f32_nn, gemm_f32_nt};
use crate::cpu::kernels::convert::encode_row;
use crate::cpu::kernels::softmax::softmax;
use crate::cpu::linear::scratch::Buffer;
use crate::cpu::quant::dequantize_row_at;
use crate::cpu::simd::{Level, with_level};
use crate::cpu::view::View;

/// Query rows of one task and of one band mask.
const ROWS: usize = 64;
/// Keys decoded at a time.
const KEYS: usize = 128;

thread_local! {
    /// Queries, scores, a tile of keys or values, and sums of this thread's task.
    static SCRATCH: RefCell<[Buffer; 4]> = RefCell::default();
}

pub(crate) struct LegacySdpa(pub(crate) Cpu);

impl KernelInvocable<Sdpa> for LegacySdpa {
    fn supports(&self, _: &SdpaSpec) -> Support {
        Support::Yes
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let SdpaArgs { q, k, v, mask, kv_lens, out, .. } = args;
        let call = Attention {
            q: View::input(q),
            k: View::input(k),
            v: View::input(v),
            out: View::output(out),
            mask: mask.tensor.as_ref().map(|mask| TensorMask::new(mask, q, k)).transpose()?,
            kv_lens: kv_lens.as_ref().map(View::input),
            band: mask.band,
            scale: spec.scale(),
            softcap: spec.softcap(),
        };
        if call.batch() == 0 || call.q_len() == 0 {
            return Ok(());
        }
        let split = Split::new(&call, self.0.pool.threads());
        let bands = bands(cx, &call, &split)?;
        let band_views: Vec<View> = bands.iter().map(View::input).collect();
        let tasks = call.batch() * call.kv_heads() * split.head_parts * split.blocks;
        self.0.pool.run(tasks, &|task| {
            let task = split.task(&call, task);
            let sequence = if call.kv_lens.is_some() { task.batch } else { 0 };
            let band = band_views.get(sequence * split.blocks + task.first / split.positions);
            SCRATCH.with_borrow_mut(|scratch| run_task(self.0.level, &call, task, band, scratch));
        });
        Ok(())
    }
}

/// How a call is cut into tasks.
struct Split {
    /// Query positions of a task.
    positions: usize,
    blocks: usize,
    /// Query heads of a task, all of one key head.
    heads: usize,
    head_parts: usize,
}

impl Split {
    fn new(call: &Attention, threads: usize) -> Self {
        let positions = call.q_len().min(ROWS);
        let blocks = call.q_len().div_ceil(positions);
        let wanted = threads.div_ceil(call.batch() * call.kv_heads() * blocks);
        let heads = (ROWS / positions).clamp(1, call.group().div_ceil(wanted));
        Self { positions, blocks, heads, head_parts: call.group().div_ceil(heads) }
    }

    fn task(&self, call: &Attention, index: usize) -> Task {
        let (index, block) = (index / self.blocks, index % self.blocks);
        let (index, part) = (index / self.head_parts, index % self.head_parts);
        let (first, first_head) = (block * self.positions, part * self.heads);
        Task {
            batch: index / call.kv_heads(),
            kv_head: index % call.kv_heads(),
            first_head: index % call.kv_heads() * call.group() + first_head,
            heads: self.heads.min(call.group() - first_head),
            first,
            positions: self.positions.min(call.q_len() - first),
        }
    }
}

/// A block of positions of neighbouring query heads. Its rows are ordered by head, then position.
#[derive(Clone, Copy)]
struct Task {
    batch: usize,
    kv_head: usize,
    first_head: usize,
    heads: usize,
    first: usize,
    positions: usize,
}

impl Task {
    fn rows(&self) -> usize {
        self.heads * self.positions
    }

    fn query(&self, row: usize) -> Query {
        Query {
            batch: self.batch,
            head: self.first_head + row / self.positions,
            position: self.first + row % self.positions,
        }
    }
}

/// The band mask of each block of rows, for each sequence if their diagonals differ.
fn bands(cx: &ExecCx<'_>, call: &Attention, split: &Split) -> Result<Vec<Tensor>> {
    if call.band.is_open() || call.kv_len() == 0 {
        return Ok(Vec::new());
    }
    let sequences = if call.kv_lens.is_some() { call.batch() } else { 1 };
    let mut bands = Vec::with_capacity(sequences * split.blocks);
    for sequence in 0..sequences {
        let diagonal = call.band.diagonal(call.q_len(), call.live(sequence));
        for block in 0..split.blocks {
            let first = block * split.positions;
            let request = BandRequest {
                left: call.band.left,
                right: call.band.right,
                rows: split.positions.min(call.q_len() - first),
                kv_len: call.kv_len(),
                offset: diagonal.saturating_add(first as i64),
                dtype: DType::F32,
            };
            bands.push(cx.cache.masks.band(request, cx.device, cx.recorder)?);
        }
    }
    Ok(bands)
}

fn run_task(
    level: Level,
    call: &Attention,
    task: Task,
    band: Option<&View>,
    [queries, scores, tile, sums]: &mut [Buffer; 4],
) {
    let (rows, live) = (task.rows(), call.live(task.batch));
    let sums: &mut [f32] = sums.take(rows * call.v_dim());
    sums.fill(0.0);
    if live > 0 {
        let queries = queries.take(rows * call.head_dim());
        let tile = tile.take(KEYS * call.head_dim().max(call.v_dim()));
        let scores = scores.take(rows * live);
        products(level, call, task, queries, tile, scores);
        for (row, scores) in scores.chunks_exact_mut(live).enumerate() {
            with_level(level, || mask_scores(call, task, row, band, scores));
        }
        softmax(level, scores, live);
        sum_values(level, call, task, scores, tile, sums);
    }
    let bytes = call.out.dtype.row_bytes(call.v_dim()).expect("outputs are floats");
    for (row, sums) in sums.chunks_exact(call.v_dim()).enumerate() {
        let Query { batch, head, position } = task.query(row);
        let out = call.out.row([batch, head, position]);
        // SAFETY: `out` has this row, and no other task writes it.
        let out = unsafe { std::slice::from_raw_parts_mut(out, bytes) };
        encode_row(level, call.out.dtype, sums, out);
    }
}

/// Scores `[rows, live]` of scaled queries and keys, bounded by the softcap.
fn products(
    level: Level,
    call: &Attention,
    task: Task,
    queries: &mut [f32],
    tile: &mut [f32],
    scores: &mut [f32],
) {
    let (dim, rows) = (call.head_dim(), task.rows());
    let live = scores.len() / rows;
    for (row, query) in queries.chunks_exact_mut(dim).enumerate() {
        let Query { batch, head, position } = task.query(row);
        decode(level, &call.q, [batch, head, position], query);
        query.iter_mut().for_each(|x| *x *= call.scale);
    }
    for start in (0..live).step_by(KEYS) {
        let keys = KEYS.min(live - start);
        for (key, row) in tile.chunks_exact_mut(dim).take(keys).enumerate() {
            decode(level, &call.k, [task.batch, task.kv_head, start + key], row);
        }
        let a = Matrix { data: queries, rows, cols: dim, stride: dim };
        let b = Matrix { data: tile, rows: keys, cols: dim, stride: dim };
        let mut c = MatrixMut { data: &mut scores[start..], rows, cols: keys, stride: live };
        gemm_f32_nt(level, a, b, &mut c, false);
    }
    if let Some(cap) = call.softcap {
        with_level(level, || soften(scores, cap));
    }
}

/// Hides what the band or the mask tensor hides from one row.
#[inline(always)]
fn mask_scores(call: &Attention, task: Task, row: usize, band: Option<&View>, scores: &mut [f32]) {
    if let Some(band) = band {
        let mask = MaskRow::new(band, [0, 0, row % task.positions], 0);
        // SAFETY: the band mask is f32 with `kv_len` columns, and scores have no more.
        add_mask(scores, 1, |key| unsafe { mask.read(key) });
    }
    call.mask_row(task.query(row), 0, 1, scores);
}

/// Adds probabilities times values to `sums: [rows, v_dim]`.
fn sum_values(
    level: Level,
    call: &Attention,
    task: Task,
    scores: &[f32],
    tile: &mut [f32],
    sums: &mut [f32],
) {
    let (dim, rows) = (call.v_dim(), task.rows());
    let live = scores.len() / rows;
    for start in (0..live).step_by(KEYS) {
        let keys = KEYS.min(live - start);
        let tile = &mut tile[..keys * dim];
        for (key, row) in tile.chunks_exact_mut(dim).enumerate() {
            decode(level, &call.v, [task.batch, task.kv_head, start + key], row);
        }
        let non_finite = if with_level(level, || any_non_finite(tile)) {
            take_non_finite(tile, dim, dim)
        } else {
            Vec::new()
        };
        let a = Matrix { data: &scores[start..], rows, cols: keys, stride: live };
        let b = Matrix { data: tile, rows: keys, cols: dim, stride: dim };
        let mut c = MatrixMut { data: sums, rows, cols: dim, stride: dim };
        gemm_f32_nn(level, a, b, &mut c, true);
        for bad in non_finite {
            for (row, sums) in sums.chunks_exact_mut(dim).enumerate() {
                let key = start + bad.key;
                if call.allows(task.query(row), key) {
                    add_scaled(sums, scores[row * live + key], &bad.value);
                }
            }
        }
    }
}

/// Row `[a, b, c]` of `view` as f32.
fn decode(level: Level, view: &View, row: [usize; 3], out: &mut [f32]) {
    let bytes = view.dtype.row_bytes(out.len()).expect("rows are whole blocks");
    // SAFETY: the view has this row, of `out.len()` elements.
    let stored = unsafe { std::slice::from_raw_parts(view.row(row), bytes) };
    dequantize_row_at(level, view.dtype, stored, out);
}
