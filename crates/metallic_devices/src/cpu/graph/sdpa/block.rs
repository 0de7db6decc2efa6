//! One item of fused attention: a block of query positions of one key head, over its keys.
//!
//! Not: how calls are cut into items (`mod.rs`).

use std::cell::RefCell;
use std::ops::Range;

use super::few::{self, Few};
use super::merge::Partials;
use super::product::{PANEL_VECTORS, Scores, Values, scores, values};
use super::softmax::{Running, accumulate};
use super::tile::{Rows, all_finite, decode_rows};
use super::{FEW_ROWS, PREFETCH_KEYS, Plan};
use crate::cpu::attention::{Attention, NonFinite, Query, add_scaled, soften, take_non_finite};
use crate::cpu::kernels::convert::encode_row;
use crate::cpu::linear::scratch::Buffer;
use crate::cpu::simd::Level;
use crate::cpu::vector::Plain;
use crate::cpu::vector_math::F32Math;
use crate::cpu::view::View;

thread_local! {
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// The longest panel: three vectors of 16 lanes.
const MAX_PANEL: usize = 48;
/// The most keys of a micro-kernel, which may compute that many past the last.
const MAX_KEYS: usize = 8;

/// A block of query positions of the heads that share a key head. Row `r` is position
/// `first + r / group` of the group's head `r % group`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub batch: usize,
    pub kv_head: usize,
    pub first: usize,
    pub positions: usize,
}

impl Item {
    pub(super) fn query(&self, call: &Attention, row: usize) -> Query {
        let group = call.group();
        let head = self.kv_head * group + row % group;
        Query { batch: self.batch, head, position: self.first + row / group }
    }

    /// Keys that some position of `rows` sees, and keys that all of them see (by band and
    /// length). Visible ranges grow with the position.
    fn keys(&self, call: &Attention, rows: Range<usize>) -> (Range<usize>, Range<usize>) {
        let position = |row: usize| self.first + row / call.group();
        let (start, end) = call.visible(self.batch, position(rows.start));
        let (last_start, last_end) = call.visible(self.batch, position(rows.end - 1));
        (start..last_end, last_start..end)
    }
}

/// Runs an item; with partials, only one part of its keys.
pub(super) fn run(
    plan: &Plan,
    call: &Attention,
    item: Item,
    partials: Option<(&Partials, usize, usize)>,
) {
    SCRATCH.with_borrow_mut(|buffer| {
        let work = Work { plan, call, item, partials, rows: item.positions * call.group() };
        // SAFETY: `usable` only gives levels that the machine has.
        unsafe {
            match plan.level.usable() {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Vnni => work.run_avx512(buffer),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => work.run_avx2(buffer),
                #[cfg(target_arch = "aarch64")]
                Level::Neon | Level::NeonDot => {
                    work.run::<std::arch::aarch64::float32x4_t, 8, 4>(buffer)
                }
                _ => work.run::<Plain, 4, 2>(buffer),
            }
        }
    });
}

struct Work<'a> {
    plan: &'a Plan,
    call: &'a Attention,
    item: Item,
    partials: Option<(&'a Partials, usize, usize)>,
    rows: usize,
}

/// Where things lie in the scratch of a task.
#[derive(Clone, Copy)]
struct Scratch {
    /// Panels `[head_dim, width]`, one after another.
    q: *mut f32,
    /// `[rows, v_stride]`
    acc: *mut f32,
    /// `[rows]` each.
    running: Running,
    /// `[tile_keys, head_dim]`
    k: *mut f32,
    /// `[tile_keys, v_stride]`
    v: *mut f32,
    /// `[tile_keys, width]`
    s: *mut f32,
    /// For [`Few`].
    unsummed: *mut f32,
    /// Elements of a row of values and sums.
    v_stride: usize,
}

/// A panel of rows and the part of a tile that they see.
#[derive(Clone, Copy)]
struct Panel {
    first_row: usize,
    /// Rows in use; `width` with padding.
    rows: usize,
    width: usize,
    /// First key of the sequence.
    key: usize,
    /// The same in the tile.
    tile_key: usize,
    keys: usize,
}

