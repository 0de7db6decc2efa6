//! Freed buffers by size, the limits of the device, and the counts of [`MemoryStats`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metallic::device::MemoryStats;
use metallic::{Error, Result};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLBuffer, MTLDevice};

use super::buffer::{METAL, MetalBuffer, RawBuffer, Storage};
use super::heap::{HEAP_BYTES, Heaps};
use crate::size_class::size_class;

/// Sizes are multiples of this: what Metal asks of offsets into constant memory at most.
const ALIGNMENT: usize = 256;
/// MPSGraph rounds the bytes of a row up to this when it compares a buffer with a shape.
const ROW_SLACK: usize = 16;
/// Freed buffers kept for reuse, in bytes together: about the activations of one prompt chunk.
const POOL_LIMIT: usize = 256 << 20;

/// Which submissions are done. Submissions are numbered from 1 and finish in order.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    completed: AtomicU64,
}

impl Timeline {
    /// The last submission that is done; 0 before the first.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// Notes that `sequence` and everything before it is done.
    pub(crate) fn complete(&self, sequence: u64) {
        self.completed.fetch_max(sequence, Ordering::AcqRel);
    }
}

/// What the device can hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of one buffer.
    pub(crate) max_buffer: usize,
    /// Bytes that may be resident together; `usize::MAX` where the device does not say.
    pub(crate) working_set: usize,
}

/// The memory of one device.
pub(crate) struct Pool {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    limits: Limits,
    timeline: Arc<Timeline>,
    state: Mutex<State>,
    /// Bytes of mapped files that buffers look at. Counted apart, since Metal gives pages back
    /// whenever it likes, perhaps while it is asked for memory.
    mapped: AtomicUsize,
}

#[derive(Default)]
struct State {
    free: HashMap<(usize, Storage), Vec<Free>>,
    /// What small private buffers are cut from. Dropped after them.
    heaps: Heaps,
    stats: MemoryStats,
}

/// A freed buffer and the last submission that touches it.
struct Free {
    raw: RawBuffer,
    last_use: u64,
}

impl Pool {
    pub(crate) fn new(
        device: Retained<ProtocolObject<dyn MTLDevice>>,
        timeline: Arc<Timeline>,
    ) -> Self {
        let working_set = usize::try_from(device.recommendedMaxWorkingSetSize());
        let working_set = working_set.ok().filter(|bytes| *bytes > 0).unwrap_or(usize::MAX);
        let limits = Limits { max_buffer: device.maxBufferLength(), working_set };
        let (state, mapped) = (Mutex::default(), AtomicUsize::new(0));
        Self { device, limits, timeline, state, mapped }
    }

    /// A buffer of at least `bytes` bytes. One of [`Storage::Shared`] is not in use by the GPU.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], before anything is allocated where the limits already say no.
    pub(crate) fn allocate(
        self: &Arc<Self>,
        bytes: usize,
        storage: Storage,
    ) -> Result<MetalBuffer> {
        let no_memory = || Error::OutOfMemory { device: METAL, bytes };
        let length = bytes.checked_add(ROW_SLACK).and_then(|bytes| size_class(bytes, ALIGNMENT));
        let length = length.filter(|length| *length <= self.limits.max_buffer);
        let length = length.ok_or_else(no_memory)?;
        let mut state = self.lock();
        let (raw, last_use) = match state.take(length, storage, self.timeline.completed()) {
            Some(free) => {
                state.stats.pooled -= length;
                (free.raw, free.last_use)
            }
            None => {
                let mut raw = self.new_buffer(&mut state, length, storage);
                if raw.is_none() && state.stats.pooled > 0 {
                    state.forget_free();
                    raw = self.new_buffer(&mut state, length, storage);
                }
                (raw.ok_or_else(no_memory)?, 0)
            }
        };
        state.stats.in_use += length;
        state.stats.peak = state.stats.peak.max(state.stats.in_use);
        drop(state);
        let usable = length - ROW_SLACK;
        Ok(MetalBuffer::pooled(raw, storage, usable, last_use, Arc::clone(self)))
    }

    /// Whether `bytes` more may be resident.
    fn fits(&self, state: &State, bytes: usize) -> bool {
        // What is cut from a heap counts twice: heaps are small beside what the limit is about.
        let now = state.stats.in_use + state.stats.pooled + state.heaps.bytes() + self.mapped();
        now.checked_add(bytes).is_some_and(|bytes| bytes <= self.limits.working_set)
    }

    /// A buffer of Metal's: from a heap, or of the device, where the heaps have none.
    fn new_buffer(&self, state: &mut State, length: usize, storage: Storage) -> Option<RawBuffer> {
        if !self.fits(state, length) {
            return None;
        }
        if Heaps::take(length, storage) {
            let may_grow = self.fits(state, HEAP_BYTES);
            let cut = state.heaps.allocate(&self.device, length, may_grow);
            if cut.is_some() {
                return cut;
            }
        }
        autoreleasepool(|_| {
            self.device.newBufferWithLength_options(length, storage.options()).map(RawBuffer::new)
        })
    }

    /// Takes back what [`Pool::allocate`] gave.
    pub(crate) fn release(&self, raw: RawBuffer, storage: Storage, last_use: u64) {
        let length = raw.get().length();
        let mut state = self.lock();
        state.stats.in_use -= length;
        if state.stats.pooled + length <= POOL_LIMIT {
            state.stats.pooled += length;
            state.free.entry((length, storage)).or_default().push(Free { raw, last_use });
        }
    }

    /// Counts `bytes` of mapped files more.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the device cannot hold them beside what it has.
    pub(crate) fn map(&self, bytes: usize) -> Result<()> {
        if bytes > self.limits.max_buffer || !self.fits(&self.lock(), bytes) {
            return Err(Error::OutOfMemory { device: METAL, bytes });
        }
        self.mapped.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Counts `bytes` of mapped files less.
    pub(crate) fn unmap(&self, bytes: usize) {
        self.mapped.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    /// Bytes of mapped files in use.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A freed buffer of this length. The GPU runs in order, so private memory may still be in
    /// use by work submitted earlier; shared memory may not, since the host writes at once.
    fn take(&mut self, length: usize, storage: Storage, completed: u64) -> Option<Free> {
        let free = self.free.get_mut(&(length, storage))?;
        match storage {
            Storage::Private => free.pop(),
            Storage::Shared => {
                let idle = free.iter().position(|free| free.last_use <= completed)?;
                Some(free.swap_remove(idle))
            }
        }
    }

    fn forget_free(&mut self) {
        self.free.clear();
        self.heaps.trim();
        self.stats.pooled = 0;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("limits", &self.limits).field("stats", &self.stats()).finish()
    }
}
