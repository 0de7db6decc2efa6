//! Device memory as a buffer of tensors, pooled in the order of the stream.
//!
//! Freed blocks are kept by size and handed out again at once: everything runs on one stream, so
//! the next user's work comes after the last one's. When the device is full, kept blocks are given
//! back before a request fails.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{free_sync, malloc_sync};
use cudarc::driver::sys::CUdeviceptr;
use metallic::device::{DeviceId, MemoryStats};
use metallic::tensor::{Buffer, Tensor};
use metallic::{Error, Result};

use super::error::{Doing, is_out_of_memory};
use super::stream::Stream;

/// What the driver aligns allocations to, and every kernel may count on.
const ALIGNMENT: usize = 256;
/// From here on sizes are multiples of this, the driver's own granularity.
const LARGE: usize = 2 << 20;

/// A run of device memory, given back to its pool when dropped.
pub(crate) struct CudaBuffer {
    start: CUdeviceptr,
    bytes: usize,
    pool: Arc<MemoryPool>,
    /// The recording the block belongs to.
    recorded: Option<Arc<RecordedMemory>>,
    /// Whether the recording keeps the block for whom it has now.
    kept: bool,
}

impl CudaBuffer {
    /// The device address of the first byte, aligned to 256 bytes.
    pub(crate) fn start(&self) -> CUdeviceptr {
        self.start
    }

    /// Lets go of the block, whose contents a recording needs from one replay to the next: nothing
    /// else of the recording gets it. Outside a recording, the same as dropping it.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        match &self.recorded {
            Some(_) if self.kept => {}
            Some(memory) => memory.release(self.start, self.bytes),
            None => self.pool.release(self.start, self.bytes),
        }
    }
}

/// The blocks of one recording: handed out again within it alone.
pub(crate) struct RecordedMemory {
    pool: Arc<MemoryPool>,
    state: Mutex<RecordedState>,
}

#[derive(Default)]
struct RecordedState {
    /// All blocks, as (start, size).
    blocks: Vec<(CUdeviceptr, usize)>,
    free: BTreeMap<usize, Vec<CUdeviceptr>>,
}

impl RecordedMemory {
    /// Bytes of all blocks.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().blocks.iter().map(|(_, size)| size).sum()
    }

    fn allocate(self: &Arc<Self>, class: usize) -> Result<CudaBuffer> {
        let mut state = self.lock();
        let (start, bytes) = match take(&mut state.free, class) {
            Some(block) => block,
            None => {
                let block = self.pool.block(class)?;
                state.blocks.push(block);
                block
            }
        };
        let (pool, recorded) = (Arc::clone(&self.pool), Some(Arc::clone(self)));
        Ok(CudaBuffer { start, bytes, pool, recorded, kept: false })
    }

    fn release(&self, start: CUdeviceptr, bytes: usize) {
        self.lock().free.entry(bytes).or_default().push(start);
    }

    fn lock(&self) -> MutexGuard<'_, RecordedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RecordedMemory {
    fn drop(&mut self) {
        for (start, bytes) in std::mem::take(&mut self.lock().blocks) {
            self.pool.release(start, bytes);
        }
    }
}

