//! Hand-written kernels as the registry sees them, one file an op; their shaders lie in
//! `../kernels`.

mod add;
mod embedding;
mod kv_append;
mod linear;
mod rms_norm;
mod rope;
mod sdpa;
mod swiglu;
mod top_k;

pub(crate) use add::LegacyAdd;
pub(crate) use embedding::LegacyEmbedding;
pub(crate) use kv_append::LegacyKvAppend;
pub(crate) use linear::LegacyLinear;
pub(crate) use rms_norm::LegacyRmsNorm;
pub(crate) use rope::LegacyRope;
pub(crate) use sdpa::{ComposedSdpa, FlashDecodeSdpa, FlashPrefillSdpa, SoftmaxMpsSdpa};
pub(crate) use swiglu::LegacySwiGlu;
pub(crate) use top_k::LegacyTopK;

use metallic::Result;
use metallic::tensor::Tensor;

use super::failure;
use super::layout::HostStruct;

/// The structs that kernels of this folder read.
pub(super) const LAYOUTS: [HostStruct; 9] = [
    add::AddParams::LAYOUT,
    embedding::EmbeddingParams::LAYOUT,
    kv_append::KvAppendParams::LAYOUT,
    linear::LinearParams::LAYOUT,
    rms_norm::RmsNormParams::LAYOUT,
    rope::RopeParams::LAYOUT,
    sdpa::LAYOUT,
    swiglu::SwiGluParams::LAYOUT,
    top_k::TopKParams::LAYOUT,
];

/// Threads that run in step on every Apple GPU.
const SIMD_WIDTH: usize = 32;
/// Threads of a threadgroup, where a kernel has no wish of its own.
const THREADS: usize = 256;

/// `value` as a kernel's 32-bit count.
///
/// # Errors
/// [`metallic::Error::Device`] when it does not fit.
pub(crate) fn count(op: &'static str, value: usize) -> Result<u32> {
    let too_large = |_| failure(op, format!("{value} is more than a kernel counts to"));
    u32::try_from(value).map_err(too_large)
}

/// The element count of `tensor` as a kernel's 32-bit count.
///
/// # Errors
/// As [`count`].
fn elements(op: &'static str, tensor: &Tensor) -> Result<u32> {
    count(op, tensor.shape().elements())
}
