//! Softmax of rows in place, in f32. Not: the online softmax of fused attention.

use crate::cpu::exp::exp;
use crate::cpu::simd::{Level, with_level};

/// Replaces each row of `x: [rows, width]` by `softmax(row)`.
///
/// −inf is masked: its probability is exactly 0. A row of nothing but −inf becomes zeros. A NaN
/// that is not masked away spreads over its row.
///
/// # Panics
/// When `x` is not whole rows.
pub fn softmax(level: Level, x: &mut [f32], width: usize) {
    assert!(x.len().is_multiple_of(width.max(1)), "rows of softmax");
    with_level(level, || x.chunks_exact_mut(width.max(1)).for_each(softmax_row));
}

/// One row; see [`softmax`]. Inlined into the caller's instruction level.
#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let max = row_max(row);
    if max == f32::NEG_INFINITY {
        for x in row {
            *x = if x.is_nan() { f32::NAN } else { 0.0 };
        }
        return;
    }
    let mut lanes = [0.0f32; 16];
    let mut chunks = row.chunks_exact_mut(16);
    for chunk in &mut chunks {
        for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
            *x = exp(*x - max);
            *lane += *x;
        }
    }
    let mut sum = lanes.into_iter().sum::<f32>();
    for x in chunks.into_remainder() {
        *x = exp(*x - max);
        sum += *x;
    }
    let scale = 1.0 / sum;
    for x in row {
        *x *= scale;
    }
}

/// The largest element that is a number; −inf when there is none.
#[inline(always)]
fn row_max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    #[test]
    fn agrees_with_f64() {
        for width in [1, 7, 16, 100] {
            let mut x: Vec<f32> = gaussian(1, 3 * width).iter().map(|x| x * 10.0).collect();
            x[width / 2] += f32::NEG_INFINITY;
            for level in Level::available() {
                let mut got = x.clone();
                softmax(level, &mut got, width);
                for (row, got) in x.chunks_exact(width).zip(got.chunks_exact(width)) {
                    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                    let e: Vec<f64> = row.iter().map(|x| (f64::from(*x) - max).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    for (e, got) in e.iter().zip(got) {
                        let want = if sum > 0.0 { e / sum } else { 0.0 };
                        assert!((f64::from(*got) - want).abs() <= 1e-5 * want + 1e-37);
                    }
                }
            }
        }
    }

    #[test]
    fn masked_rows_are_zero_and_nan_is_seen() {
        for level in Level::available() {
            let mut x = [f32::NEG_INFINITY; 40];
            softmax(level, &mut x, 20);
            assert_eq!(x, [0.0; 40]);
            let mut x = [1.0; 20];
            x[3] = f32::NAN;
            softmax(level, &mut x, 20);
            assert!(x.iter().all(|x| x.is_nan()));
        }
    }
}
