//! Root-mean-square normalisation, alone or after a residual sum.
//!
//! `y = x / sqrt(mean(x²) + eps) · weight` per row (Zhang and Sennrich, 2019). The sum of squares
//! is taken in f32 over 16 partial sums.

use crate::cpu::simd::{Level, with_level};

/// Normalises each row of `x: [rows, width]` into `y`; `weight: [width]` gives the width.
///
/// # Panics
/// When `x` and `y` differ in length or are not whole rows.
pub fn rms_norm(level: Level, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(weight.len().max(1)), "rows of rms_norm");
    with_level(level, || {
        let width = weight.len().max(1);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            norm_row(x, weight, eps, y);
        }
    });
}

/// Normalises each row of `x: [rows, width]` in place.
///
/// # Panics
/// When `x` is not whole rows.
pub fn rms_norm_in_place(level: Level, x: &mut [f32], weight: &[f32], eps: f32) {
    assert!(x.len().is_multiple_of(weight.len().max(1)), "rows of rms_norm_in_place");
    with_level(level, || {
        for x in x.chunks_exact_mut(weight.len().max(1)) {
            let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
            for (x, weight) in x.iter_mut().zip(weight) {
                *x *= scale * weight;
            }
        }
    });
}

/// The operands of [`add_rms_norm`]; all but `weight` are `[rows, width]`.
pub struct AddRmsNorm<'a> {
    /// The residual stream; receives `x + r`.
    pub x: &'a mut [f32],
    /// What is added to it.
    pub r: &'a [f32],
    /// The norm's weight: `[width]`.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
    /// Receives the norm of `x + r`.
    pub y: &'a mut [f32],
}

/// `x += r`, then `y = rms_norm(x)`.
///
/// # Panics
/// When lengths differ or are not whole rows.
pub fn add_rms_norm(level: Level, args: AddRmsNorm) {
    let AddRmsNorm { x, r, weight, eps, y } = args;
    assert!(x.len() == y.len() && x.len() == r.len(), "lengths of add_rms_norm");
    assert!(x.len().is_multiple_of(weight.len().max(1)), "rows of add_rms_norm");
    with_level(level, || {
        let width = weight.len().max(1);
        let rows = x.chunks_exact_mut(width).zip(r.chunks_exact(width));
        for ((x, r), y) in rows.zip(y.chunks_exact_mut(width)) {
            for (x, r) in x.iter_mut().zip(r) {
                *x += r;
            }
            norm_row(x, weight, eps, y);
        }
    });
}

#[inline(always)]
fn norm_row(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * weight;
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    lanes.into_iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    #[test]
    fn agrees_with_f64() {
        for width in [1, 15, 64, 577] {
            let rows = 3;
            let (x, r) = (gaussian(1, rows * width), gaussian(2, rows * width));
            let weight = gaussian(3, width);
            for level in Level::available() {
                let (mut plain, mut fused) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                let mut sum = x.clone();
                let args =
                    AddRmsNorm { x: &mut sum, r: &r, weight: &weight, eps: 1e-5, y: &mut fused };
                add_rms_norm(level, args);
                rms_norm(level, &sum, &weight, 1e-5, &mut plain);
                assert_eq!(plain, fused);
                for (i, got) in plain.iter().enumerate() {
                    assert_eq!(sum[i], x[i] + r[i]);
                    let row = &sum[i / width * width..][..width];
                    let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let scale = (square / width as f64 + 1e-5).sqrt();
                    let want = f64::from(sum[i]) / scale * f64::from(weight[i % width]);
                    assert!((f64::from(*got) - want).abs() < 1e-5 * (1.0 + want.abs()));
                }
            }
        }
    }
}
