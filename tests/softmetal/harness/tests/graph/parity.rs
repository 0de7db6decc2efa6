//! Attention as a graph against the oracle.

use metallic::dispatch::Backend;
use metallic::tensor::DType;
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, Special, quick};
use metallic_testkit::parity::{Report, Target, run};

use softmetal_objc::control;

use crate::support::{graph, graph_with, macos_15, promises};

const FLOATS: [SdpaTypes; 3] =
    [SdpaTypes::same(DType::F32), SdpaTypes::same(DType::F16), SdpaTypes::same(DType::Bf16)];

fn check(report: &Report) {
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.variant, row.case, row.types, row.failure))
        .collect();
    let (count, all) = (failures.len(), report.rows.len());
    let first = failures[..count.min(10)].join("\n");
    assert!(failures.is_empty(), "{count} of {all}, these first:\n{first}");
}

/// How many rows each variant ran.
fn count(report: &Report, variant: &str) -> usize {
    report.rows.iter().filter(|row| row.variant == variant).count()
}

#[test]
fn attention_agrees_with_the_oracle_whatever_hidden_keys_hold() {
    let ctx = graph();
    let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
    let report = run(&[target], &quick(), &FLOATS, &mut |_| {});
    check(&report);
    assert!(report.not_run.is_empty(), "{:?}", report.not_run);
    assert_eq!(count(&report, "SdpaMpsGraphOp") > 0, macos_15(), "the native op ran");
    assert!(count(&report, "SdpaMpsGraphOp-decomposed") > 0, "the composed form ran");
}

#[test]
fn the_native_op_agrees_with_the_oracle_where_hidden_keys_are_finite() {
    let finite = |case: &SdpaCase| {
        let breaks = [
            Special::PoisonBehindMask,
            Special::NanInKey,
            Special::NanInValue,
            Special::InfInValue,
        ];
        !breaks.contains(&case.special)
    };
    let cases: Vec<_> = quick().into_iter().filter(finite).collect();
    let ctx = graph_with(promises(), Recorder::disabled());
    let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
    let report = run(&[target], &cases, &FLOATS, &mut |_| {});
    check(&report);
    if !macos_15() {
        return;
    }
    // f32 leaks in the native op of macOS 15; of the rest most need nothing it lacks.
    let halves = report.rows.iter().filter(|row| row.types != "f32").count();
    let native = count(&report, "SdpaMpsGraphOp");
    assert!(3 * native > 2 * halves, "{native} of {halves} ran in the native form");
    if control().os_version() < (16, 0) {
        let leaks = report.rows.iter().filter(|row| row.types == "f32");
        assert!(leaks.map(|row| row.variant.as_str()).all(|name| name != "SdpaMpsGraphOp"));
    }
}
