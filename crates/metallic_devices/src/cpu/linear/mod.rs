//! `y = x · Wᵀ + bias` with W stored in any float or quantised type and read in place.
//!
//! Two precisions: [`Precision::Exact`] decodes W to f32 and multiplies in f32;
//! [`Precision::Quantized`] rounds each row of x to 8 bits per 32 elements and takes integer dot
//! products. Measured speed stands in the files of the single paths.
//! Not: repacked weights, and not validation of models; lengths are asserted once, here.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod exact;
mod quantized;
pub(crate) mod scratch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use metallic::op::Precision;
use metallic::tensor::DType;

use super::pool::ThreadPool;
use super::simd::Level;

/// A weight matrix as stored: `rows` (n, outputs) of `cols` (k, inputs) elements.
#[derive(Clone, Copy, Debug)]
pub struct LinearWeight<'a> {
    /// f32, f16, bf16 or a quantised type.
    pub dtype: DType,
    /// Outputs, n.
    pub rows: usize,
    /// Inputs, k: a whole number of blocks.
    pub cols: usize,
    /// `rows` times the bytes of a row.
    pub bytes: &'a [u8],
}

/// The operands of one product.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// Activations: `[m, k]`.
    pub x: &'a [f32],
    /// Rows of x: tokens.
    pub m: usize,
    /// Weights: `[n, k]`.
    pub weight: LinearWeight<'a>,
    /// Added to each row of y: `[n]`.
    pub bias: Option<&'a [f32]>,
    /// How products are taken.
    pub precision: Precision,
    /// The best instructions to use.
    pub level: Level,
}

/// Computes `y: [m, n]`, overwriting it.
///
/// # Panics
/// When a slice's length disagrees with the shapes, or the weight is neither a float nor a
/// quantised type.
pub fn linear(pool: &ThreadPool, args: &Linear, y: &mut [f32]) {
    let LinearWeight { dtype, rows: n, cols: k, bytes } = args.weight;
    assert!(dtype.is_float() || dtype.is_quantized(), "{dtype} weights");
    let row_bytes = dtype.row_bytes(k).expect("whole blocks");
    assert_eq!(bytes.len(), n * row_bytes, "bytes of the weight");
    assert_eq!(args.x.len(), args.m * k, "x: [m, k]");
    assert_eq!(y.len(), args.m * n, "y: [m, n]");
    assert!(args.bias.is_none_or(|bias| bias.len() == n), "bias: [n]");
    if y.is_empty() {
        return;
    }
    if k == 0 {
        return y.chunks_exact_mut(n).for_each(|row| match args.bias {
            Some(bias) => row.copy_from_slice(bias),
            None => row.fill(0.0),
        });
    }
    let task = Task { args, row_bytes, y: Output(y.as_mut_ptr()) };
    if args.precision == Precision::Quantized && dtype.is_quantized() {
        quantized::run(pool, &task);
    } else {
        exact::run(pool, &task);
    }
}

/// One product on its way through the paths.
struct Task<'a> {
    args: &'a Linear<'a>,
    row_bytes: usize,
    y: Output,
}

/// `y`, of which each task writes its own columns.
#[derive(Clone, Copy)]
struct Output(*mut f32);

// SAFETY: the tasks of one product write disjoint elements and read none but their own.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Task<'_> {
    fn m(&self) -> usize {
        self.args.m
    }

    fn n(&self) -> usize {
        self.args.weight.rows
    }

    fn k(&self) -> usize {
        self.args.weight.cols
    }

    fn dtype(&self) -> DType {
        self.args.weight.dtype
    }

    /// The stored bytes of row `row` of W.
    fn row(&self, row: usize) -> &[u8] {
        &self.args.weight.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    fn bias(&self, col: usize) -> f32 {
        self.args.bias.map_or(0.0, |bias| bias[col])
    }

    /// Writes `y[row, col]`, bias added.
    ///
    /// # Safety
    /// `row < m`, `col < n`, and no other task writes this element.
    #[inline(always)]
    unsafe fn write(&self, row: usize, col: usize, value: f32) {
        // SAFETY: inside y as the caller promises.
        unsafe { *self.y.0.add(row * self.n() + col) = value + self.bias(col) };
    }
}

/// Splits `total` into ranges of a multiple of `unit`: several for each thread, so that a thread
/// that is held back does not hold up the others, but none smaller than `least`.
fn split(total: usize, unit: usize, least: usize, threads: usize) -> (usize, usize) {
    let even = total.div_ceil(4 * threads.max(1));
    let size = even.max(least).next_multiple_of(unit);
    (size, total.div_ceil(size))
}
