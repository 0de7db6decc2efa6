//! Graphs on the CPU: an executor and the fused loops it lowers graphs to.

mod attention_block;
mod executor;
mod feeds;
mod mlp_block;
mod sdpa;
mod sdpa_node;
mod segment;

pub(crate) use executor::CpuGraphExecutor;
