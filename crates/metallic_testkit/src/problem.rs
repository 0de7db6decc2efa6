//! The numbers of a case: seeded, distinct in every head and sequence, rounded to storage.

use metallic::op::{Mask, MaskTensor, SdpaArgs};
use metallic::tensor::DType;
use metallic::{Context, Result};

use crate::cases::sdpa::{CaseLayout, CaseMaskKind, MaskAxes, SdpaCase, SdpaTypes, Special};
use crate::oracle::{SdpaProblem, TensorMask, TensorMaskValues};
use crate::place::Placed;
use crate::random::Random;
use crate::storage::{lowest, rounded};

/// The host values of `case` when it is stored in `types`.
pub fn sdpa(case: &SdpaCase, types: SdpaTypes) -> SdpaProblem {
    let SdpaCase { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, .. } = *case;
    let mut random = Random::named(&case.name);
    let (q_center, k_center, noise) = centers(case);
    let q = centered(&mut random, batch * q_heads * q_len, head_dim, q_center, noise);
    let k = centered(&mut random, batch * kv_heads * kv_len, head_dim, k_center, noise);
    let v = centered(&mut random, batch * kv_heads * kv_len, v_dim, 0.0, 1.0);
    let mut problem = SdpaProblem {
        batch,
        q_heads,
        kv_heads,
        q_len,
        kv_len,
        head_dim,
        v_dim,
        q: rounded(types.q, &q),
        k,
        v,
        band: case.band,
        mask: mask(case, &mut random),
        kv_lens: case.kv_lens.as_ref().map(|lens| lens.iter().map(|&len| len.into()).collect()),
        scale: f64::from(case.scale_in_force()),
        softcap: case.softcap.map(f64::from),
    };
    if case.layout == CaseLayout::SharedKv {
        repeat_first(&mut problem.k, batch);
        repeat_first(&mut problem.v, batch);
    }
    disturb(&mut problem, case.special);
    problem.k = rounded(types.kv, &problem.k);
    problem.v = rounded(types.kv, &problem.v);
    problem
}

/// The centres of q's and k's elements and the deviation around them, so that scores come out
/// near the number that the case asks for.
fn centers(case: &SdpaCase) -> (f64, f64, f64) {
    let dim = case.head_dim as f64;
    match case.special {
        Special::Logits(logits) => {
            let product = f64::from(logits) / (dim * f64::from(case.scale_in_force()));
            let size = product.abs().sqrt();
            (size, size * product.signum(), 0.15)
        }
        // 64 · 40 · 40 is beyond 65504.
        Special::BeyondF16 => (40.0, 40.0 * (64.0 / dim).max(1.0), 0.02),
        _ => (0.0, 0.0, 1.0),
    }
}

/// Rows of `width` elements: `±center` by column, plus noise.
fn centered(random: &mut Random, rows: usize, width: usize, center: f64, noise: f64) -> Vec<f64> {
    let sign = |column: usize| if column % 3 == 1 { -1.0 } else { 1.0 };
    (0..rows * width)
        .map(|index| sign(index % width.max(1)) * center + noise * random.normal())
        .collect()
}

fn mask(case: &SdpaCase, random: &mut Random) -> Option<TensorMask> {
    let mask = case.mask?;
    let shape = case.mask_shape(mask.axes);
    let [_, _, rows, columns] = shape;
    // The first row of each head, or the first sequence where all its rows share one.
    let hidden_row = |index: usize| {
        let row = if rows > 1 { index / columns % rows } else { index / columns };
        case.special == Special::HiddenRows && row == 0
    };
    let count: usize = shape.iter().product();
    // A third of the pairs is hidden; with one column, a hidden one hides its whole row.
    let hidden: Vec<bool> =
        (0..count).map(|index| hidden_row(index) || random.uniform() < 1.0 / 3.0).collect();
    let additive = |hides: f64, dtype: DType, random: &mut Random| {
        let values: Vec<f64> = hidden
            .iter()
            .map(|&hidden| if hidden { hides } else { 0.5 * random.normal() })
            .collect();
        TensorMaskValues::Additive(rounded(dtype, &values))
    };
    let values = match mask.kind {
        CaseMaskKind::Additive(dtype) => additive(f64::NEG_INFINITY, dtype, random),
        CaseMaskKind::AdditiveLowest(dtype) => additive(lowest(dtype), dtype, random),
        CaseMaskKind::Bool => TensorMaskValues::Bool(hidden.iter().map(|hidden| !hidden).collect()),
    };
    Some(TensorMask { shape, values })
}

