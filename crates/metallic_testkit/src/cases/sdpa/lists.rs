//! The lists of cases: the status document's, the one the peers' bugs ask for, and a short one.

use metallic::op::{Band, Mask};
use metallic::tensor::DType;

use super::{CaseLayout, CaseMaskKind, MaskAxes, SdpaCase, SdpaTypes, Special};

const FLOATS: [SdpaTypes; 3] =
    [SdpaTypes::same(DType::F32), SdpaTypes::same(DType::F16), SdpaTypes::same(DType::Bf16)];
const F32_AND_F16: [SdpaTypes; 2] = [SdpaTypes::same(DType::F32), SdpaTypes::same(DType::F16)];

/// The matrix of the status document: batches 1, 4, 8; lengths 128, 256, 512; widths 64 and 128
/// with the heads of Qwen2.5-0.5B and Qwen2.5-7B; causal and not.
pub fn seed() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for (heads, dim) in [((14, 2), 64), ((28, 4), 128)] {
        for batch in [1, 4, 8] {
            for len in [128, 256, 512] {
                let case = SdpaCase::new(batch, heads, (len, len), dim).types(&FLOATS);
                cases.push(case.clone());
                cases.push(case.causal());
            }
        }
    }
    cases
}

/// The minimum parity matrix: every shape, mask, layout and number that broke a peer's kernel.
pub fn minimum() -> Vec<SdpaCase> {
    let lists = [
        widths(),
        lengths(),
        long(),
        masks(),
        scores(),
        layouts(),
        live_lengths(),
        special(),
        decode_steps(),
    ];
    lists.concat()
}

/// A few of each kind, for unit tests.
pub fn quick() -> Vec<SdpaCase> {
    let small = |q_len, kv_len| SdpaCase::new(2, (4, 2), (q_len, kv_len), 32);
    let mut cases = vec![
        SdpaCase::new(1, (14, 2), (1, 257), 64).causal(),
        SdpaCase::new(2, (16, 1), (1, 1025), 64),
        SdpaCase::new(1, (4, 2), (63, 65), 80).causal(),
        SdpaCase::new(1, (2, 2), (9, 17), 64).v_dim(32).causal(),
        small(9, 5).causal(),
        small(3, 40).band(Mask::sliding_window(7).band),
        small(3, 40).scores(Some(0.3), Some(2.0)).causal(),
        small(2, 40).causal().kv_lens(&[0, 33]).special(Special::PoisonBehindMask),
        small(64, 64).special(Special::Logits(-120)),
        small(5, 33).causal().special(Special::NanInKey),
        small(5, 33).causal().special(Special::NanInValue),
        small(5, 33).causal().special(Special::InfInValue),
        small(2, 33).special(Special::BeyondF16),
    ];
    for (kind, axes) in mask_tensors() {
        cases.push(small(5, 33).mask(kind, axes));
        cases.push(small(5, 33).mask(kind, axes).causal().special(Special::HiddenRows));
    }
    for layout in CaseLayout::ALL {
        cases.push(small(3, 21).causal().layout(layout));
        cases.push(small(1, 21).mask(CaseMaskKind::Bool, MaskAxes::All).layout(layout));
    }
    cases
}

/// Group sizes and widths.
fn widths() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for heads in [(2, 2), (14, 2), (16, 2), (32, 2)] {
        for dim in [32, 64, 80, 96, 128, 256] {
            cases.push(SdpaCase::new(2, heads, (9, 65), dim).causal());
        }
    }
    for (head_dim, v_dim) in [(64, 32), (64, 128), (128, 64), (96, 80), (192, 128)] {
        for lens in [(1, 65), (17, 33)] {
            cases.push(SdpaCase::new(2, (4, 2), lens, head_dim).v_dim(v_dim).causal());
        }
    }
    cases
}

