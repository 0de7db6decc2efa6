//! Hand-written kernels as the registry sees them, one file an op.

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
pub(crate) use sdpa::LegacySdpa;
pub(crate) use swiglu::LegacySwiGlu;
pub(crate) use top_k::LegacyTopK;

use super::cores::Cpu;
