//! The gated activation of the MLP: `silu(gate) · up`, with silu(x) = x / (1 + e^−x).

use crate::cpu::exp::exp;
use crate::cpu::simd::{Level, with_level};

/// `out[i] = silu(gate[i]) · up[i]`.
///
/// # Panics
/// When the lengths differ.
pub fn swiglu(level: Level, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "lengths of swiglu");
    with_level(level, || {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = silu(*gate) * up;
        }
    });
}

/// `gate[i] = silu(gate[i]) · up[i]`.
///
/// # Panics
/// When the lengths differ.
pub fn swiglu_in_place(level: Level, gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len(), "lengths of swiglu");
    with_level(level, || {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = silu(*gate) * up;
        }
    });
}

/// x / (1 + e^−x): 0 for −inf's side down to the smallest x that e^−x can take.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;

    #[test]
    fn agrees_with_f64() {
        let mut gate: Vec<f32> = gaussian(1, 101).iter().map(|x| x * 8.0).collect();
        gate[3] = -200.0;
        gate[4] = 200.0;
        let up = gaussian(2, 101);
        for level in Level::available() {
            let mut out = vec![0.0; 101];
            swiglu(level, &gate, &up, &mut out);
            let mut in_place = gate.clone();
            swiglu_in_place(level, &mut in_place, &up);
            assert_eq!(out, in_place);
            for i in 0..101 {
                let x = f64::from(gate[i]);
                let want = x / (1.0 + (-x).exp()) * f64::from(up[i]);
                let error = (f64::from(out[i]) - want).abs();
                assert!(error <= 1e-6 * want.abs() + 1e-30, "{level:?} {x}");
            }
        }
    }
}
