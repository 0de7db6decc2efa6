//! The words of Metallic: tensors, ops, graphs, dispatch and caches.
//!
//! This crate names no device, holds no FFI, no `cfg(target_os)` and no feature gate. Four traits
//! carry everything: [`op::Op`], [`dispatch::KernelInvocable`], [`graph::GraphKernel`] and
//! [`graph::GraphExecutor`].
#![forbid(unsafe_code)]

pub mod cache;
pub mod config;
pub mod context;
pub mod device;
pub mod dispatch;
mod error;
pub mod graph;
pub mod op;
pub mod segment;
pub mod tensor;

pub use context::Context;
pub use error::{Error, Result};