impl Buffer for CudaBuffer {
    fn device(&self) -> DeviceId {
        self.pool.stream.id()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuffer({} bytes at {:#x})", self.bytes, self.start)
    }
}

/// The memory of one device.
pub(crate) struct MemoryPool {
    stream: Arc<Stream>,
    state: Mutex<State>,
    /// Where a thread that records takes its memory.
    recording: Mutex<Option<Arc<RecordedMemory>>>,
}

#[derive(Default)]
struct State {
    /// Kept blocks by size.
    free: BTreeMap<usize, Vec<CUdeviceptr>>,
    stats: MemoryStats,
}

/// Sizes repeat: eighths of the next power of two below 2 MiB, multiples of 2 MiB above.
fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(1);
    if bytes >= LARGE {
        return bytes.checked_next_multiple_of(LARGE);
    }
    bytes.checked_next_multiple_of((bytes.next_power_of_two() / 8).max(ALIGNMENT))
}

impl MemoryPool {
    /// An empty pool of the stream's device.
    pub(crate) fn new(stream: Arc<Stream>) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), recording: Mutex::default() })
    }

    /// Memory of at least `bytes` bytes with unspecified contents, ready for work on the stream.
    /// Kernels use it for scratch too: drop it as soon as the last launch that uses it was made.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<CudaBuffer> {
        let device = self.stream.id();
        let class = size_class(bytes).ok_or(Error::OutOfMemory { device, bytes })?;
        if self.stream.is_recording() {
            let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(memory) = recording {
                return memory.allocate(class);
            }
        }
        let (start, bytes) = self.block(class)?;
        Ok(CudaBuffer { start, bytes, pool: Arc::clone(self), recorded: None, kept: false })
    }

    /// A block of at least `class` bytes, given back by [`MemoryPool::release`].
    fn block(&self, class: usize) -> Result<(CUdeviceptr, usize)> {
        let mut state = self.lock();
        let (start, bytes) = match take(&mut state.free, class) {
            Some((start, size)) => {
                state.stats.pooled -= size;
                (start, size)
            }
            None => (self.take_new(&mut state, class)?, class),
        };
        state.stats.in_use += bytes;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        Ok((start, bytes))
    }

    /// Memory for what this thread, which records, is about to do.
    pub(crate) fn begin_recording(self: &Arc<Self>) -> Arc<RecordedMemory> {
        let memory = RecordedMemory { pool: Arc::clone(self), state: Mutex::default() };
        let memory = Arc::new(memory);
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        *recording = Some(Arc::clone(&memory));
        memory
    }

    /// Ends what [`MemoryPool::begin_recording`] began.
    pub(crate) fn end_recording(&self) {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// New memory from the driver; gives back all kept blocks when there is none.
    fn take_new(&self, state: &mut State, bytes: usize) -> Result<CUdeviceptr> {
        let device = self.stream.id();
        self.stream.bind()?;
        // SAFETY: a plain allocation of a size above 0, freed by `release` or `trim` alone.
        match unsafe { malloc_sync(bytes) } {
            Err(error) if is_out_of_memory(error) && state.stats.pooled > 0 => {
                self.trim(state)?;
                // SAFETY: as above.
                match unsafe { malloc_sync(bytes) } {
                    Err(error) if is_out_of_memory(error) => {
                        Err(Error::OutOfMemory { device, bytes })
                    }
                    result => result.doing(device, "allocate", || format!("{bytes} bytes")),
                }
            }
            Err(error) if is_out_of_memory(error) => Err(Error::OutOfMemory { device, bytes }),
            result => result.doing(device, "allocate", || format!("{bytes} bytes")),
        }
    }

    /// Gives all kept blocks back to the driver.
    fn trim(&self, state: &mut State) -> Result<()> {
        self.stream.synchronize()?;
        for (size, blocks) in std::mem::take(&mut state.free) {
            for start in blocks {
                state.stats.pooled -= size;
                // SAFETY: nobody holds the block, and all work on it is done.
                unsafe { free_sync(start) }
                    .doing(self.stream.id(), "free", || format!("{size} bytes"))?;
            }
        }
        Ok(())
    }

    fn release(&self, start: CUdeviceptr, bytes: usize) {
        let mut state = self.lock();
        state.stats.in_use -= bytes;
        state.stats.pooled += bytes;
        state.free.entry(bytes).or_default().push(start);
    }

    /// Bytes in use, at most, and kept.
    pub(crate) fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A kept block of at least `class` bytes and at most an eighth more, with its size.
fn take(
    free: &mut BTreeMap<usize, Vec<CUdeviceptr>>,
    class: usize,
) -> Option<(CUdeviceptr, usize)> {
    let size = *free.range(class..=class + class / 8).next()?.0;
    let blocks = free.get_mut(&size)?;
    let start = blocks.pop();
    if blocks.is_empty() {
        free.remove(&size);
    }
    Some((start?, size))
}

impl Drop for MemoryPool {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.lock());
        // The process may be ending with the driver gone; then there is nothing left to free.
        if let Err(error) = self.trim(&mut state) {
            tracing::debug!(%error, "device memory was not freed");
        }
    }
}

impl fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryPool").field("stats", &self.stats()).finish()
    }
}

/// The device address of the first element of `tensor` (for quantised types, of its block).
pub(crate) fn device_ptr(tensor: &Tensor) -> CUdeviceptr {
    let buffer: &CudaBuffer = tensor
        .buffer()
        .as_any()
        .downcast_ref()
        .expect("the context checked that every tensor lies on its device");
    let dtype = tensor.dtype();
    let offset = tensor.layout().offset() / dtype.block_len() * dtype.block_bytes();
    buffer.start + offset as CUdeviceptr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_repeat_and_waste_little() {
        assert_eq!(size_class(0), Some(256));
        assert_eq!(size_class(1000), Some(1024));
        assert_eq!(size_class(LARGE + 1), Some(2 * LARGE));
        assert_eq!(size_class(usize::MAX), None);
        for bytes in (1..4 * LARGE).step_by(9973) {
            let class = size_class(bytes).unwrap();
            assert!(class >= bytes && class.is_multiple_of(ALIGNMENT));
            assert_eq!(size_class(class), Some(class), "{bytes}");
        }
    }
}
