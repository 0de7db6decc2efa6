//! Buffers. New ones hold 0xff bytes, so that what nobody wrote shows as NaN; a guard behind each shows
//! writes past its end. The contents of a private buffer cannot be had.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;

use super::{Label, device};
use crate::control;
use crate::runtime::abort::abort;
use crate::runtime::block::OwnedBlock;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Range;
use crate::runtime::{Id, Ref};

class!(pub(crate) BUFFER, "SoftMTLBuffer");

/// Bytes behind each buffer that nothing may change.
pub(crate) const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;
/// The alignment of new buffers: a page of Apple's chips.
const PAGE: usize = 16384;

/// `MTLStorageMode`, bits 4 to 7 of resource options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Storage {
    Shared,
    Managed,
    Private,
}

impl Storage {
    pub(crate) fn of(options: usize) -> Storage {
        match options >> 4 & 0xf {
            0 => Storage::Shared,
            1 => Storage::Managed,
            2 => Storage::Private,
            mode => abort!("buffers cannot have storage mode {mode}"),
        }
    }
}

enum Memory {
    /// Allocated here, with a guard behind it.
    Owned { layout: Layout },
    /// The caller's, given back through a block.
    Borrowed { deallocator: Option<OwnedBlock> },
    /// A part of a heap, which stays alive.
    InHeap { heap: Ref, offset: usize },
}

/// The value of a buffer object.
pub(crate) struct Buffer {
    start: *mut u8,
    length: usize,
    options: usize,
    memory: Memory,
    pub(crate) label: Label,
}

// SAFETY: the memory belongs to the buffer; who reads and writes it when is the program's business, as
// on a GPU.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

/// A new buffer object, or none where a failure was ordered or memory ran out.
pub(crate) fn new(length: usize, options: usize) -> Option<Ref> {
    if length == 0 {
        abort!("-[MTLDevice newBufferWithLength:options:]: the length must not be 0");
    }
    if length > device::MAX_BUFFER_LENGTH {
        abort!(
            "-[MTLDevice newBufferWithLength:options:]: {length} bytes are over maxBufferLength"
        );
    }
    if control().take_allocation_failure() {
        return None;
    }
    Storage::of(options);
    let layout = Layout::from_size_align(length + GUARD, PAGE).ok()?;
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: `length + GUARD` bytes were allocated.
    unsafe { fill_new(start, length) };
    control().count("buffers", 1);
    control().count("buffer_bytes", length as u64);
    device::allocated(length as isize);
    let memory = Memory::Owned { layout };
    Some(Ref::new(&BUFFER, Buffer { start, length, options, memory, label: Label::default() }))
}

/// Fills a new buffer, and the guard behind it.
///
/// # Safety
/// `length + GUARD` bytes begin at `start`, which nobody else uses.
unsafe fn fill_new(start: *mut u8, length: usize) {
    let fill = if control().poison_buffers() { 0xff } else { 0 };
    // SAFETY: as the caller promises.
    unsafe {
        start.write_bytes(fill, length);
        start.add(length).write_bytes(GUARD_BYTE, GUARD);
    }
}

/// A buffer over the caller's pages.
pub(crate) fn over(
    start: *mut u8,
    length: usize,
    options: usize,
    deallocator: Option<OwnedBlock>,
) -> Ref {
    let page = page_size();
    if !start.addr().is_multiple_of(page) || !length.is_multiple_of(page) || length == 0 {
        abort!(
            "-[MTLDevice newBufferWithBytesNoCopy:…]: pointer {start:p} and length {length} must be multiples of the page size {page}"
        );
    }
    if Storage::of(options) == Storage::Private {
        abort!("-[MTLDevice newBufferWithBytesNoCopy:…]: the storage mode must not be private");
    }
    let memory = Memory::Borrowed { deallocator };
    Ref::new(&BUFFER, Buffer { start, length, options, memory, label: Label::default() })
}

fn page_size() -> usize {
    // The smallest page of the systems the tests run on; Apple's chips have 16384.
    4096
}

