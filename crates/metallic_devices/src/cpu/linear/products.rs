//! Several products of one x as one: x is made ready and rounded once, and the columns of all
//! products are shared out in one parallel region.
//!
//! Each element of y comes out as it would from a product alone. Not: how columns are multiplied
//! (`exact`, `quantized`, `words`).

use std::ops::Range;

use metallic::tensor::DType;

use super::activations::Activations;
use super::scratch::{Scratch, with_shared_scratch};
use super::words::{self, Kernels};
use super::{LinearWeight, Precision, exact, quantized};
use crate::cpu::pool::ThreadPool;
use crate::cpu::simd::Level;

/// x of one or more products.
pub(crate) struct Input<'a> {
    /// `[m, k]`
    pub x: *const f32,
    /// Rows of x: tokens.
    pub m: usize,
    /// Columns of x.
    pub k: usize,
    /// Writes these rows of x before anything reads them; called once for each row, from any
    /// thread. `None` when x is there already.
    pub prepare: Option<&'a (dyn Fn(Range<usize>) + Sync)>,
    /// How products are taken.
    pub precision: Precision,
    /// The best instructions to use.
    pub level: Level,
}

// SAFETY: an address with a shape; tasks read x after it was prepared, and write none of it.
unsafe impl Sync for Input<'_> {}

/// One product of it.
pub(crate) struct Part<'a> {
    /// `[n, k]`
    pub weight: LinearWeight<'a>,
    /// Added to each row of y: `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[m, n]`, overwritten.
    pub y: *mut f32,
}

// SAFETY: the tasks of one product write disjoint elements of y and read none but their own.
unsafe impl Sync for Part<'_> {}

/// One product on its way through the paths.
pub(super) struct Task<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) part: &'a Part<'a>,
    pub(super) row_bytes: usize,
}

impl Task<'_> {
    pub(super) fn m(&self) -> usize {
        self.input.m
    }

    pub(super) fn n(&self) -> usize {
        self.part.weight.rows
    }

    pub(super) fn k(&self) -> usize {
        self.input.k
    }

    pub(super) fn dtype(&self) -> DType {
        self.part.weight.dtype
    }

    /// Whether the product is one of integers.
    pub(super) fn is_integer(&self) -> bool {
        self.input.precision == Precision::Quantized && self.dtype().is_quantized()
    }

    /// The stored bytes of row `row` of W.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.part.weight.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    fn bias(&self, col: usize) -> f32 {
        self.part.bias.map_or(0.0, |bias| bias[col])
    }

    /// Writes `y[row, col]`, bias added.
    ///
    /// # Safety
    /// `row < m`, `col < n`, and no other task writes this element.
    #[inline(always)]
    pub(super) unsafe fn write(&self, row: usize, col: usize, value: f32) {
        // SAFETY: inside y as the caller promises.
        unsafe { *self.part.y.add(row * self.n() + col) = value + self.bias(col) };
    }
}