fn repeat_first(values: &mut [f64], batch: usize) {
    let (first, rest) = values.split_at_mut(values.len() / batch);
    for part in rest.chunks_exact_mut(first.len().max(1)) {
        part.copy_from_slice(first);
    }
}

fn disturb(problem: &mut SdpaProblem, special: Special) {
    let SdpaProblem { batch, kv_heads, kv_len, head_dim, v_dim, .. } = *problem;
    // The middle of the keys: causal rows before it do not see it.
    let middle = kv_len - kv_len.div_ceil(4).max(problem.q_len / 2 + 1).min(kv_len);
    for b in 0..batch {
        for head in 0..kv_heads {
            let row = |j: usize| (b * kv_heads + head) * kv_len + j;
            match special {
                Special::NanInKey => problem.k[row(middle) * head_dim] = f64::NAN,
                Special::NanInValue => problem.v[row(middle) * v_dim + v_dim / 2] = f64::NAN,
                Special::InfInValue => {
                    problem.v[row(middle) * v_dim] = f64::INFINITY;
                    problem.v[row(middle) * v_dim + v_dim - 1] = f64::NEG_INFINITY;
                }
                Special::PoisonBehindMask => {
                    for j in 0..kv_len {
                        if !nobody_sees(problem, b, head, j) {
                            continue;
                        }
                        let bad = if j % 2 == 0 { f64::NAN } else { f64::INFINITY };
                        problem.k[row(j) * head_dim..][..head_dim].fill(f64::NAN);
                        problem.v[row(j) * v_dim..][..v_dim].fill(bad);
                    }
                }
                _ => {}
            }
        }
    }
}

fn nobody_sees(problem: &SdpaProblem, b: usize, kv_head: usize, j: usize) -> bool {
    let group = problem.q_heads / problem.kv_heads;
    (kv_head * group..(kv_head + 1) * group)
        .all(|h| (0..problem.q_len).all(|i| !problem.sees([b, h, i, j])))
}

