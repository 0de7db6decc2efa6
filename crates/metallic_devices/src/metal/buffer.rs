//! Memory of the GPU as a buffer of tensors: pooled, or the pages of a mapped file.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metallic::device::DeviceId;
use metallic::tensor::{Buffer, Tensor};
use metallic::{Error, Result};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLResourceOptions};

use super::failure;
use super::pool::Pool;

/// The device every Metal buffer lies on.
pub const METAL: DeviceId = DeviceId { kind: "metal", index: 0 };

/// Who reaches the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Storage {
    /// The GPU alone.
    Private,
    /// The GPU and this process.
    Shared,
}

impl Storage {
    /// Metal's name for it. Hazards are tracked: kernels of one queue run as if one by one.
    pub(crate) fn options(self) -> MTLResourceOptions {
        match self {
            Storage::Private => MTLResourceOptions::StorageModePrivate,
            Storage::Shared => MTLResourceOptions::StorageModeShared,
        }
    }
}

/// An `MTLBuffer` that may be held by several threads.
#[derive(Clone)]
pub(crate) struct RawBuffer(Retained<ProtocolObject<dyn MTLBuffer>>);

// SAFETY: Metal's resources may be retained, released and encoded from any thread; what their
// bytes hold when is the business of the stream, which orders all access.
unsafe impl Send for RawBuffer {}
// SAFETY: as above; no method used here changes the object itself.
unsafe impl Sync for RawBuffer {}

impl RawBuffer {
    pub(crate) fn new(buffer: Retained<ProtocolObject<dyn MTLBuffer>>) -> Self {
        Self(buffer)
    }

    pub(crate) fn get(&self) -> &ProtocolObject<dyn MTLBuffer> {
        &self.0
    }
}

/// Where a buffer came from and goes back to.
enum Origin {
    /// Memory of the pool, of a size class.
    Pool(Arc<Pool>),
    /// Pages of a file, which Metal keeps mapped as long as it needs them.
    File,
}

/// A buffer of the Metal device.
pub(crate) struct MetalBuffer {
    raw: RawBuffer,
    storage: Storage,
    /// Bytes of the `MTLBuffer` before the first one of this buffer.
    base: usize,
    /// Usable bytes.
    bytes: usize,
    /// The last submission that touches it.
    last_use: AtomicU64,
    origin: Origin,
}

impl MetalBuffer {
    pub(crate) fn pooled(
        raw: RawBuffer,
        storage: Storage,
        bytes: usize,
        last_use: u64,
        pool: Arc<Pool>,
    ) -> Self {
        let last_use = AtomicU64::new(last_use);
        Self { raw, storage, base: 0, bytes, last_use, origin: Origin::Pool(pool) }
    }

    /// The bytes `base .. base + bytes` of mapped pages, read-only.
    pub(crate) fn file(raw: RawBuffer, base: usize, bytes: usize) -> Self {
        let (storage, last_use) = (Storage::Shared, AtomicU64::new(0));
        Self { raw, storage, base, bytes, last_use, origin: Origin::File }
    }

    /// The `MTLBuffer`. Its length is at least [`MetalBuffer::base`] and the usable bytes, and
    /// for pooled memory 16 bytes more.
    pub(crate) fn raw(&self) -> &ProtocolObject<dyn MTLBuffer> {
        self.raw.get()
    }

    /// Bytes of the `MTLBuffer` before the first one of this buffer.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// Whether kernels may write.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.origin, Origin::Pool(_))
    }

    /// The first byte, where this process reaches it.
    pub(crate) fn host_start(&self) -> Option<NonNull<u8>> {
        match self.storage {
            Storage::Private => None,
            Storage::Shared => {
                let start = self.raw().contents().cast::<u8>();
                // SAFETY: `base` bytes lie before the first usable one of the same allocation.
                Some(unsafe { start.add(self.base) })
            }
        }
    }

    /// The last submission that touches this buffer; 0 for none.
    pub(crate) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Acquire)
    }

    /// Notes that submission `sequence` touches this buffer.
    pub(crate) fn touch(&self, sequence: u64) {
        self.last_use.fetch_max(sequence, Ordering::AcqRel);
    }

    /// The Metal buffer behind `buffer`.
    ///
    /// # Errors
    /// [`Error::Device`] for one of another device.
    pub(crate) fn of<'a>(what: &'static str, buffer: &'a dyn Buffer) -> Result<&'a Self> {
        let elsewhere = || failure(what, format!("the buffer lies on {}", buffer.device()));
        buffer.as_any().downcast_ref().ok_or_else(elsewhere)
    }
}

impl Drop for MetalBuffer {
    fn drop(&mut self) {
        if let Origin::Pool(pool) = &self.origin {
            pool.release(self.raw.clone(), self.storage, self.last_use());
        }
    }
}

impl Buffer for MetalBuffer {
    fn device(&self) -> DeviceId {
        METAL
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for MetalBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_writable() { "pooled" } else { "mapped" };
        write!(f, "MetalBuffer({} bytes, {:?}, {kind})", self.bytes, self.storage)
    }
}

/// Where a tensor begins: its buffer and the bytes before it in the `MTLBuffer`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<'a> {
    /// The buffer.
    pub(crate) buffer: &'a MetalBuffer,
    /// Byte offset in [`MetalBuffer::raw`] of the tensor's first element (for quantised types,
    /// of its block).
    pub(crate) offset: usize,
}

impl<'a> Bound<'a> {
    /// Where a tensor that is read begins.
    ///
    /// # Errors
    /// [`Error::Device`] for a tensor of another device.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let buffer = MetalBuffer::of("bind", &**tensor.buffer())?;
        let dtype = tensor.dtype();
        let offset = tensor.layout().offset() / dtype.block_len() * dtype.block_bytes();
        Ok(Self { buffer, offset: buffer.base() + offset })
    }

    /// Where a tensor that is written begins.
    ///
    /// # Errors
    /// As [`Bound::of`], and for the read-only pages of a file.
    pub(crate) fn writable(tensor: &'a Tensor) -> Result<Self> {
        let bound = Self::of(tensor)?;
        if !bound.buffer.is_writable() {
            return Err(read_only("bind"));
        }
        Ok(bound)
    }
}

/// The refusal to write into a mapped file.
pub(crate) fn read_only(what: &'static str) -> Error {
    failure(what, "the buffer is a read-only file")
}
