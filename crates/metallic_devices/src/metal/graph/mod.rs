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
mod preference;
pub mod probe;
mod quirks;
mod run;
mod value;

pub(crate) use executor::MpsGraphExecutor;
pub(crate) use form::Form;
pub(crate) use platform::Platform;

use std::sync::Arc;

use metallic::Result;
use metallic::dispatch::{Backend, KernelBackendRegistry};
use metallic::graph::Cached;
use metallic::graph::kernels::{AttentionBlockGraphKernel, MlpBlockGraphKernel, SdpaGraphKernel};
use metallic::op::Sdpa;
use metallic::segment::{AttentionBlock, MlpBlock};
use metallic_instrumentation::Recorder;
use objc2::Message;

use super::device::MetalDevice;
use super::layout::HostStruct;
use crate::GraphOptions;
use crate::certificate::{Certificate, Machine};

/// The structs that kernels of this folder read.
pub(super) const LAYOUTS: [HostStruct; 2] = [copy::CopyParams::LAYOUT, copy::AppendParams::LAYOUT];

/// Registers the graphs of the GPU: attention as MPSGraph's own op where that can be, composed
/// of its plain ops elsewhere. Why the first is not taken stands in the choice's reason.
pub(super) fn register(
    registry: &mut KernelBackendRegistry,
    device: &MetalDevice,
    options: &GraphOptions,
    recorder: &Recorder,
) {
    let platform = Platform::of(device.identity());
    for (form, attention, block) in [
        (Form::Native, "SdpaMpsGraphOp", "AttentionBlockMpsGraphOp"),
        (Form::Decomposed, "SdpaMpsGraphOp-decomposed", "AttentionBlockMpsGraphOp-decomposed"),
    ] {
        let (raw, metal) = (device.raw().retain(), device.metal().clone());
        let (platform, options) = (platform.clone(), options.clone());
        let executor = MpsGraphExecutor::new(raw, metal, platform, form, options, recorder.clone());
        let executor = Arc::new(executor);
        let kernel = Cached::<Sdpa, _>::new(SdpaGraphKernel, executor.clone());
        registry.register(Backend::Graph, attention, kernel);
        let kernel = Cached::<AttentionBlock, _>::new(AttentionBlockGraphKernel, executor.clone());
        registry.register(Backend::Graph, block, kernel);
        if form == Form::Native {
            // There is no attention in it, so either executor would do.
            let kernel = Cached::<MlpBlock, _>::new(MlpBlockGraphKernel, executor);
            registry.register(Backend::Graph, "MlpBlockMpsGraphOp", kernel);
        }
    }
    let machine = platform.machine();
    let certified =
        options.certificates.as_deref().is_some_and(|dir| Certificate::holds(dir, &machine));
    if certified {
        registry.prefer::<Sdpa>(preference::certified);
        registry.prefer::<AttentionBlock>(preference::certified);
        registry.prefer::<MlpBlock>(preference::certified);
    } else {
        registry.prefer::<Sdpa>(preference::uncertified);
        registry.prefer::<AttentionBlock>(preference::uncertified);
        registry.prefer::<MlpBlock>(preference::uncertified);
    }
}

/// The system and GPU at hand, as certificates and reports name them.
///
/// # Errors
/// [`metallic::Error::Device`] when there is no GPU.
pub fn machine() -> Result<Machine> {
    let device = MetalDevice::new(super::MetalOptions::default(), Recorder::disabled())?;
    Ok(Platform::of(device.identity()).machine())
}
