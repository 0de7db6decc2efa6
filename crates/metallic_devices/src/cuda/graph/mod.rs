//! Graphs on a GPU: an executor and the fused kernels it lowers nodes to.

mod executor;
mod sdpa;
mod segment;

pub(crate) use executor::CudaGraphExecutor;
pub(crate) use segment::FewRows;
