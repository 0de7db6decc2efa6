//! Graphs on the CPU: an executor and the fused loops it lowers nodes to.

mod executor;
mod sdpa;

pub(crate) use executor::CpuGraphExecutor;
