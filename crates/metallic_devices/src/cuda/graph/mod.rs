//! Graphs on a GPU: an executor and the fused kernels it lowers nodes to.

mod executor;
mod sdpa;

pub(crate) use executor::CudaGraphExecutor;
