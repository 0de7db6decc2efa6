//! Elementwise sums. Not: the fused residual sum of `rms_norm`.

use crate::cpu::simd::{Level, with_level};

/// `out[i] = a[i] + b[i]`.
///
/// # Panics
/// When the lengths differ.
pub fn add(level: Level, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "lengths of a sum");
    with_level(level, || {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    });
}

/// `x[r, c] += y[r, c]`, or `x[r, c] += y[c]` when `y` is one row of x's width (a bias).
///
/// # Panics
/// When `x` is not a whole number of times `y`.
pub fn add_in_place(level: Level, x: &mut [f32], y: &[f32]) {
    assert!(y.is_empty() == x.is_empty() && (y.is_empty() || x.len().is_multiple_of(y.len())));
    with_level(level, || {
        for row in x.chunks_exact_mut(y.len().max(1)) {
            for (x, y) in row.iter_mut().zip(y) {
                *x += y;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5; 6]);
        for level in Level::available() {
            let mut out = [0.0; 6];
            add(level, &a, &b, &mut out);
            assert_eq!(out, [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]);
            add_in_place(level, &mut out, &[1.0, 0.0, -1.0]);
            assert_eq!(out, [2.5, 2.5, 2.5, 5.5, 5.5, 5.5]);
            add_in_place(level, &mut [], &[]);
        }
    }
}
