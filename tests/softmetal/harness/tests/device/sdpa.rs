//! Every attention kernel of the device against the oracle, whether or not it would be chosen.

use std::collections::BTreeMap;

use metallic::Context;
use metallic::dispatch::{Backend, ExecCx, KernelEntry, Support};
use metallic::op::{Mask, Op, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic_testkit::cases::sdpa::{
    CaseLayout, CaseMaskKind, MaskAxes, SdpaCase, SdpaTypes, Special, quick,
};
use metallic_testkit::problem::{self, PlacedSdpa};
use metallic_testkit::{oracle, tolerance};

use softmetal_objc::control;

use crate::support::metal;

/// Whether fast math is forced on, of which kernels expect nothing where a number is not finite or a row
/// sees no key. The program itself turns it off.
fn fast_math() -> bool {
    control().kernel_options().fast_math
}

/// Whether all numbers are finite, and every row of `out` saw a key: others are zeros.
fn is_ordinary(case: &SdpaCase, out: &[f64]) -> bool {
    let finite = matches!(case.special, Special::None | Special::Logits(_) | Special::BeyondF16);
    finite && out.chunks(case.v_dim).all(|row| row.iter().any(|value| *value != 0.0))
}

/// The variants of [`Backend::Legacy`].
fn variants(ctx: &Context) -> impl Iterator<Item = &KernelEntry<Sdpa>> {
    ctx.registry().entries::<Sdpa>().iter().filter(|entry| entry.backend == Backend::Legacy)
}

/// Runs `cases` on every variant that takes them; how many each took, by name.
fn judge(cases: &[SdpaCase]) -> BTreeMap<&'static str, usize> {
    let ctx = metal();
    let cx = ExecCx { device: ctx.device(), cache: ctx.cache(), recorder: ctx.recorder() };
    let (mut ran, mut failures) = (BTreeMap::new(), Vec::new());
    for case in cases {
        for types in SdpaTypes::ALL.into_iter().filter(|types| case.fits(*types)) {
            let numbers = problem::sdpa(case, types);
            let reference = oracle::sdpa(&numbers);
            if fast_math() && !is_ordinary(case, &reference.out) {
                continue;
            }
            let bounds = tolerance::sdpa(types.q, types.kv).bounds(&reference);
            let placed = PlacedSdpa::new(&ctx, case, types, &numbers).unwrap();
            let spec = Sdpa::check(&placed.args).unwrap();
            for entry in variants(&ctx).filter(|e| e.kernel.supports(&spec) == Support::Yes) {
                placed.out.restore(&ctx).unwrap();
                entry.kernel.run(&cx, &spec, &placed.args).unwrap();
                let got = placed.out.values(&ctx).unwrap();
                let comparison = tolerance::compare(&got, &reference.out, &bounds);
                let inputs = placed.inputs.iter();
                let damage = inputs
                    .filter_map(|(_, input)| input.first_change(&ctx).unwrap())
                    .next()
                    .or(placed.out.first_damage(&ctx).unwrap());
                if !comparison.passed() || damage.is_some() {
                    let variant = entry.variant;
                    failures.push(format!("{variant} {case} {types}: {comparison:?} {damage:?}"));
                }
                *ran.entry(entry.variant).or_default() += 1;
            }
        }
    }
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    ran
}

#[test]
fn every_variant_agrees_on_the_quick_list() {
    let ran = judge(&quick());
    if fast_math() {
        assert!(ran.values().all(|ran| *ran > 20), "{ran:?}");
        return;
    }
    // Of about 250 pairs of case and types; a variant takes what its header says.
    assert!(ran["composed"] > 200, "{ran:?}");
    assert!(ran["flash_prefill"] == ran["composed"], "{ran:?}");
    assert!(ran["flash_decode"] > 150 && ran["softmax_mps"] > 50, "{ran:?}");
}

