//! Host memory as a device buffer: owned and pooled, or a read-only view of a mapped file.

use std::alloc::{Layout as AllocLayout, alloc_zeroed, dealloc};
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use metallic::device::{DeviceId, MemoryStats};
use metallic::tensor::{Buffer, HostBytes, Tensor};

use crate::size_class::size_class;

/// The device every CPU buffer lies on.
pub const CPU: DeviceId = DeviceId { kind: "cpu", index: 0 };

/// One cache line, and one AVX-512 register.
const ALIGNMENT: usize = 64;
/// Freed buffers kept for reuse, in bytes together.
const POOL_LIMIT: usize = 64 << 20;

/// A buffer of the CPU device.
pub(crate) struct CpuBuffer {
    storage: Storage,
}

enum Storage {
    Owned { block: Block, pool: Arc<Pool> },
    Host(HostBytes),
}

/// Aligned memory, initialised once, freed by whoever holds it last.
struct Block {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a block is plain memory; who may touch it when is the business of the kernels, which
// get disjoint parts for writing.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn layout(bytes: usize) -> Option<AllocLayout> {
        AllocLayout::from_size_align(bytes, ALIGNMENT).ok()
    }

    fn new(bytes: usize) -> Option<Self> {
        let layout = Self::layout(bytes)?;
        // SAFETY: `size_class` never gives 0 bytes.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, bytes })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.bytes) {
            // SAFETY: allocated in `new` with this very layout, and dropped once.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// Freed blocks by size, and the counts of [`MemoryStats`].
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    free: HashMap<usize, Vec<Block>>,
    stats: MemoryStats,
}

impl Pool {
    /// A buffer of at least `bytes` bytes; `None` when there is no memory.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Option<CpuBuffer> {
        let class = size_class(bytes, ALIGNMENT)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let block = match state.free.get_mut(&class).and_then(Vec::pop) {
            Some(block) => {
                state.stats.pooled -= class;
                block
            }
            None => Block::new(class)?,
        };
        state.stats.in_use += class;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        Some(CpuBuffer { storage: Storage::Owned { block, pool: Arc::clone(self) } })
    }

    fn release(&self, block: Block) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stats.in_use -= block.bytes;
        if state.stats.pooled + block.bytes <= POOL_LIMIT {
            state.stats.pooled += block.bytes;
            state.free.entry(block.bytes).or_default().push(block);
        }
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stats
    }
}

impl CpuBuffer {
    pub(crate) fn host(bytes: HostBytes) -> Self {
        Self { storage: Storage::Host(bytes) }
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        match &self.storage {
            Storage::Owned { block, .. } => block.start.as_ptr(),
            Storage::Host(bytes) => bytes.as_ptr().cast_mut(),
        }
    }

    /// Whether kernels may write.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.storage, Storage::Owned { .. })
    }
}

impl Drop for CpuBuffer {
    fn drop(&mut self) {
        if let Storage::Owned { block, pool } = &mut self.storage {
            let empty = Block { start: NonNull::dangling(), bytes: usize::MAX };
            // `usize::MAX` bytes have no layout, so dropping the placeholder frees nothing.
            pool.release(std::mem::replace(block, empty));
        }
    }
}

impl Buffer for CpuBuffer {
    fn device(&self) -> DeviceId {
        CPU
    }

