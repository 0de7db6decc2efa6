//! Pinned host memory through which bytes travel, so that the copy engine works while the host
//! fills the next piece.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaEvent;
use cudarc::driver::result::{free_host, malloc_host, memcpy_dtoh_async, memcpy_htod_async};
use cudarc::driver::sys::CUdeviceptr;
use metallic::Result;

use super::error::Doing;
use super::stream::Stream;

/// Bytes of a piece, and how many pieces are on their way at once.
const LARGE: (usize, usize) = (8 << 20, 3);
/// The same for short writes: a decode step has a handful.
const SMALL: (usize, usize) = (64 << 10, 16);

/// The two rings of one device.
#[derive(Debug)]
pub(crate) struct Staging {
    stream: Arc<Stream>,
    small: Mutex<Ring>,
    large: Mutex<Ring>,
    /// Small slots that hold what somebody reads later, while nobody does.
    later: Arc<Mutex<Vec<Slot>>>,
}

/// Bytes that are copied into a slot of their own, which goes back when they were read.
#[derive(Debug)]
pub(crate) struct LaterRead {
    /// Until this is dropped.
    slot: Option<Slot>,
    bytes: usize,
    home: Arc<Mutex<Vec<Slot>>>,
}

impl LaterRead {
    /// Waits for the copy.
    ///
    /// # Errors
    /// When the work before it failed.
    pub(crate) fn wait(&self) -> Result<Vec<u8>> {
        let Some(slot) = &self.slot else { return Ok(Vec::new()) };
        slot.wait()?;
        // SAFETY: the slot is at least as large, and its copy is done.
        Ok(unsafe { std::slice::from_raw_parts(slot.start, self.bytes) }.to_vec())
    }
}

impl Drop for LaterRead {
    fn drop(&mut self) {
        // Whoever has it next waits for its copy first.
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        home.extend(self.slot.take());
    }
}

#[derive(Debug)]
struct Ring {
    slot_bytes: usize,
    slots: Vec<Slot>,
    wanted: usize,
    next: usize,
}

/// A piece of pinned memory, and the end of its last copy.
#[derive(Debug)]
struct Slot {
    start: *mut u8,
    done: CudaEvent,
    stream: Arc<Stream>,
}

// SAFETY: a slot is plain memory, reached through its ring's lock or by the one who reads it later alone.
unsafe impl Send for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.stream.synchronize().is_ok() {
            // SAFETY: made by `malloc_host`, freed once, after all copies.
            let _ = unsafe { free_host(self.start.cast()) };
        }
    }
}

impl Slot {
    fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self> {
        stream.bind()?;
        // SAFETY: a plain allocation, freed with its slot.
        let start = unsafe { malloc_host(bytes, 0) }
            .doing(stream.id(), "pin host memory", || format!("{bytes} bytes"))?
            .cast();
        Ok(Self { start, done: stream.event(false)?, stream: Arc::clone(stream) })
    }

    /// Waits for its last copy.
    fn wait(&self) -> Result<()> {
        self.done.synchronize().doing(self.stream.id(), "wait for a copy", String::new)
    }
}

impl Ring {
    fn new((slot_bytes, wanted): (usize, usize)) -> Mutex<Self> {
        Mutex::new(Self { slot_bytes, slots: Vec::new(), wanted, next: 0 })
    }

    /// The next slot, once its last copy is done.
    fn slot(&mut self, stream: &Arc<Stream>) -> Result<&mut Slot> {
        if self.slots.len() < self.wanted {
            self.slots.push(Slot::new(stream, self.slot_bytes)?);
            let last = self.slots.len() - 1;
            return Ok(&mut self.slots[last]);
        }
        let at = self.next % self.slots.len();
        self.next = at + 1;
        let slot = &mut self.slots[at];
        slot.wait()?;
        Ok(slot)
    }
}

impl Staging {
    /// No memory yet; it is pinned on first use.
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        let (small, large) = (Ring::new(SMALL), Ring::new(LARGE));
        Self { stream, small, large, later: Arc::default() }
    }

    /// Puts a copy of `bytes` bytes from the device on the stream, for somebody who waits later; `None`
    /// for more than a small slot holds.
    ///
    /// # Safety
    /// `from .. from + bytes` lies in device memory that is live until the copy is done.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) unsafe fn read_later(
        &self,
        from: CUdeviceptr,
        bytes: usize,
    ) -> Result<Option<LaterRead>> {
        if bytes > SMALL.0 {
            return Ok(None);
        }
        self.stream.bind()?;
        let kept = self.later.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let slot = match kept {
            Some(slot) => slot,
            None => Slot::new(&self.stream, SMALL.0)?,
        };
        slot.wait()?;
        // SAFETY: the slot is as large, and its last copy is done.
        let pinned = unsafe { std::slice::from_raw_parts_mut(slot.start, bytes) };
        // SAFETY: the caller's promise for the source; the target stays with the slot, which is freed or
        // used again after its event was waited for.
        unsafe { memcpy_dtoh_async(pinned, from, self.stream.raw()) }.doing(
            self.stream.id(),
            "read",
            || format!("{bytes} bytes"),
        )?;
        self.stream.record(&slot.done)?;
        Ok(Some(LaterRead { slot: Some(slot), bytes, home: Arc::clone(&self.later) }))
    }

    /// Puts a copy of `bytes` to the device on the stream; `bytes` may change afterwards.
    ///
    /// # Safety
    /// `to .. to + bytes.len()` lies in live device memory.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) unsafe fn write(&self, to: CUdeviceptr, bytes: &[u8]) -> Result<()> {
        self.stream.bind()?;
        let ring = if bytes.len() <= SMALL.0 { &self.small } else { &self.large };
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = to;
        for piece in bytes.chunks(ring.slot_bytes) {
            let slot = ring.slot(&self.stream)?;
            // SAFETY: the slot is as large as a piece, and its last copy is done.
            let pinned = unsafe { std::slice::from_raw_parts_mut(slot.start, piece.len()) };
            pinned.copy_from_slice(piece);
            // SAFETY: the caller's promise for the target; the source stays as it is until the
            // event below was waited for.
            unsafe { memcpy_htod_async(at, pinned, self.stream.raw()) }.doing(
                self.stream.id(),
                "write",
                || format!("{} bytes", piece.len()),
            )?;
            self.stream.record(&slot.done)?;
            at += piece.len() as CUdeviceptr;
        }
        Ok(())
    }

    /// Copies from the device after all earlier work, and waits for it.
    ///
    /// # Safety
    /// `from .. from + bytes.len()` lies in live device memory.
    ///
    /// # Errors
    /// When the driver refuses, or earlier work failed.
    pub(crate) unsafe fn read(&self, from: CUdeviceptr, bytes: &mut [u8]) -> Result<()> {
        self.stream.bind()?;
        let ring = if bytes.len() <= SMALL.0 { &self.small } else { &self.large };
        let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = from;
        for piece in bytes.chunks_mut(ring.slot_bytes) {
            let slot = ring.slot(&self.stream)?;
            // SAFETY: the slot is as large as a piece, and its last copy is done.
            let pinned = unsafe { std::slice::from_raw_parts_mut(slot.start, piece.len()) };
            // SAFETY: the caller's promise for the source; the target is waited for below.
            unsafe { memcpy_dtoh_async(pinned, at, self.stream.raw()) }.doing(
                self.stream.id(),
                "read",
                || format!("{} bytes", piece.len()),
            )?;
            self.stream.synchronize()?;
            piece.copy_from_slice(pinned);
            at += piece.len() as CUdeviceptr;
        }
        Ok(())
    }
}
