//! What must come out: f64 references in plain loops, one file per op; exact ones where an op only
//! chooses.

pub mod estimate;

mod block;
mod sdpa;
mod top_k;

pub(crate) use block::band;
pub use block::{AttentionReference, BlockProblem, attention_block, mlp_block};
pub use estimate::Estimate;
pub use sdpa::{Reference, RowFacts, SdpaProblem, TensorMask, TensorMaskValues, sdpa};
pub use top_k::{TopKReference, top_k};
