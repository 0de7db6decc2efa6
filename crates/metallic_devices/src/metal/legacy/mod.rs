//! Hand-written kernels as the registry sees them, one file an op; their shaders lie in
//! `../kernels`.

mod add;
mod embedding;

pub(crate) use add::LegacyAdd;
pub(crate) use embedding::LegacyEmbedding;

use metallic::Result;
use metallic::tensor::Tensor;

use super::failure;

/// Threads of a threadgroup for work that needs no cooperation.
const THREADS: usize = 256;

/// `value` as a kernel's 32-bit count.
///
/// # Errors
/// [`metallic::Error::Device`] when it does not fit.
pub(crate) fn count(op: &'static str, value: usize) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| failure(op, format!("{value} is more than a kernel counts to")))
}

/// The element count of `tensor` as a kernel's 32-bit count.
///
/// # Errors
/// As [`count`].
fn elements(op: &'static str, tensor: &Tensor) -> Result<u32> {
    count(op, tensor.shape().elements())
}
