//! The Metal device: Apple GPUs, through Apple's own frameworks.
//!
//! What a kernel of this device is written with:
//!
//! | name | file | what it is |
//! |---|---|---|
//! | `Metal` | `stream` | what every kernel holds: the stream, cheap to clone |
//! | `Metal::encode(op, \|encoder\| …)` | `stream` | one op's work, appended to the command buffer in flight |
//! | `Encoder::dispatch(&Dispatch)` | `encoder` | one kernel: `Kernel`, `Arg`s at buffer 0.., params after them, grid |
//! | `Encoder::with_command_buffer` | `encoder` | hands the command buffer to MPSGraph, takes the one to go on with |
//! | `Encoder::scratch(bytes)` | `encoder` | private memory for one op, reused after it |
//! | `Kernel { source, function, constants }` | `pipeline` | which pipeline state; compiled once, kept |
//! | `kernel_source!("rms_norm")` | `library` | an embedded `.metal` file of `kernels/` |
//! | `MetalBuffer`, `Bound::of(&tensor)` | `buffer` | the `MTLBuffer` behind a tensor, and its byte offset |
//!
//! A params struct is a `shader_struct!` (`layout`), stands beside its kernel's host code and has the
//! same name and fields in the `.metal` file, which tests compare. It is bound at the index after the
//! last `Arg`.

mod device;

mod buffer;
mod command_buffer;
mod copy;
mod description;
mod encoder;
mod fault;
mod heap;
mod layout;
mod library;
mod mapping;
mod mask;
mod pipeline;
mod pool;
mod precompiled;
mod stream;
mod submission;
mod timestamps;

mod graph;
mod legacy;

pub use buffer::METAL;
pub use device::{ImportStats, MetalDevice, MetalOptions};
pub use graph::{machine, probe};
pub use layout::{HostField, ShaderStruct, shader_structs};

use metallic::Error;
use metallic::dispatch::{Backend, KernelBackendRegistry};

use self::legacy::{
    ComposedSdpa, FlashDecodeSdpa, FlashPrefillSdpa, LegacyAdd, LegacyEmbedding, LegacyKvAppend,
    LegacyLinear, LegacyRmsNorm, LegacyRope, LegacySwiGlu, LegacyTopK, SoftmaxMpsSdpa,
};

/// Whether this build has the device.
pub const PRESENT: bool = true;

/// Every kernel of the GPU, one line each.
fn register(registry: &mut KernelBackendRegistry, device: &MetalDevice) {
    let metal = || device.metal().clone();
    registry.register(Backend::Legacy, "runs", LegacyEmbedding(metal()));
    registry.register(Backend::Legacy, "rows", LegacyRmsNorm(metal()));
    registry.register(Backend::Legacy, "tiles", LegacyLinear(metal()));
    registry.register(Backend::Legacy, "pairs", LegacyRope(metal()));
    registry.register(Backend::Legacy, "rows", LegacyKvAppend(metal()));
    // The first that takes a call runs: `legacy/sdpa` says why in this order.
    registry.register(Backend::Legacy, "flash_decode", FlashDecodeSdpa(metal()));
    registry.register(Backend::Legacy, "flash_prefill", FlashPrefillSdpa(metal()));
    registry.register(Backend::Legacy, "composed", ComposedSdpa(metal()));
    registry.register(Backend::Legacy, "softmax_mps", SoftmaxMpsSdpa(metal()));
    registry.register(Backend::Legacy, "elements", LegacySwiGlu(metal()));
    registry.register(Backend::Legacy, "elements", LegacyAdd(metal()));
    registry.register(Backend::Legacy, "chunks", LegacyTopK(metal()));
    crate::composed::register(registry);
}

/// A failure of this device.
fn failure(what: &'static str, reason: impl Into<String>) -> Error {
    Error::Device { device: METAL, what, reason: reason.into() }
}
