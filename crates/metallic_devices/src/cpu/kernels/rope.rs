//! Rotary position embedding in place, from precomputed cosines and sines.
//!
//! Not: the angles, which models make once per position, with whatever scaling they use.

use metallic::op::RopePairing;

use crate::cpu::simd::{Level, with_level};

/// Turns every head of one position: `x: [heads, head_dim]`, `cos` and `sin`:
/// `[rotary_dim / 2]`. Elements past `rotary_dim` are left alone.
///
/// # Panics
/// When `x` is not whole heads, or the angles do not fit into a head.
pub fn rope(
    level: Level,
    pairing: RopePairing,
    x: &mut [f32],
    head_dim: usize,
    (cos, sin): (&[f32], &[f32]),
) {
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "whole heads");
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim, "angles fit into a head");
    with_level(level, || {
        for head in x.chunks_exact_mut(head_dim) {
            match pairing {
                RopePairing::Interleaved => {
                    for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                        let (a, b) = (pair[0], pair[1]);
                        pair[0] = a * cos - b * sin;
                        pair[1] = a * sin + b * cos;
                    }
                }
                RopePairing::Half => {
                    let (first, second) = head.split_at_mut(cos.len());
                    let pairs = first.iter_mut().zip(second);
                    for (((first, second), cos), sin) in pairs.zip(cos).zip(sin) {
                        let (a, b) = (*first, *second);
                        *first = a * cos - b * sin;
                        *second = a * sin + b * cos;
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    #[test]
    fn turns_pairs_and_leaves_the_rest() {
        for (head_dim, rotary_dim) in [(64, 64), (10, 6), (8, 0)] {
            let x = gaussian(1, 3 * head_dim);
            let half = rotary_dim / 2;
            let angles: Vec<f32> = (0..half).map(|i| 0.3 + i as f32).collect();
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            for level in Level::available() {
                for pairing in [RopePairing::Interleaved, RopePairing::Half] {
                    let mut got = x.clone();
                    rope(level, pairing, &mut got, head_dim, (&cos, &sin));
                    let mut want = x.clone();
                    for head in 0..3 {
                        for i in 0..half {
                            let (p, q) = match pairing {
                                RopePairing::Interleaved => (2 * i, 2 * i + 1),
                                RopePairing::Half => (i, i + half),
                            };
                            let (p, q) = (head * head_dim + p, head * head_dim + q);
                            want[p] = x[p] * cos[i] - x[q] * sin[i];
                            want[q] = x[p] * sin[i] + x[q] * cos[i];
                        }
                    }
                    assert_eq!(got, want, "{level:?} {pairing:?}");
                }
            }
        }
    }
}
