//! Contexts whose attention runs as a graph.

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_devices::{GraphOptions, HiddenKeys, Operands, Terms};
use metallic_instrumentation::Recorder;
use softmetal_objc::control;

/// Policies that demand `backend` for attention.
pub(crate) fn force(backend: Backend) -> Policies {
    let mut policies = Policies::default();
    let source = PolicySource::Flag("--test");
    policies.ops.insert("sdpa", PolicyChoice { policy: Policy::Force(backend), source });
    policies
}

/// A context that runs attention as a graph, by `options`.
pub(crate) fn graph_with(options: GraphOptions, recorder: Recorder) -> Context {
    let options = MetalOptions { graph: options, ..MetalOptions::default() };
    MetalDevice::context(options, force(Backend::Graph), recorder).unwrap()
}

/// A context that runs attention as a graph and promises nothing of hidden keys.
pub(crate) fn graph() -> Context {
    graph_with(GraphOptions::default(), Recorder::disabled())
}

/// What a model's own cache promises.
pub(crate) fn promises() -> GraphOptions {
    let terms = Terms { hidden_keys: HiddenKeys::Finite, operands: Operands::KeyType };
    GraphOptions { terms, ..GraphOptions::default() }
}

/// The CPU.
pub(crate) fn cpu() -> Context {
    let options = CpuOptions { threads: 1, ..CpuOptions::default() };
    CpuDevice::context(options, Policies::default(), Recorder::disabled())
}

/// Whether the macOS that is played has array views and MPSGraph's attention op; the full lane
/// plays older ones too.
pub(crate) fn macos_15() -> bool {
    control().os_version() >= (15, 0)
}
