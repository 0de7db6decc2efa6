//! The words of Metallic: tensors, ops, graphs, dispatch and caches.
//!
//! This crate names no device, holds no FFI, no `cfg(target_os)` and no feature gate.
#![forbid(unsafe_code)]

pub mod tensor;
