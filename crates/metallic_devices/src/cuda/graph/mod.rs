//! Graphs on a GPU. Two engines run them: `fused`, an executor over kernels of our own, and `cudnn`, one
//! over cuDNN's plans.

mod cudnn;
mod executor;
mod many_rows;
mod preference;
mod sdpa;
mod segment;

pub(crate) use cudnn::CudnnGraphExecutor;
pub(crate) use executor::CudaGraphExecutor;
pub(crate) use many_rows::{ByRows, ManyRowsAttention, ManyRowsMlp};
pub(crate) use preference::{ENGINES, guess};
pub(crate) use segment::{FewRows, HalfSize};
