//! `y = x · Wᵀ + bias` with W stored in any float or quantised type and read in place.
//!
//! Two precisions: [`Precision::Exact`] decodes W to f32 and multiplies in f32;
//! [`Precision::Quantized`] rounds each row of x to 8 bits per 32 elements and takes integer dot
//! products. Measured speed stands in the files of the single paths.
//! Not: repacked weights, and not validation of models; lengths are asserted once, here.

mod activations;
mod ahead;
mod blocks;
mod exact;
mod products;
mod quantized;
pub(crate) mod scratch;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod words;

pub use metallic::op::Precision;
pub(crate) use products::{Input, Part, products};

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
    let Linear { x, m, weight, bias, precision, level } = *args;
    assert_eq!(x.len(), m * weight.cols, "x: [m, k]");
    assert_eq!(y.len(), m * weight.rows, "y: [m, n]");
    let input = Input { x: x.as_ptr(), m, k: weight.cols, prepare: None, precision, level };
    let part = Part { weight, bias, y: y.as_mut_ptr() };
    // SAFETY: x and y have these shapes, and while they are borrowed nobody else writes them.
    unsafe { products(pool, &input, [part]) };
}

/// Splits `total` into ranges of a multiple of `unit`: several for each thread, so that a thread
/// that is held back does not hold up the others, but none smaller than `least`.
fn split(total: usize, unit: usize, least: usize, threads: usize) -> (usize, usize) {
    let even = total.div_ceil(4 * threads.max(1));
    let size = even.max(least).max(1).next_multiple_of(unit);
    (size, total.div_ceil(size))
}