    fn bytes(&self) -> usize {
        match &self.storage {
            Storage::Owned { block, .. } => block.bytes,
            Storage::Host(bytes) => bytes.len(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuBuffer({} bytes)", self.bytes())
    }
}

fn buffer(tensor: &Tensor) -> &CpuBuffer {
    tensor
        .buffer()
        .as_any()
        .downcast_ref()
        .expect("the context checked that every tensor lies on its device")
}

/// The first element of `tensor` (for quantised types, its block).
pub(crate) fn data_ptr(tensor: &Tensor) -> *mut u8 {
    let dtype = tensor.dtype();
    let offset = tensor.layout().offset() / dtype.block_len() * dtype.block_bytes();
    buffer(tensor).start().wrapping_add(offset)
}

/// [`data_ptr`] of a tensor that a kernel writes.
pub(crate) fn output_ptr(tensor: &Tensor) -> *mut u8 {
    assert!(buffer(tensor).is_writable(), "kernels never write into a mapped file");
    data_ptr(tensor)
}

/// The bytes of a dense tensor.
pub(crate) fn dense_bytes(tensor: &Tensor) -> &[u8] {
    debug_assert!(tensor.layout().is_contiguous());
    let bytes = tensor.dtype().row_bytes(tensor.shape().elements()).expect("whole blocks");
    // SAFETY: `Tensor::new` checked that the view lies inside its buffer, whose memory is
    // initialised and lives as long as the tensor. No kernel of this call writes this tensor.
    unsafe { std::slice::from_raw_parts(data_ptr(tensor), bytes) }
}

/// The elements of a dense tensor of `T`'s type.
pub(crate) fn dense<T: bytemuck::Pod>(tensor: &Tensor) -> &[T] {
    bytemuck::cast_slice(dense_bytes(tensor))
}

/// The elements of a dense tensor, for writing.
///
/// # Safety
/// Nothing else reads or writes these elements while the slice lives: ops have one output, and
/// calls on one context's tensors are ordered by the caller.
#[expect(clippy::mut_from_ref, reason = "device memory is shared; exclusivity is per kernel run")]
pub(crate) unsafe fn dense_mut<T: bytemuck::Pod>(tensor: &Tensor) -> &mut [T] {
    debug_assert!(tensor.layout().is_contiguous());
    assert!(buffer(tensor).is_writable(), "kernels never write into a mapped file");
    let bytes = tensor.dtype().row_bytes(tensor.shape().elements()).expect("whole blocks");
    // SAFETY: inside the buffer as above; exclusive by this function's own contract.
    bytemuck::cast_slice_mut(unsafe { std::slice::from_raw_parts_mut(data_ptr(tensor), bytes) })
}

/// The base of a tensor that several tasks read or write, each its own rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows<T>(*mut T);

// SAFETY: it is an address; whoever makes a slice of it answers for exclusivity.
unsafe impl<T> Sync for Rows<T> {}

impl<T> Rows<T> {
    /// The elements of `tensor`, whose element type is `T` (`u8` for any), for reading.
    pub(crate) fn input(tensor: &Tensor) -> Self {
        Self(data_ptr(tensor).cast())
    }

    /// The same, for writing.
    pub(crate) fn output(tensor: &Tensor) -> Self {
        Self(output_ptr(tensor).cast())
    }

    /// Elements from `start` on, of memory that is no tensor.
    pub(crate) fn at(start: *mut T) -> Self {
        Self(start)
    }

    /// The first element.
    pub(crate) fn start(&self) -> *mut T {
        self.0
    }

    /// The elements `start .. start + len`, for reading.
    ///
    /// # Safety
    /// They lie inside the tensor, and nothing writes them while the slice lives.
    pub(crate) unsafe fn read(&self, start: usize, len: usize) -> &[T] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts(self.0.add(start), len) }
    }

    /// The elements `start .. start + len`.
    ///
    /// # Safety
    /// They lie inside the tensor, and nothing else touches them while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "device memory is shared; tasks have disjoint rows")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_blocks_are_reused_and_counted() {
        let pool = Arc::new(Pool::default());
        let first = pool.allocate(1000).unwrap();
        let start = first.start();
        assert_eq!(first.bytes() % ALIGNMENT, 0);
        assert_eq!(pool.stats().in_use, 1024);
        drop(first);
        assert_eq!(pool.stats(), MemoryStats { in_use: 0, peak: 1024, pooled: 1024 });
        assert_eq!(pool.allocate(990).unwrap().start(), start);
        assert!(pool.allocate(usize::MAX).is_none());
        assert!(pool.allocate(isize::MAX as usize - 4096).is_none());
        assert!(pool.allocate(0).is_some());
    }
}