/// A problem on a device, in the layout of its case.
#[derive(Debug)]
pub struct PlacedSdpa {
    /// The call.
    pub args: SdpaArgs,
    /// q, k, v and the mask, to see that nobody wrote into them.
    pub inputs: Vec<(&'static str, Placed)>,
    /// Where the result goes.
    pub out: Placed,
}

impl PlacedSdpa {
    /// Lays `problem` out on the device of `ctx`.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn new(
        ctx: &Context,
        case: &SdpaCase,
        types: SdpaTypes,
        problem: &SdpaProblem,
    ) -> Result<Self> {
        let SdpaCase { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, .. } = *case;
        let [at_q, at_kv, at_mask, at_out] = case.layout.placements();
        let q = Placed::input(ctx, types.q, [batch, q_heads, q_len, head_dim], &problem.q, at_q)?;
        let shape = [batch, kv_heads, kv_len, head_dim];
        let k = Placed::input(ctx, types.kv, shape, &problem.k, at_kv)?;
        let v = Placed::input(ctx, types.kv, [batch, kv_heads, kv_len, v_dim], &problem.v, at_kv)?;
        let out = Placed::output(ctx, types.q, [batch, q_heads, q_len, v_dim], at_out)?;
        let mut mask = Mask { band: case.band, tensor: None };
        let mut inputs = Vec::new();
        if let (Some(case_mask), Some(values)) = (case.mask, &problem.mask) {
            let (dtype, values) = match (&values.values, case_mask.kind) {
                (
                    TensorMaskValues::Additive(values),
                    CaseMaskKind::Additive(dtype) | CaseMaskKind::AdditiveLowest(dtype),
                ) => (dtype, values.clone()),
                (TensorMaskValues::Bool(values), _) => (
                    DType::Bool,
                    values.iter().map(|&allowed| f64::from(u8::from(allowed))).collect(),
                ),
                (TensorMaskValues::Additive(_), CaseMaskKind::Bool) => {
                    unreachable!("`mask` makes permissions for permissions")
                }
            };
            let placed =
                Placed::input(ctx, dtype, case.mask_shape(case_mask.axes), &values, at_mask)?;
            let mut tensor = placed.tensor().clone();
            if case_mask.axes == MaskAxes::Rows && tensor.layout().is_contiguous() {
                tensor = tensor.reshape([q_len, kv_len])?;
            }
            inputs.push(("mask", placed));
            mask.tensor = Some(match dtype {
                DType::Bool => MaskTensor::Bool(tensor),
                _ => MaskTensor::Additive(tensor),
            });
        }
        let kv_lens =
            case.kv_lens.as_ref().map(|lens| ctx.upload_i32([lens.len()], lens)).transpose()?;
        let args = SdpaArgs {
            q: q.tensor().clone(),
            k: k.tensor().clone(),
            v: v.tensor().clone(),
            mask,
            kv_lens,
            scale: case.scale,
            softcap: case.softcap,
            out: out.tensor().clone(),
        };
        inputs.extend([("q", q), ("k", k), ("v", v)]);
        Ok(Self { args, inputs, out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::sdpa::{minimum, quick};

    const F16: SdpaTypes = SdpaTypes::same(DType::F16);

    #[test]
    fn numbers_are_seeded_and_distinct_in_every_head_and_sequence() {
        let case = SdpaCase::new(2, (4, 2), (3, 5), 32);
        let problem = sdpa(&case, F16);
        assert_eq!(problem, sdpa(&case, F16), "the same every time");
        let heads: Vec<_> = problem.k.chunks_exact(5 * 32).collect();
        assert_eq!(heads.len(), 4);
        for (index, head) in heads.iter().enumerate() {
            assert!(heads[index + 1..].iter().all(|other| other != head));
        }
        assert_eq!(problem.q, rounded(DType::F16, &problem.q), "already in storage");
    }

    #[test]
    fn special_numbers_are_what_their_names_say() {
        let case = |special| SdpaCase::new(1, (2, 2), (8, 8), 64).causal().special(special);
        let score = |problem: &SdpaProblem| -> f64 {
            problem.q[..64].iter().zip(&problem.k).map(|(q, k)| q * k).sum()
        };
        for logits in [-120, 120] {
            let got = score(&sdpa(&case(Special::Logits(logits)), F16)) * 0.125;
            assert!((got - f64::from(logits)).abs() < 10.0, "{got}");
        }
        assert!(score(&sdpa(&case(Special::BeyondF16), F16)) > 65504.0);
        for special in [Special::NanInKey, Special::NanInValue] {
            let out = crate::oracle::sdpa(&sdpa(&case(special), F16)).out;
            let nans = out.iter().filter(|value| value.is_nan()).count();
            assert!(nans > 0 && nans < out.len(), "{special:?}: {nans} of {}", out.len());
        }
        let out = crate::oracle::sdpa(&sdpa(&case(Special::InfInValue), F16)).out;
        assert!(out.contains(&f64::INFINITY) && out.contains(&f64::NEG_INFINITY));
    }

    /// Whatever is poisoned behind masks, the reference never shows it; and every case of that
    /// name has something poisoned.
    #[test]
    fn poison_behind_masks_is_there_and_never_seen() {
        let cases = [minimum(), quick()].concat();
        let poisoned = cases.iter().filter(|case| case.special == Special::PoisonBehindMask);
        let mut count = 0;
        for case in poisoned {
            count += 1;
            let problem = sdpa(case, F16);
            assert!(problem.k.iter().any(|value| value.is_nan()), "{case}");
            let out = crate::oracle::sdpa(&problem).out;
            assert!(out.iter().all(|value| value.is_finite()), "{case}");
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn hidden_rows_are_hidden() {
        let case = SdpaCase::new(2, (2, 2), (4, 8), 32)
            .mask(CaseMaskKind::Bool, MaskAxes::PerHead)
            .special(Special::HiddenRows);
        let reference = crate::oracle::sdpa(&sdpa(&case, F16));
        for (index, row) in reference.rows.iter().enumerate() {
            assert_eq!(row.attended == 0, index % 4 == 0, "row {index}");
        }
    }
}
