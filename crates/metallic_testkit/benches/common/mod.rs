//! What the benches share: a context, and how long samples are.

use std::time::Duration;

use criterion::Criterion;
use metallic::Context;
use metallic::dispatch::Policies;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;

/// A context on this machine's CPU.
pub(crate) fn context() -> Context {
    CpuDevice::context(CpuOptions::default(), Policies::default(), Recorder::disabled())
}

/// Short samples: there are many cells, and machines are noisy enough for medians anyway.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args()
}