impl Work<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn run_avx512(&self, buffer: &mut Buffer) {
        // SAFETY: this function enables the instructions.
        unsafe { self.run::<std::arch::x86_64::__m512, 8, 4>(buffer) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(&self, buffer: &mut Buffer) {
        // SAFETY: this function enables the instructions.
        unsafe { self.run::<std::arch::x86_64::__m256, 4, 2>(buffer) }
    }

    /// MR keys of a micro-kernel of scores, NV vectors of one of values.
    #[inline(always)]
    unsafe fn run<V: F32Math, const MR: usize, const NV: usize>(&self, buffer: &mut Buffer) {
        let Self { call, item, rows, .. } = *self;
        let scratch = self.carve::<V>(buffer);
        let (all, every) = item.keys(call, 0..rows);
        let all = self.part_of(all);
        // SAFETY: `carve` made room for everything; `V`'s instructions exist.
        unsafe {
            if few::takes::<V>(call, rows) && self.few::<V, NV>(&scratch, all.clone(), every) {
                self.finish(&scratch);
                return;
            }
            self.pack_queries::<V>(&scratch);
        }
        let panel = PANEL_VECTORS * V::LANES;
        let mut tile = all.start;
        while tile < all.end {
            let tile_end = all.end.min(tile + self.tile_keys());
            // SAFETY: as above; keys are below the live length.
            let non_finite = unsafe { self.load_tile::<V>(&scratch, tile..tile_end) };
            for first_row in (0..rows).step_by(panel) {
                let used = panel.min(rows - first_row);
                let (some, every) = item.keys(call, first_row..first_row + used);
                let (start, end) = (some.start.max(tile), some.end.min(tile_end));
                if start >= end {
                    continue;
                }
                let panel = Panel {
                    first_row,
                    rows: used,
                    width: used.next_multiple_of(V::LANES),
                    key: start,
                    tile_key: start - tile,
                    keys: end - start,
                };
                let edge = every.start > start || every.end < end;
                // SAFETY: as above.
                unsafe { self.panel::<V, MR, NV>(&scratch, panel, edge, &non_finite) };
            }
            tile = tile_end;
        }
        // SAFETY: as above.
        unsafe { self.finish(&scratch) };
    }

    /// The kernel for few rows; false when it must be done again here.
    #[inline(always)]
    unsafe fn few<V: F32Math, const NV: usize>(
        &self,
        scratch: &Scratch,
        keys: Range<usize>,
        every: Range<usize>,
    ) -> bool {
        let Self { call, item, rows, .. } = *self;
        let Running { max, sum, .. } = scratch.running;
        // SAFETY: `carve` made room for `rows` rows of whole vectors.
        unsafe {
            scratch.acc.write_bytes(0, rows * scratch.v_stride);
            for row in 0..rows {
                (*max.add(row), *sum.add(row)) = (f32::NEG_INFINITY, 0.0);
                self.query_row::<V>(row, scratch.q.add(row * call.head_dim()));
            }
            let (scores, unsummed) = (scratch.s, scratch.unsummed);
            let (q, acc) = (scratch.q.cast_const(), scratch.acc);
            Few { call, item, rows, keys, every, q, acc, max, sum, scores, unsummed }.run::<V, NV>()
        }
    }

    /// Decodes and scales the query of a row.
    #[inline(always)]
    unsafe fn query_row<V: F32Math>(&self, row: usize, to: *mut f32) {
        let call = self.call;
        let Query { batch, head, position } = self.item.query(call, row);
        let len = call.head_dim();
        // SAFETY: the query exists; the caller gives room for it.
        unsafe {
            decode_rows::<V>(Rows {
                dtype: call.q.dtype,
                from: call.q.row([batch, head, position]),
                step: 0,
                count: 1,
                len,
                to,
                to_stride: 0,
                ahead: 0,
            });
            std::slice::from_raw_parts_mut(to, len).iter_mut().for_each(|x| *x *= call.scale);
        }
    }

    fn tile_keys(&self) -> usize {
        if self.rows <= FEW_ROWS { self.plan.few_rows_tile_keys } else { self.plan.tile_keys }
    }

    /// The part of `keys` that this task computes.
    fn part_of(&self, keys: Range<usize>) -> Range<usize> {
        let Some((partials, _, split)) = self.partials else { return keys };
        let step = keys.len().div_ceil(partials.splits()).next_multiple_of(8);
        let bound = |split: usize| keys.end.min(keys.start + split * step);
        bound(split)..bound(split + 1)
    }

    #[inline(always)]
    fn carve<V: F32Math>(&self, buffer: &mut Buffer) -> Scratch {
        let call = self.call;
        let rows = self.rows.next_multiple_of(V::LANES);
        let v_stride = call.v_dim().next_multiple_of(V::LANES);
        let keys = self.tile_keys() + MAX_KEYS;
        let sizes = [
            rows * call.head_dim(),
            rows * v_stride,
            rows,
            rows,
            rows,
            keys * call.head_dim(),
            keys * v_stride,
            (keys * MAX_PANEL).max(few::SCORES),
            if few::takes::<V>(call, self.rows) { few::unsummed(V::LANES) } else { 0 },
        ]
        .map(|floats| floats.next_multiple_of(16));
        let floats: &mut [f32] = buffer.take(sizes.iter().sum());
        let mut at = floats.as_mut_ptr();
        let [q, acc, max, sum, alpha, k, v, s, unsummed] = sizes.map(|floats| {
            let start = at;
            at = at.wrapping_add(floats);
            start
        });
        Scratch { q, acc, running: Running { max, sum, alpha }, k, v, s, unsummed, v_stride }
    }

    /// Scales and transposes the queries into panels; clears the running state.
    #[inline(always)]
    unsafe fn pack_queries<V: F32Math>(&self, scratch: &Scratch) {
        let Self { call, rows, .. } = *self;
        let (dim, panel) = (call.head_dim(), PANEL_VECTORS * V::LANES);
        let padded = rows.next_multiple_of(V::LANES);
        // SAFETY: `carve` made room for `padded` rows.
        unsafe {
            scratch.q.write_bytes(0, padded * dim);
            scratch.acc.write_bytes(0, padded * scratch.v_stride);
            scratch.running.sum.write_bytes(0, padded);
            for row in 0..padded {
                *scratch.running.max.add(row) = f32::NEG_INFINITY;
            }
            for row in 0..rows {
                // The tile of keys is free: nothing is loaded yet.
                let query = scratch.k;
                self.query_row::<V>(row, query);
                let first = row / panel * panel;
                let width = panel.min(rows - first).next_multiple_of(V::LANES);
                let to = scratch.q.add(first * dim + row - first);
                for d in 0..dim {
                    *to.add(d * width) = *query.add(d);
                }
            }
        }
    }

    /// Decodes a tile of keys and values; returns the value rows that are not finite.
    #[inline(always)]
    unsafe fn load_tile<V: F32Math>(
        &self,
        scratch: &Scratch,
        keys: Range<usize>,
    ) -> Vec<NonFinite> {
        let Self { call, item, .. } = *self;
        let (dim, v_dim, stride) = (call.head_dim(), call.v_dim(), scratch.v_stride);
        let count = keys.len();
        let ahead = if self.rows <= FEW_ROWS { PREFETCH_KEYS } else { 0 };
        let rows = |view: &View, to: *mut f32, to_stride: usize| Rows {
            dtype: view.dtype,
            from: view.row([item.batch, item.kv_head, keys.start]),
            step: view.row_stride(),
            count,
            len: view.shape[3],
            to,
            to_stride,
            ahead,
        };
        // SAFETY: `carve` made room for a tile; the keys exist.
        unsafe {
            decode_rows::<V>(rows(&call.k, scratch.k, dim));
            decode_rows::<V>(rows(&call.v, scratch.v, stride));
            if stride > v_dim {
                for at in 0..count {
                    scratch.v.add(at * stride + v_dim).write_bytes(0, stride - v_dim);
                }
            }
            if all_finite::<V>(scratch.v, count * stride) {
                return Vec::new();
            }
            let tile = std::slice::from_raw_parts_mut(scratch.v, count * stride);
            take_non_finite(tile, stride, v_dim)
        }
    }

    /// Adds the part of a tile that a panel of rows sees to the panel's running state.
    #[inline(always)]
    unsafe fn panel<V: F32Math, const MR: usize, const NV: usize>(
        &self,
        scratch: &Scratch,
        panel: Panel,
        edge: bool,
        non_finite: &[NonFinite],
    ) {
        let call = self.call;
        let Panel { first_row, rows, width, key, tile_key, keys } = panel;
        let (dim, stride) = (call.head_dim(), scratch.v_stride);
        // SAFETY: the panel and its keys lie inside what `carve` made room for.
        unsafe {
            let k = scratch.k.add(tile_key * dim);
            let q = scratch.q.add(first_row * dim);
            scores::<V, MR>(width / V::LANES, Scores { k, q, s: scratch.s, keys, dim });
            let s = std::slice::from_raw_parts_mut(scratch.s, keys * width);
            if let Some(cap) = call.softcap {
                soften(s, cap);
            }
            if edge {
                self.hide(panel, s);
            }
            if call.mask.is_some() {
                for row in 0..rows {
                    let query = self.item.query(call, first_row + row);
                    call.mask_row(query, key, width, &mut s[row..]);
                }
            }
            let Running { max, sum, alpha } = scratch.running;
            let [max, sum, alpha] = [max, sum, alpha].map(|all| all.add(first_row));
            accumulate::<V>(scratch.s, width, keys, Running { max, sum, alpha });
            let acc = scratch.acc.add(first_row * stride);
            values::<V, NV>(Values {
                p: scratch.s,
                width,
                alpha,
                v: scratch.v.add(tile_key * stride),
                acc,
                stride,
                keys,
                queries: rows,
            });
            for bad in non_finite {
                let Some(at) = bad.key.checked_sub(tile_key).filter(|at| *at < keys) else {
                    continue;
                };
                for row in 0..rows {
                    if call.allows(self.item.query(call, first_row + row), key + at) {
                        let acc =
                            std::slice::from_raw_parts_mut(acc.add(row * stride), call.v_dim());
                        add_scaled(acc, *scratch.s.add(at * width + row), &bad.value);
                    }
                }
            }
        }
    }

    /// Hides the keys outside each row's band.
    #[inline(always)]
    fn hide(&self, panel: Panel, s: &mut [f32]) {
        let Panel { first_row, rows, width, key, keys, .. } = panel;
        let (mut starts, mut ends) = ([0i32; MAX_PANEL], [0i32; MAX_PANEL]);
        for row in 0..rows {
            let position = self.item.first + (first_row + row) / self.call.group();
            let (start, end) = self.call.visible(self.item.batch, position);
            starts[row] = (start.max(key) - key).min(keys) as i32;
            ends[row] = (end.max(key) - key).min(keys) as i32;
        }
        for (key, s) in s.chunks_exact_mut(width).enumerate() {
            let key = key as i32;
            for ((s, start), end) in s.iter_mut().zip(&starts).zip(&ends) {
                *s = if key < *start || key >= *end { f32::NEG_INFINITY } else { *s };
            }
        }
    }

    /// Divides by the weights and stores, or hands in this part.
    unsafe fn finish(&self, scratch: &Scratch) {
        let (v_dim, stride) = (self.call.v_dim(), scratch.v_stride);
        let Running { max, sum, .. } = scratch.running;
        // SAFETY: the running state has `rows` rows.
        let row_of = |row: usize| unsafe {
            let acc = std::slice::from_raw_parts_mut(scratch.acc.add(row * stride), v_dim);
            (acc, *max.add(row), *sum.add(row))
        };
        let Some((partials, item, split)) = self.partials else {
            for row in 0..self.rows {
                let (acc, _, sum) = row_of(row);
                self.store(row, acc, sum);
            }
            return;
        };
        // SAFETY: this is the task of this part, and it has not finished.
        let part = unsafe { partials.part(item, split) };
        for (row, part) in part.chunks_exact_mut(v_dim + 2).take(self.rows).enumerate() {
            let (acc, max, sum) = row_of(row);
            (part[0], part[1]) = (max, sum);
            part[2..].copy_from_slice(acc);
        }
        if let Some(parts) = partials.finish(item) {
            for row in 0..self.rows {
                let (acc, _, _) = row_of(row);
                let sum = partials.merge(parts, row, acc);
                self.store(row, acc, sum);
            }
        }
    }

    /// Stores one row of the result. A row that saw no key has weight 0 and becomes zeros.
    fn store(&self, row: usize, acc: &mut [f32], sum: f32) {
        let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
        acc.iter_mut().for_each(|x| *x *= inverse);
        let Query { batch, head, position } = self.item.query(self.call, row);
        let out = &self.call.out;
        let bytes = out.dtype.row_bytes(acc.len()).expect("outputs are floats");
        // SAFETY: the output has this row, and no other task writes it.
        let to = unsafe { std::slice::from_raw_parts_mut(out.row([batch, head, position]), bytes) };
        encode_row(self.plan.level, out.dtype, acc, to);
    }
}
