//! Right kernels pass every case within the tolerances; each known mistake fails one.

use metallic::tensor::DType;
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, flops, minimum, quick};
use metallic_testkit::tolerance::{Comparison, compare};
use metallic_testkit::{oracle, problem, tolerance};

use crate::plain::{Mistake, Plain, Way};

/// Operations beyond which a case is slow here.
const LARGE: f64 = 3e7;

/// Runs every kernel on `case` and hands each its comparison.
fn judge(
    case: &SdpaCase,
    types: SdpaTypes,
    kernels: &[Plain],
    verdict: &mut dyn FnMut(usize, Comparison),
) {
    let problem = problem::sdpa(case, types);
    let reference = oracle::sdpa(&problem);
    let bounds = tolerance::sdpa(types.q, types.kv).bounds(&reference);
    for (index, kernel) in kernels.iter().enumerate() {
        verdict(index, compare(&kernel.run(&problem), &reference.out, &bounds));
    }
}

#[test]
fn right_kernels_pass_the_minimum_matrix() {
    let mut ratios = [0f64; 2];
    for case in minimum() {
        // The largest cases take seconds in every type; f32 has the tightest bounds.
        let tried = |types: &SdpaTypes| {
            case.fits(*types) && (types.kv == DType::F32 || flops(&case) < LARGE)
        };
        for types in SdpaTypes::ALL.into_iter().filter(tried) {
            let kernels = [Way::Composed, Way::Online].map(|way| Plain {
                way,
                mistake: Mistake::None,
                dtype: types.q,
            });
            judge(&case, types, &kernels, &mut |index, comparison| {
                let way = kernels[index].way;
                assert!(comparison.passed(), "{way:?} {case} {types}: {comparison:?}");
                ratios[index] = ratios[index].max(comparison.worst_ratio);
            });
        }
    }
    // The bounds are no looser than a plain kernel needs by more than a small factor.
    assert!(ratios.iter().all(|ratio| *ratio > 0.2), "{ratios:?}");
}

#[test]
fn every_known_mistake_is_caught() {
    let mistakes = Mistake::ALL.map(|mistake| {
        let way = if mistake == Mistake::NoRescale { Way::Online } else { Way::Composed };
        Plain { way, mistake, dtype: DType::F16 }
    });
    let mut caught = vec![0usize; mistakes.len()];
    let f16 = SdpaTypes::same(DType::F16);
    for case in minimum() {
        // One mistake needs long sequences; the others are caught by small cases.
        let long = case.kv_len > 0x7fff;
        if flops(&case) > LARGE && !long {
            continue;
        }
        let kernels: Vec<(usize, Plain)> = mistakes
            .iter()
            .enumerate()
            .filter(|(index, kernel)| {
                caught[*index] < 2 && (kernel.mistake == Mistake::KeysIn16Bits) == long
            })
            .map(|(index, kernel)| (index, Plain { ..*kernel }))
            .collect();
        if kernels.is_empty() {
            continue;
        }
        let (places, kernels): (Vec<_>, Vec<_>) = kernels.into_iter().unzip();
        judge(&case, f16, &kernels, &mut |index, comparison| {
            caught[places[index]] += usize::from(!comparison.passed());
        });
    }
    for (kernel, caught) in mistakes.iter().zip(caught) {
        assert!(caught >= 2, "{:?} failed {caught} cases only", kernel.mistake);
    }
}

#[test]
fn the_quick_list_catches_nearly_as_much() {
    // Only what needs a long sequence is left to the whole matrix.
    let short = |mistake: &Mistake| *mistake != Mistake::KeysIn16Bits;
    for mistake in Mistake::ALL.into_iter().filter(short) {
        let way = if mistake == Mistake::NoRescale { Way::Online } else { Way::Composed };
        let kernel = [Plain { way, mistake, dtype: DType::F32 }];
        let types = SdpaTypes::same(DType::F32);
        let mut caught = 0;
        for case in quick() {
            judge(&case, types, &kernel, &mut |_, comparison| {
                caught += usize::from(!comparison.passed());
            });
        }
        assert!(caught > 0, "{mistake:?} passes the quick list");
    }
}