/// Widths with a kernel of their own and between them, groups on both sides of a tile of rows, and
/// lengths around blocks and tiles.
#[test]
fn every_variant_agrees_at_odd_sizes() {
    let mut cases = Vec::new();
    for (dim, v_dim) in
        [(1, 1), (6, 18), (64, 64), (80, 96), (96, 40), (128, 65), (192, 128), (256, 256)]
    {
        for lens in [(1, 33), (5, 31)] {
            cases.push(SdpaCase::new(2, (6, 2), lens, dim).v_dim(v_dim).causal());
        }
    }
    for heads in [(1, 1), (9, 1), (14, 2), (35, 1)] {
        cases.push(SdpaCase::new(1, heads, (1, 70), 32));
        cases.push(SdpaCase::new(1, heads, (3, 70), 32).causal());
    }
    for len in [1, 31, 32, 33, 63, 64, 65, 97] {
        cases.push(SdpaCase::new(1, (4, 2), (len, len), 32).causal());
        cases.push(SdpaCase::new(2, (2, 2), (33, len), 32).band(Mask::sliding_window(9).band));
    }
    let ran = judge(&cases);
    assert!(ran["composed"] > ran["flash_prefill"], "wide heads are for composed: {ran:?}");
}

/// Caches long enough to be split, with everything that may hide in them.
#[test]
fn long_caches_are_split_and_merged() {
    let types = [SdpaTypes::same(DType::F32), SdpaTypes::same(DType::F16)];
    let base = |q_len| SdpaCase::new(2, (4, 2), (q_len, 1100), 64).types(&types);
    let cases = [
        base(1),
        base(1).kv_lens(&[0, 700]).special(Special::PoisonBehindMask).causal(),
        base(2).band(Mask::sliding_window(300).band).layout(CaseLayout::Cache),
        base(3).causal().mask(CaseMaskKind::Bool, MaskAxes::All).special(Special::HiddenRows),
        base(1).causal().special(Special::NanInValue),
        base(1).causal().special(Special::InfInValue),
    ];
    let ran = judge(&cases);
    assert_eq!(ran["flash_decode"], if fast_math() { 4 } else { 12 }, "{ran:?}");
}

#[test]
fn the_first_variant_fits_the_phase() {
    let ctx = metal();
    let chosen = |case: SdpaCase| {
        let types = SdpaTypes::same(DType::F16);
        let placed = PlacedSdpa::new(&ctx, &case, types, &problem::sdpa(&case, types)).unwrap();
        let spec = Sdpa::check(&placed.args).unwrap();
        variants(&ctx).find(|e| e.kernel.supports(&spec) == Support::Yes).unwrap().variant
    };
    let case = |q_len, dim| SdpaCase::new(1, (4, 2), (q_len, 40), dim);
    assert_eq!(chosen(case(1, 64)), "flash_decode");
    assert_eq!(chosen(case(8, 128)), "flash_decode");
    assert_eq!(chosen(case(9, 128)), "flash_prefill");
    assert_eq!(chosen(case(9, 192)), "composed");
    assert_eq!(chosen(case(1, 512)), "composed");
}

/// No queries, no sequences, no keys: nothing to write, or zeros.
#[test]
fn empty_calls() {
    let ctx = metal();
    let cx = ExecCx { device: ctx.device(), cache: ctx.cache(), recorder: ctx.recorder() };
    for [batch, q_len, kv_len] in [[0, 2, 3], [2, 0, 3], [2, 2, 0]] {
        let tensor = |heads, len| ctx.zeros(DType::F32, [batch, heads, len, 32]).unwrap();
        let out =
            ctx.upload_f32([batch, 4, q_len, 32], &vec![7.0; batch * 4 * q_len * 32]).unwrap();
        let args = SdpaArgs {
            q: tensor(4, q_len),
            k: tensor(2, kv_len),
            v: tensor(2, kv_len),
            mask: Mask::causal(),
            kv_lens: None,
            scale: None,
            softcap: None,
            out: out.clone(),
        };
        let spec = Sdpa::check(&args).unwrap();
        for entry in variants(&ctx).filter(|e| e.kernel.supports(&spec) == Support::Yes) {
            entry.kernel.run(&cx, &spec, &args).unwrap();
            let values = ctx.download_f32(&out).unwrap();
            assert!(values.iter().all(|value| *value == 0.0), "{}", entry.variant);
        }
    }
}
