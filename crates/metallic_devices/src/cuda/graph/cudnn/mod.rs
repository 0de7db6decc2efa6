//! Attention through cuDNN's plans, as an engine of the graph backend beside the fused kernels.
//!
//! - [`library`]: the functions, found at run time. [`descriptor`]: one object of the library's.
//! - [`graph`]: operations over tensors. [`attention`]: a call as such operations.
//! - [`plan`]: what runs. [`store`]: plans on disk.
//! - [`call`]: which geometry a call has. [`executor`]: the engine.
//!
//! What the library does not hold is done by kernels of our own around it: live lengths are bounded
//! (`sdpa_lengths.cu`), and rows that a hidden NaN reached are done again (`sdpa_repair.cu`).

mod attention;
mod call;
mod descriptor;
mod executor;
mod graph;
mod library;
mod plan;
mod store;

pub(crate) use executor::CudnnGraphExecutor;
