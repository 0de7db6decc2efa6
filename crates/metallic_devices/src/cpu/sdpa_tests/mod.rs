//! Both SDPA kernels against the oracle, on random shapes with every feature, at every level.

mod cases;
mod edges;

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic_instrumentation::Recorder;

use crate::cpu::simd::Level;
use crate::cpu::{CpuDevice, CpuOptions};

/// A context whose SDPA runs on `backend`.
fn context(threads: usize, level: Level, backend: Backend) -> Context {
    let mut policies = Policies::default();
    let choice =
        PolicyChoice { policy: Policy::Force(backend), source: PolicySource::Flag("--test") };
    policies.ops.insert("sdpa", choice);
    CpuDevice::context(CpuOptions { threads, level }, policies, Recorder::disabled())
}

/// Every level with every backend.
fn contexts() -> Vec<(String, Context)> {
    let mut contexts = Vec::new();
    for level in Level::available() {
        for backend in Backend::ALL {
            for threads in [1, 3] {
                let name = format!("{backend} {} {threads} threads", level.name());
                contexts.push((name, context(threads, level, backend)));
            }
        }
    }
    contexts
}