/// What the products read of x.
pub(super) enum Rounded<'a, const N: usize> {
    /// x itself.
    Floats,
    /// 8-bit codes, the same for all.
    Codes(Activations<'a>),
    /// 8-bit codes as the kernels want them that unpack in registers, for each product; empty for
    /// one of floats.
    Words(Kernels, [&'a [i32]; N]),
}

/// How the columns of one product are shared out.
enum Shares {
    Exact(exact::Shares),
    Codes(quantized::Shares),
    Words(words::Shares),
}

impl Shares {
    fn new<const N: usize>(task: &Task, rounded: &Rounded<'_, N>, threads: usize) -> Self {
        match rounded {
            // Nothing to share out counts as floats.
            _ if !task.is_integer() || task.n() == 0 => {
                Shares::Exact(exact::Shares::new(task, threads))
            }
            Rounded::Words(kernels, _) => {
                Shares::Words(words::Shares::new(*kernels, task, threads))
            }
            _ => Shares::Codes(quantized::Shares::new(task, threads)),
        }
    }

    fn count(&self) -> usize {
        match self {
            Shares::Exact(shares) => shares.count,
            Shares::Codes(shares) => shares.count,
            Shares::Words(shares) => shares.count,
        }
    }
}

/// Computes `y = x · Wᵀ + bias` for every part.
///
/// # Panics
/// When the weight's or the bias's length disagrees with the shapes, or the weight is neither a
/// float nor a quantised type.
///
/// # Safety
/// x and each y have their shapes, once `prepare` was called for every row; nothing else writes x
/// or touches a y meanwhile, and no two of them overlap.
pub(crate) unsafe fn products<const N: usize>(pool: &ThreadPool, input: &Input, parts: [Part; N]) {
    let tasks = parts.each_ref().map(|part| {
        let LinearWeight { dtype, rows, cols, bytes } = part.weight;
        assert!(dtype.is_float() || dtype.is_quantized(), "{dtype} weights");
        let row_bytes = dtype.row_bytes(cols).expect("whole blocks");
        assert_eq!(bytes.len(), rows * row_bytes, "bytes of the weight");
        assert_eq!(cols, input.k, "x: [m, k]");
        assert!(part.bias.is_none_or(|bias| bias.len() == rows), "bias: [n]");
        Task { input, part, row_bytes }
    });
    if input.m == 0 {
        return;
    }
    if input.k == 0 {
        for task in &tasks {
            for (row, col) in (0..task.m()).flat_map(|row| (0..task.n()).map(move |col| (row, col)))
            {
                // SAFETY: an element of y.
                unsafe { task.write(row, col, 0.0) };
            }
        }
        return;
    }
    with_shared_scratch(|scratch| {
        let rounded = ready(pool, &tasks, scratch);
        let shares = tasks.each_ref().map(|task| Shares::new(task, &rounded, pool.threads()));
        let count = shares.iter().map(Shares::count).sum();
        pool.run(count, &|mut index| {
            for (number, (task, shares)) in tasks.iter().zip(&shares).enumerate() {
                if index >= shares.count() {
                    index -= shares.count();
                    continue;
                }
                return multiply((task, number), &rounded, shares, index);
            }
        });
    });
}

/// Makes x ready and rounds it where a product takes integers.
fn ready<'a, const N: usize>(
    pool: &ThreadPool,
    tasks: &[Task; N],
    scratch: &'a mut Scratch,
) -> Rounded<'a, N> {
    let input = tasks[0].input;
    let integer = tasks.iter().any(Task::is_integer);
    if let Some(kernels) = Kernels::of(input.level).filter(|_| integer) {
        return Rounded::Words(kernels, words::round(kernels, pool, tasks, scratch));
    }
    if let Some(prepare) = input.prepare {
        each_rows(pool, input, prepare);
    }
    if !integer {
        return Rounded::Floats;
    }
    // SAFETY: x has m rows, which are ready.
    let x = unsafe { std::slice::from_raw_parts(input.x, input.m * input.k) };
    Rounded::Codes(Activations::quantize(input.level, x, input.k, scratch))
}

/// Calls `f` for all rows of x, in ranges, on as many threads as the work is worth.
pub(super) fn each_rows(pool: &ThreadPool, input: &Input, f: &(dyn Fn(Range<usize>) + Sync)) {
    // A row that is made ready is read or written a few times.
    let least = if input.prepare.is_some() { 16 << 10 } else { 64 << 10 };
    let (rows, count) = super::split(input.m, 1, least / input.k, pool.threads());
    pool.run(count, &|index| f(index * rows..input.m.min((index + 1) * rows)));
}

/// One share of the columns of one product.
fn multiply<const N: usize>(
    (task, number): (&Task, usize),
    rounded: &Rounded<'_, N>,
    shares: &Shares,
    index: usize,
) {
    match (shares, rounded) {
        (Shares::Exact(shares), _) => shares.run(task, index),
        (Shares::Codes(shares), Rounded::Codes(x)) => shares.run(task, *x, index),
        (Shares::Words(shares), Rounded::Words(_, x)) => shares.run(task, x[number], index),
        _ => unreachable!("shares of product {number} are for what was rounded"),
    }
}
