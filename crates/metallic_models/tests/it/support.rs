//! Contexts that several tests run models on.

use metallic::Context;
use metallic::dispatch::{
    Backend, Policies, Policy, PolicyChoice, PolicySource, Segments, SegmentsChoice,
};
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;

/// Every way to run a block: both backends, op by op and as segments.
pub(crate) const SETUPS: [(Backend, Segments); 4] = [
    (Backend::Legacy, Segments::Off),
    (Backend::Graph, Segments::Off),
    (Backend::Legacy, Segments::On),
    (Backend::Graph, Segments::On),
];

/// The CPU with attention on `backend`, alone or within segments.
pub(crate) fn segmented(backend: Backend, segments: Segments) -> Context {
    let source = || PolicySource::Flag("test");
    let mut policies =
        Policies { segments: SegmentsChoice { segments, source: source() }, ..Policies::default() };
    let choice = PolicyChoice { policy: Policy::Force(backend), source: source() };
    policies.ops.insert("sdpa", choice.clone());
    policies.ops.insert("mlp_block", choice);
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    CpuDevice::context(options, policies, Recorder::disabled())
}
