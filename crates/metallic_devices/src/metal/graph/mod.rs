//! Graphs on Metal, through MPSGraph.
//!
//! In the order of a graph's way: `infer` checks its types, `form` and `limits` say whether and
//! how it can be run here, `lower` writes it with `emit`'s ops, `compile` makes an executable of
//! it. Each run: `call` holds the feeds, `bind` finds them in memory, `copy` moves what cannot be
//! bound, `encode` appends the executable to the command buffer in flight.

mod executor;

mod bind;
mod call;
mod compile;
mod copy;
mod emit;
mod encode;
mod form;
mod infer;
mod limits;
mod lower;
mod package;
mod platform;
mod positions;
mod quirks;
mod run;
mod value;

pub(crate) use executor::MpsGraphExecutor;
pub(crate) use form::Form;
pub(crate) use platform::Platform;

use metallic::dispatch::{Backend, KernelBackendRegistry};
use metallic::graph::Cached;
use metallic::graph::kernels::SdpaGraphKernel;
use metallic::op::Sdpa;
use metallic_instrumentation::Recorder;
use objc2::Message;

use super::device::MetalDevice;
use crate::GraphOptions;
use std::sync::Arc;

/// Registers the graphs of the GPU: attention as MPSGraph's own op where that can be, composed
/// of its plain ops elsewhere. Why the first is not taken stands in the choice's reason.
pub(super) fn register(
    registry: &mut KernelBackendRegistry,
    device: &MetalDevice,
    options: &GraphOptions,
    recorder: &Recorder,
) {
    for (variant, form) in
        [("SdpaMpsGraphOp", Form::Native), ("SdpaMpsGraphOp-decomposed", Form::Decomposed)]
    {
        let platform = Platform::of(device.identity());
        let (raw, metal) = (device.raw().retain(), device.metal().clone());
        let (options, recorder) = (options.clone(), recorder.clone());
        let executor = MpsGraphExecutor::new(raw, metal, platform, form, options, recorder);
        let kernel = Cached::<Sdpa, _>::new(SdpaGraphKernel, Arc::new(executor));
        registry.register(Backend::Graph, variant, kernel);
    }
}