/// Lengths around tile and bucket borders; more queries than keys too.
fn lengths() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for len in [1, 2, 8, 9, 63, 64, 65, 128, 192, 704] {
        let case = SdpaCase::new(1, (4, 2), (len, len), 64);
        cases.push(case.clone());
        cases.push(case.causal());
    }
    for kv_len in [1, 63, 64, 255, 256, 257, 1023, 1024, 1025] {
        for q_len in [1, 9] {
            cases.push(SdpaCase::new(2, (14, 2), (q_len, kv_len), 64).causal());
        }
        // pytorch#174861: decode with at least 1024 keys and 16 query heads a key head.
        cases.push(SdpaCase::new(2, (32, 2), (1, kv_len), 128));
    }
    cases
}

/// Lengths at which 16-bit and 32-bit indices overflow (mlx#3360, mlx#2894).
fn long() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for kv_len in [32767, 32768, 32769, 46341, 65537] {
        let case = |q_len| SdpaCase::new(1, (4, 2), (q_len, kv_len), 64).types(&F32_AND_F16);
        cases.push(case(1));
        cases.push(case(3).causal().mask(CaseMaskKind::Bool, MaskAxes::Rows));
    }
    cases
}

/// Tensors of every meaning and shape.
fn mask_tensors() -> Vec<(CaseMaskKind, MaskAxes)> {
    let (f32, f16) = (CaseMaskKind::Additive(DType::F32), CaseMaskKind::Additive(DType::F16));
    vec![
        (f32, MaskAxes::Rows),
        (f32, MaskAxes::PerQuery),
        (f16, MaskAxes::All),
        (f16, MaskAxes::PerHead),
        (CaseMaskKind::Additive(DType::Bf16), MaskAxes::KeyPadding),
        (CaseMaskKind::AdditiveLowest(DType::F32), MaskAxes::Rows),
        (CaseMaskKind::AdditiveLowest(DType::F16), MaskAxes::PerHead),
        (CaseMaskKind::AdditiveLowest(DType::Bf16), MaskAxes::All),
        (CaseMaskKind::Bool, MaskAxes::Rows),
        (CaseMaskKind::Bool, MaskAxes::All),
        (CaseMaskKind::Bool, MaskAxes::PerHead),
        (CaseMaskKind::Bool, MaskAxes::KeyPadding),
        (CaseMaskKind::Bool, MaskAxes::PerQuery),
    ]
}

fn bands() -> Vec<Band> {
    vec![
        Mask::causal().band,
        Mask::sliding_window(1).band,
        Mask::sliding_window(16).band,
        Band { left: Some(3), right: Some(5), offset: None },
        Band { left: None, right: Some(0), offset: Some(0) },
        Band { left: Some(8), right: None, offset: Some(20) },
        Band { left: None, right: Some(0), offset: Some(-2) },
    ]
}

/// All pairs of mask kind, group size and squareness (candle#3388: NaN only with two together).
fn masks() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for heads in [(2, 2), (14, 2), (16, 2)] {
        for lens in [(64, 64), (33, 65), (65, 33), (1, 65)] {
            let plain = SdpaCase::new(2, heads, lens, 32);
            cases.push(plain.clone());
            cases.extend(bands().into_iter().map(|band| plain.clone().band(band)));
            for (kind, axes) in mask_tensors() {
                cases.push(plain.clone().mask(kind, axes));
                cases.push(plain.clone().mask(kind, axes).causal());
            }
        }
    }
    cases
}

/// Factors and bounds of the scores.
fn scores() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for (scale, softcap) in [
        (Some(0.5), None),
        (Some(0.01), None),
        (Some(0.0), None),
        (Some(-0.2), None),
        (None, Some(30.0)),
        (Some(0.4), Some(1.5)),
    ] {
        for lens in [(1, 65), (17, 33)] {
            cases.push(SdpaCase::new(2, (4, 2), lens, 64).scores(scale, softcap).causal());
        }
    }
    cases
}

