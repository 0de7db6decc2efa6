//! cuBLASLt: matrix products of f32, f16 and bf16 with f32 sums.

use std::sync::Arc;

use super::buffer::MemoryPool;
use super::libraries::{Component, library};
use super::stream::Stream;

/// The library's handle on one device.
#[derive(Debug)]
pub(crate) struct Blas {
    stream: Arc<Stream>,
    memory: Arc<MemoryPool>,
}

impl Blas {
    /// A handle, or what is missing.
    ///
    /// # Errors
    /// In words, when the library is not here.
    pub(crate) fn open(stream: &Arc<Stream>, memory: &Arc<MemoryPool>) -> Result<Self, String> {
        library(Component::CublasLt).state.clone()?;
        Ok(Self { stream: Arc::clone(stream), memory: Arc::clone(memory) })
    }
}
