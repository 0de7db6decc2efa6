//! How far a kernel may be from the oracle, and the comparison itself.
//!
//! The oracle is given inputs already rounded to storage, so a tolerance covers only what a
//! kernel does: f32 arithmetic and the rounding of the result. It is a bound per element, made of
//! first-order error terms:
//!
//! ```text
//! |got − want| <= output · |want| + tiny                     rounding of the result
//!               + spread · ( weight                          rounding of a weight before PV
//!                          + 2 · logit                       a score off by δ moves weights by 2δ
//!                          + u32 · (8 + 2 · sqrt(attended)) ) exp, division, the two sums
//! logit = u32 · 4 · (dot + additive) + decode · dot
//! ```
//!
//! with `spread = Σ weight·|v|`, `dot` and `additive` of [`Reference`], `u32 = 2⁻²⁴`. The factors:
//! a sum of `n` terms in f32 errs like `sqrt(n) · u32` (Higham and Mary 2019, "A new approach to
//! probabilistic rounding error analysis"), twice that for safety; a dot product of up to 256
//! terms stays below `4 · u32 · ‖q‖‖k‖` for the same reason, as long as its partial sums grow like
//! `sqrt(n)` too; `exp` and division are good to a few units in the last place.
//!
//! So the bound is no proof for every input. Where one coordinate of q and k is as large as all others
//! together, each partial sum after it is as large as `‖q‖‖k‖`, and the dot product errs like
//! `sqrt(n) · u32 · ‖q‖‖k‖` instead of 4 times `u32 · ‖q‖‖k‖`: of 10,240 random calls with such a coordinate,
//! f32 attention of the graph backend was above the bound in 10.

use metallic::tensor::DType;

use crate::oracle::{Estimate, Reference};

/// Unit roundoff of f32.
const U32: f64 = 1.0 / (1u64 << 24) as f64;

/// The error terms of one combination of types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative rounding of the result to its storage type.
    pub output: f64,
    /// Absolute rounding of results below the normal range of that type.
    pub tiny: f64,
    /// Relative rounding of a weight that a matrix unit takes in the storage type.
    pub weight: f64,
    /// Relative rounding of keys and values decoded into the storage type of q.
    pub decode: f64,
    /// Where the numbers come from.
    pub source: &'static str,
}

/// The tolerance of attention with q and out in `q`, keys and values in `kv`.
///
/// # Panics
/// For a `q` that attention does not take.
pub fn sdpa(q: DType, kv: DType) -> Tolerance {
    let quantised = kv.is_quantized();
    match q {
        DType::F32 => Tolerance {
            output: U32,
            tiny: 2f64.powi(-126),
            weight: 0.0,
            decode: 0.0,
            source: "f32 throughout; q8_0 decodes exactly into f32 (8 bits times 11 bits)",
        },
        DType::F16 => Tolerance {
            output: 2f64.powi(-11),
            tiny: 2f64.powi(-25),
            weight: 2f64.powi(-11),
            decode: if quantised { 2f64.powi(-11) } else { 0.0 },
            source: "f16 has 11 significant bits: result and weights round by 2^-11 each",
        },
        DType::Bf16 => Tolerance {
            output: 2f64.powi(-8),
            tiny: 2f64.powi(-133),
            weight: 2f64.powi(-8),
            decode: if quantised { 2f64.powi(-8) } else { 0.0 },
            source: "bf16 has 8 significant bits: result and weights round by 2^-8 each",
        },
        other => panic!("attention takes no {other} queries"),
    }
}

impl Tolerance {
    /// The largest allowed error of each element of `reference.out`.
    pub fn bounds(&self, reference: &Reference) -> Vec<f64> {
        let elements = reference.out.iter().zip(&reference.spread);
        elements
            .enumerate()
            .map(|(index, (want, spread))| {
                let row = reference.rows[index / reference.v_dim];
                let logit = U32 * 4.0 * (row.dot + row.additive) + self.decode * row.dot;
                let sums = U32 * (8.0 + 2.0 * (row.attended as f64).sqrt());
                let weights = self.weight + self.decode + 2.0 * logit + sums;
                self.output * want.abs() + self.tiny + spread * weights
            })
            .collect()
    }
}

/// Standard errors that a result made of many roundings may be off by: of a million elements with
/// independent errors, none is off by 6.
const STANDARD_ERRORS: f64 = 8.0;

/// The values of `estimates` and the largest allowed error of each.
pub fn of_estimates(estimates: &[Estimate]) -> (Vec<f64>, Vec<f64>) {
    let bound = |estimate: &Estimate| STANDARD_ERRORS * estimate.sigma + 2f64.powi(-126);
    estimates.iter().map(|estimate| (estimate.value, bound(estimate))).unzip()
}

/// How two results differ.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Largest absolute error of the finite elements.
    pub max_abs: f64,
    /// Largest error relative to its own element, of the finite elements that are not 0.
    pub max_rel: f64,
    /// `Σ (got − want)² / Σ want²` of the finite elements; 0 when all of `want` is 0 and met.
    pub nmse: f64,
    /// Elements that are NaN on one side only.
    pub nan_mismatch: usize,
    /// Elements that are infinite on one side only, or with another sign.
    pub inf_sign_mismatch: usize,
    /// Largest error in units of its bound; above 1 is a failure.
    pub worst_ratio: f64,
    /// The element with that error, or the first mismatch of NaN or infinity.
    pub worst: Option<usize>,
    /// The bound of that element.
    pub bound: f64,
}