/// Strided, permuted, offset and shared tensors, with and without mask tensors.
fn layouts() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for layout in CaseLayout::ALL {
        for lens in [(1, 300), (1, 31), (19, 67), (64, 64)] {
            let case = SdpaCase::new(2, (14, 2), lens, 64).layout(layout);
            cases.push(case.clone().causal());
            cases.push(case.clone().mask(CaseMaskKind::Bool, MaskAxes::All));
            cases.push(case.mask(CaseMaskKind::Additive(DType::F16), MaskAxes::PerHead));
        }
    }
    cases
}

/// Live lengths that differ between sequences, some of them 0, with everything that may hide
/// behind them.
fn live_lengths() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for q_len in [1, 2, 9] {
        for layout in [CaseLayout::Dense, CaseLayout::Cache] {
            let case = SdpaCase::new(4, (14, 2), (q_len, 256), 64)
                .kv_lens(&[0, 1, 130, 256])
                .layout(layout)
                .special(Special::PoisonBehindMask);
            cases.push(case.clone());
            cases.push(case.clone().causal());
            cases.push(case.clone().band(Mask::sliding_window(16).band));
            cases.push(case.clone().causal().mask(CaseMaskKind::Bool, MaskAxes::All));
            cases.push(case.mask(CaseMaskKind::Additive(DType::F32), MaskAxes::KeyPadding));
        }
    }
    // Values are clamped.
    cases.push(SdpaCase::new(2, (4, 2), (2, 40), 32).causal().kv_lens(&[-5, 1000]));
    cases
}

/// Numbers that broke somebody's kernel.
fn special() -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    // pytorch#196678: lengths that leave half a tile of 128 over.
    for len in [64, 192, 704] {
        for logits in [-120, 120] {
            let case = SdpaCase::new(1, (4, 2), (len, len), 64).special(Special::Logits(logits));
            cases.push(case.clone());
            cases.push(case.clone().causal());
            cases.push(case.mask(CaseMaskKind::Additive(DType::F32), MaskAxes::Rows));
        }
    }
    for lens in [(1, 300), (33, 65)] {
        let case = SdpaCase::new(2, (14, 2), lens, 64);
        cases.push(case.clone().causal().special(Special::BeyondF16));
        for special in [Special::NanInKey, Special::NanInValue, Special::InfInValue] {
            cases.push(case.clone().causal().special(special));
            cases.push(case.clone().mask(CaseMaskKind::Bool, MaskAxes::All).special(special));
        }
        for (kind, axes) in mask_tensors() {
            cases.push(case.clone().mask(kind, axes).special(Special::HiddenRows));
            cases.push(case.clone().mask(kind, axes).causal().special(Special::HiddenRows));
        }
        cases.push(
            case.clone()
                .mask(CaseMaskKind::Bool, MaskAxes::KeyPadding)
                .special(Special::PoisonBehindMask),
        );
        let additive = CaseMaskKind::Additive(DType::F32);
        cases.push(
            case.clone().mask(additive, MaskAxes::KeyPadding).special(Special::PoisonBehindMask),
        );
        cases.push(
            case.band(Mask::sliding_window(16).band)
                .layout(CaseLayout::Cache)
                .special(Special::PoisonBehindMask),
        );
    }
    cases
}

/// Successive steps of a growing sequence in one cache.
fn decode_steps() -> Vec<SdpaCase> {
    (253..=260)
        .map(|kv_len| SdpaCase::new(1, (14, 2), (1, kv_len), 64).causal().layout(CaseLayout::Cache))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_tell_cases_apart() {
        for cases in [seed(), minimum(), quick()] {
            let names: HashSet<_> = cases.iter().map(|case| &case.name).collect();
            assert_eq!(names.len(), cases.len());
        }
    }

    #[test]
    fn the_seed_list_is_the_whole_matrix() {
        let cases = seed();
        assert_eq!(cases.len(), 3 * 3 * 2 * 2);
        assert!(cases.iter().all(|case| case.types.contains(&SdpaTypes::same(DType::F16))));
    }

    #[test]
    fn several_heads_and_sequences_are_always_among_the_cases() {
        // burn#4484: only head 0 was right.
        for case in minimum() {
            assert!(case.q_heads >= 2 && case.kv_heads >= 2, "{case}");
        }
    }
}
