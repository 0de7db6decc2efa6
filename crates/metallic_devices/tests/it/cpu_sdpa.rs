//! Both SDPA backends of the CPU against the oracle.

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::sdpa::{SdpaTypes, quick};
use metallic_testkit::parity::{Target, run};

fn context(level: Level, backend: Backend) -> Context {
    let mut policies = Policies::default();
    let source = PolicySource::Flag("--test");
    policies.ops.insert("sdpa", PolicyChoice { policy: Policy::Force(backend), source });
    CpuDevice::context(CpuOptions { threads: 2, level }, policies, Recorder::disabled())
}

#[test]
fn sdpa_agrees_with_the_oracle() {
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
    let report = run(&targets, &quick(), &SdpaTypes::ALL, &mut |_| {});
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
