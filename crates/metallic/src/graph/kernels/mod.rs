//! The ops that have a graph form, one file each.

mod attention_block;
mod mlp_block;
mod sdpa;
mod segment;

pub use attention_block::AttentionBlockGraphKernel;
pub use mlp_block::MlpBlockGraphKernel;
pub use sdpa::SdpaGraphKernel;
