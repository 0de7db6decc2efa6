//! Integer products of 8-bit activations and quantised weights in plain loops, for every format.
//!
//! A row of W is unpacked to memory once and multiplied by every row of x; what the compiler makes of
//! that serves machines without the kernels of `blocks/` and `vnni/`, and tests as a second opinion.

use std::ops::Range;

use super::activations::{Activations, BLOCK};
use super::products::Task;
use super::scratch::{Scratch, with_task_scratch};
use super::split;
use crate::cpu::quant::{Block, with_block};
use crate::cpu::simd::with_level;

/// How columns are shared out.
pub(super) struct Shares {
    pub(super) count: usize,
    columns: usize,
}

impl Shares {
    pub(super) fn new(task: &Task, threads: usize) -> Self {
        let least = (16 << 10) / task.row_bytes;
        let (columns, count) = split(task.n(), 1, least.max(1), threads);
        Self { count, columns }
    }

    /// One of `count` shares.
    pub(super) fn run(&self, task: &Task, x: Activations, index: usize) {
        let columns = index * self.columns..task.n().min((index + 1) * self.columns);
        with_block!(
            task.dtype(),
            B => run_columns::<B>(task, x, columns),
            unreachable!("checked by the caller")
        );
    }
}

fn run_columns<B: Block>(task: &Task, x: Activations, columns: Range<usize>) {
    // The scratch is borrowed outside: what runs through a thread-local is not inlined, and
    // so not compiled for the level.
    with_task_scratch(|scratch| {
        with_level(task.input.level, || {
            for col in columns {
                column::<B>(task, &x, col, scratch);
            }
        });
    });
}

/// One column of y: row `col` of W with every row of x.
#[inline(always)]
fn column<B: Block>(task: &Task, x: &Activations, col: usize, scratch: &mut Scratch) {
    let k = task.k();
    let codes = scratch.a.take::<u8>(k);
    let scales = scratch.b.take::<f32>(k / B::GROUP);
    let mins = scratch.c.take::<f32>(k / B::GROUP);
    let groups = B::LEN / B::GROUP;
    for (i, block) in task.row(col).chunks_exact(B::BYTES).enumerate() {
        let group = i * groups..(i + 1) * groups;
        B::unpack(
            block,
            &mut codes[i * B::LEN..(i + 1) * B::LEN],
            &mut scales[group.clone()],
            &mut mins[group],
        );
    }
    let w = UnpackedRow { codes, scales, mins };
    for row in 0..task.m() {
        let (x_codes, x_scales, x_sums) = x.row(row);
        let x = Row { codes: x_codes, scales: x_scales, sums: x_sums };
        let sum = dot::<B>(w, x);
        // SAFETY: this column belongs to this task.
        unsafe { task.write(row, col, sum) };
    }
}

/// An unpacked row of W: codes of k elements, scales and minimums of their groups.
#[derive(Clone, Copy)]
struct UnpackedRow<'a> {
    codes: &'a [u8],
    scales: &'a [f32],
    mins: &'a [f32],
}

/// A row of x: codes of k elements, scales of each 32, sums of the codes of each 16.
#[derive(Clone, Copy)]
struct Row<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
}

/// The product of an unpacked row of W and a row of x.
#[inline(always)]
fn dot<B: Block>(w: UnpackedRow, x: Row) -> f32 {
    let UnpackedRow { codes, scales, mins } = w;
    let Row { codes: x_codes, scales: x_scales, sums: x_sums } = x;
    let mut total = 0.0;
    let groups = codes.chunks_exact(B::GROUP).zip(x_codes.chunks_exact(B::GROUP));
    for (g, (codes, x_codes)) in groups.enumerate() {
        let product: i32 =
            codes.iter().zip(x_codes).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
        let x_sum: i32 = x_sums[g * B::GROUP / 16..(g + 1) * B::GROUP / 16].iter().sum();
        let signed = (product - i32::from(B::OFFSET) * x_sum) as f32;
        let group = if B::HAS_MIN {
            scales[g] * signed + mins[g] * x_sum as f32
        } else {
            scales[g] * signed
        };
        total += x_scales[g * B::GROUP / BLOCK] * group;
    }
    total
}