impl Comparison {
    /// Whether every element is within its bound and NaN and infinity stand where they should.
    pub fn passed(&self) -> bool {
        self.nan_mismatch == 0 && self.inf_sign_mismatch == 0 && self.worst_ratio <= 1.0
    }
}

/// Compares `got` with `want`, element by element, within `bounds`.
///
/// # Panics
/// When the lengths differ.
pub fn compare(got: &[f64], want: &[f64], bounds: &[f64]) -> Comparison {
    assert_eq!(got.len(), want.len(), "results of different sizes");
    assert_eq!(bounds.len(), want.len(), "a bound for each element");
    let mut all = Comparison::default();
    let (mut error_power, mut power) = (0.0, 0.0);
    let mut mismatch = None;
    for (index, ((&got, &want), &bound)) in got.iter().zip(want).zip(bounds).enumerate() {
        if got.is_nan() || want.is_nan() {
            if got.is_nan() != want.is_nan() {
                all.nan_mismatch += 1;
                mismatch.get_or_insert(index);
            }
            continue;
        }
        if got.is_infinite() || want.is_infinite() {
            if got != want {
                all.inf_sign_mismatch += 1;
                mismatch.get_or_insert(index);
            }
            continue;
        }
        let error = (got - want).abs();
        error_power += error * error;
        power += want * want;
        all.max_abs = all.max_abs.max(error);
        if want != 0.0 {
            all.max_rel = all.max_rel.max(error / want.abs());
        }
        // A row of zeros has a bound of next to nothing, and no error.
        let ratio = if error == 0.0 { 0.0 } else { error / bound };
        if ratio > all.worst_ratio || all.worst.is_none() {
            (all.worst_ratio, all.worst, all.bound) = (ratio, Some(index), bound);
        }
    }
    if error_power > 0.0 {
        all.nmse = error_power / power;
    }
    if let Some(index) = mismatch {
        (all.worst, all.bound) = (Some(index), bounds[index]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::RowFacts;

    #[test]
    fn each_kind_of_difference_is_told() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let bounds = [0.1; 5];
        let want = [1.0, nan, inf, 0.0, -2.0];
        let same = compare(&want, &want, &bounds);
        assert!(same.passed());
        assert_eq!((same.max_abs, same.nmse, same.worst_ratio), (0.0, 0.0, 0.0));
        let off = compare(&[1.0, nan, inf, 0.0, -2.2], &want, &bounds);
        assert!(!off.passed());
        assert_eq!(off.worst, Some(4));
        assert!((off.worst_ratio - 2.0).abs() < 1e-9 && (off.max_rel - 0.1).abs() < 1e-9);
        assert!((off.nmse - 0.04 / 5.0).abs() < 1e-9);
        let swallowed = compare(&[1.0, 0.5, inf, 0.0, -2.0], &want, &bounds);
        assert_eq!((swallowed.nan_mismatch, swallowed.worst), (1, Some(1)));
        let invented = compare(&[nan, nan, inf, 0.0, -2.0], &want, &bounds);
        assert!(!invented.passed() && invented.nan_mismatch == 1);
        for wrong in [-inf, 1e30] {
            let sign = compare(&[1.0, nan, wrong, 0.0, -2.0], &want, &bounds);
            assert_eq!((sign.inf_sign_mismatch, sign.worst), (1, Some(2)));
            assert!(!sign.passed());
        }
    }

    #[test]
    fn an_error_where_all_is_zero_is_an_infinite_nmse() {
        let comparison = compare(&[1e-3], &[0.0], &[1e-30]);
        assert_eq!(comparison.nmse, f64::INFINITY);
        assert!(!comparison.passed());
    }

    #[test]
    fn bounds_are_of_the_order_of_the_storage_type() {
        let facts = RowFacts { attended: 512, dot: 10.0, additive: 0.0 };
        let reference =
            Reference { out: vec![0.5], spread: vec![1.0], rows: vec![facts], v_dim: 1 };
        let bound = |q, kv| sdpa(q, kv).bounds(&reference)[0];
        let (f32, q8_0) = (bound(DType::F32, DType::F32), bound(DType::F32, DType::Q8_0));
        assert!(f32 < 1e-5 && f32 == q8_0, "{f32}");
        let (f16, bf16) = (bound(DType::F16, DType::F16), bound(DType::Bf16, DType::Bf16));
        assert!(f16 < 2f64.powi(-10) && bf16 < 2f64.powi(-7), "{f16} {bf16}");
        // A fully masked row has spread 0: only an exact zero passes.
        let masked = Reference {
            out: vec![0.0],
            spread: vec![0.0],
            rows: vec![RowFacts::default()],
            v_dim: 1,
        };
        assert!(sdpa(DType::F16, DType::F16).bounds(&masked)[0] < 1e-7);
    }
}
