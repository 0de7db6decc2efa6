//! Storage on a device, as the rest of the program sees it.

use std::any::Any;
use std::fmt;

use crate::device::DeviceId;

/// A run of bytes owned by one device. Tensors share it through `Arc<dyn Buffer>`.
///
/// Only kernels of the same device look inside, by downcasting [`Buffer::as_any`].
pub trait Buffer: Send + Sync + fmt::Debug {
    /// The device the bytes lie on.
    fn device(&self) -> DeviceId;

    /// Usable size in bytes.
    fn bytes(&self) -> usize;

    /// The device's own type.
    fn as_any(&self) -> &dyn Any;
}
