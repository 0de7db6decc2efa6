//! Both halves of a block on the CPU, composed and fused, against the oracle.

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::block::blocks;
use metallic_testkit::parity::{Target, run_blocks};

fn context(level: Level, backend: Backend) -> Context {
    let source = PolicySource::Flag("--test");
    let all = PolicyChoice { policy: Policy::Force(backend), source };
    let policies = Policies { all, ..Policies::default() };
    CpuDevice::context(CpuOptions { threads: 2, level }, policies, Recorder::disabled())
}

#[test]
fn blocks_agree_with_the_oracle() {
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
    let report = run_blocks(&targets, &blocks(), &mut |_| {});
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.op, row.target, row.case, row.failure))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        report.rows.len(),
        failures.join("\n")
    );
    assert!(report.not_run.is_empty(), "{:?}", report.not_run);
    // The bounds are no mere formality: real errors come near them.
    let worst = report.rows.iter().map(|row| row.worst_ratio).fold(0.0, f64::max);
    assert!(worst > 0.05, "{worst}");
}