/// A buffer inside a heap, of which `length + GUARD` bytes are its own.
pub(crate) fn in_heap(
    heap: Ref,
    start: *mut u8,
    offset: usize,
    length: usize,
    options: usize,
) -> Ref {
    // SAFETY: the heap keeps these bytes for this buffer alone.
    unsafe { fill_new(start, length) };
    let memory = Memory::InHeap { heap, offset };
    Ref::new(&BUFFER, Buffer { start, length, options, memory, label: Label::default() })
}

impl Buffer {
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The bytes from `offset`; ends the process when the range leaves the buffer.
    pub(crate) fn range(&self, offset: usize, length: usize, what: &str) -> *mut u8 {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            abort!(
                "{what}: {length} bytes at offset {offset} leave buffer \"{}\" of {} bytes",
                self.label.text(),
                self.length
            );
        }
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.start.add(offset) }
    }

    /// Ends the process for a buffer whose hazards Metal does not track. The backend orders its work
    /// by nothing else.
    pub(crate) fn check_tracked(&self, what: &str) {
        if self.options >> 8 & 0x3 == super::heap::UNTRACKED {
            abort!("{what}: the hazards of buffer \"{}\" are not tracked", self.label.text());
        }
    }

    /// Ends the process if something wrote behind the buffer.
    pub(crate) fn check_guard(&self, after: &str) {
        if !matches!(self.memory, Memory::Borrowed { .. }) {
            // SAFETY: the guard was allocated with the buffer.
            let guard = unsafe { std::slice::from_raw_parts(self.start.add(self.length), GUARD) };
            if let Some(at) = guard.iter().position(|byte| *byte != GUARD_BYTE) {
                abort!(
                    "{after} wrote {at} bytes behind buffer \"{}\" of {} bytes",
                    self.label.text(),
                    self.length
                );
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.check_guard("something");
        match &self.memory {
            Memory::Owned { layout } => {
                device::allocated(-(self.length as isize));
                // SAFETY: allocated with this layout in `new`.
                unsafe { dealloc(self.start, *layout) }
            }
            Memory::Borrowed { deallocator: Some(block) } => {
                block.call_with_memory(self.start.cast(), self.length);
            }
            Memory::Borrowed { deallocator: None } => {}
            Memory::InHeap { heap, offset } => super::heap::give_back(heap, *offset),
        }
    }
}

methods! { install for BUFFER;
    - "length" (this) -> usize { this.value::<Buffer>().length }
    - "contents" (this) -> *mut c_void {
        let buffer = this.value::<Buffer>();
        if Storage::of(buffer.options) == Storage::Private {
            abort!("-[MTLBuffer contents]: buffer \"{}\" has storage mode private", buffer.label.text());
        }
        buffer.start.cast()
    }
    - "didModifyRange:" (this, range: Range) {
        let buffer = this.value::<Buffer>();
        if Storage::of(buffer.options) != Storage::Managed {
            abort!("-[MTLBuffer didModifyRange:]: the storage mode is not managed");
        }
        buffer.range(range.location, range.length, "-[MTLBuffer didModifyRange:]");
    }
    - "gpuAddress" (this) -> u64 { this.value::<Buffer>().start.addr() as u64 }
    - "allocatedSize" (this) -> usize { this.value::<Buffer>().length.next_multiple_of(PAGE) }
    - "storageMode" (this) -> usize { this.value::<Buffer>().options >> 4 & 0xf }
    - "cpuCacheMode" (this) -> usize { this.value::<Buffer>().options & 0xf }
    - "hazardTrackingMode" (this) -> usize { this.value::<Buffer>().options >> 8 & 0x3 }
    - "resourceOptions" (this) -> usize { this.value::<Buffer>().options }
    - "setPurgeableState:" (_this, _state: usize) -> usize { 2 }
    - "heap" (this) -> Id {
        match &this.value::<Buffer>().memory {
            Memory::InHeap { heap, .. } => heap.clone().autorelease(),
            _ => Id::NIL,
        }
    }
    - "heapOffset" (this) -> usize {
        match this.value::<Buffer>().memory {
            Memory::InHeap { offset, .. } => offset,
            _ => 0,
        }
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Buffer>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Buffer>().label.set(text) }
    - "addDebugMarker:range:" (_this, _marker: Id, _range: Range) {}
    - "removeAllDebugMarkers" (_this) {}
}
