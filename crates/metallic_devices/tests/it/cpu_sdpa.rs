//! Both SDPA backends of the CPU against the oracle.

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::Band;
use metallic::tensor::DType;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::sdpa::{
    CaseLayout, CaseMaskKind, MaskAxes, SdpaCase, SdpaTypes, Special, quick,
};
use metallic_testkit::parity::{Target, run};
use metallic_testkit::random::Random;

fn context(level: Level, backend: Backend) -> Context {
    let mut policies = Policies::default();
    let source = PolicySource::Flag("--test");
    policies.ops.insert("sdpa", PolicyChoice { policy: Policy::Force(backend), source });
    CpuDevice::context(CpuOptions { threads: 2, level }, policies, Recorder::disabled())
}

/// Runs `cases` with both backends at every level of vector instructions.
fn all_agree(cases: &[SdpaCase]) {
    let mut contexts = Vec::new();
    for level in Level::available() {
        for backend in Backend::ALL {
            let label = format!("{backend} {}", level.name());
            contexts.push((label, backend, context(level, backend)));
        }
    }
    let targets: Vec<Target<'_>> = contexts
        .iter()
        .map(|(label, backend, ctx)| Target { label, ctx, backend: Some(*backend) })
        .collect();
    let report = run(&targets, cases, &SdpaTypes::ALL, &mut |_| {});
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.target, row.case, row.types, row.failure))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        report.rows.len(),
        failures.join("\n")
    );
    assert!(report.not_run.is_empty(), "{:?}", report.not_run);
}

#[test]
fn sdpa_agrees_with_the_oracle() {
    all_agree(&quick());
}

/// Calls of shapes, masks, layouts and types that nobody chose together.
#[test]
fn random_calls_agree_with_the_oracle() {
    let mut random = Random::new(1);
    let cases: Vec<SdpaCase> = (0..RANDOM_CALLS).map(|_| random_case(&mut random)).collect();
    all_agree(&cases);
}

const RANDOM_CALLS: usize = 100;

fn random_case(random: &mut Random) -> SdpaCase {
    let mut of = |values: &[usize]| values[random.below(values.len())];
    let (kv_heads, group) = (of(&[1, 2, 3]), of(&[1, 1, 2, 4, 7]));
    let q_len = of(&[1, 1, 2, 3, 8, 9, 16, 17, 31, 33, 64, 67]);
    let kv_len = of(&[q_len, q_len, 1, 5, 32, 33, 127, 128, 203]);
    let dim = of(&[1, 7, 8, 24, 32, 40, 64, 64, 72, 96, 128, 128, 160, 192, 256]);
    let v_dim = of(&[dim, dim, dim, 32, 64, 20]);
    let batch = of(&[1, 1, 2, 3]);
    let mut case = SdpaCase::new(batch, (kv_heads * group, kv_heads), (q_len, kv_len), dim);
    case = case.v_dim(v_dim).layout(CaseLayout::ALL[of(&[0, 1, 2, 3, 4, 5, 6])]);
    let open = |keys: usize| (keys < 999).then_some(keys);
    let (left, right) = (open(of(&[999, 999, 999, 0, 3, 40])), open(of(&[999, 0, 0, 2])));
    let offset = [None, None, Some(0), Some(kv_len as i64 - 3)][of(&[0, 1, 2, 3])];
    if left.is_some() || right.is_some() {
        case = case.band(Band { left, right, offset });
    }
    if of(&[0, 1, 2]) == 0 {
        let lens: Vec<i32> = (0..batch).map(|_| of(&[0, 1, kv_len, kv_len / 2]) as i32).collect();
        case = case.kv_lens(&lens);
    }
    let axes = [MaskAxes::All, MaskAxes::PerHead, MaskAxes::Rows, MaskAxes::KeyPadding];
    let axes = [axes[of(&[0, 1, 2, 3])], MaskAxes::PerQuery][of(&[0, 0, 0, 1])];
    let dtype = [DType::F32, DType::F16, DType::Bf16][of(&[0, 1, 2])];
    let kinds = [
        CaseMaskKind::Additive(dtype),
        CaseMaskKind::AdditiveLowest(dtype),
        CaseMaskKind::Bool,
        CaseMaskKind::Bool,
    ];
    if of(&[0, 1]) == 0 {
        case = case.mask(kinds[of(&[0, 1, 2, 3])], axes);
    }
    let scale = [None, None, Some(0.0), Some(-0.3), Some(1.0)][of(&[0, 1, 2, 3, 4])];
    let softcap = [None, None, None, Some(30.0), Some(0.5)][of(&[0, 1, 2, 3, 4])];
    case = case.scores(scale, softcap);
    match of(&[0, 1, 2, 3]) {
        // Sequences that share keys do not hide the same.
        0 if case.layout != CaseLayout::SharedKv => case.special(Special::PoisonBehindMask),
        1 if case.mask.is_some() => case.special(Special::HiddenRows),
        _ => case,
    }
}
