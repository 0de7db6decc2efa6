//! What a tensor is: an element type, a layout, and a buffer on some device.

mod dtype;
mod host_bytes;

pub use dtype::{DType, UnknownDType};
pub use host_bytes::HostBytes;
