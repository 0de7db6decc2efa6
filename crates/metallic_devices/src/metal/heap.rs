//! Small private buffers, cut from heaps.
//!
//! A buffer of the device takes whole pages of 16 KiB and a call into the kernel of the system. What a
//! step of a model needs beside its weights and caches is often a few hundred bytes: cut from a heap
//! it takes these, and no such call. Larger buffers gain nothing from a heap, and would keep it from
//! being given back.

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLDevice, MTLHazardTrackingMode, MTLHeap, MTLHeapDescriptor, MTLResourceOptions,
    MTLStorageMode,
};

use super::buffer::{RawBuffer, Storage};

/// Bytes of the largest buffer that comes from a heap: a page.
const LARGEST: usize = 16 << 10;
/// Bytes of a heap.
pub(super) const HEAP_BYTES: usize = 1 << 20;

/// One `MTLHeap`.
struct Heap(Retained<ProtocolObject<dyn MTLHeap>>);

// SAFETY: Metal lets heaps be used from any thread, and cuts buffers from them one at a time.
unsafe impl Send for Heap {}

/// The heaps of one device.
#[derive(Default)]
pub(super) struct Heaps(Vec<Heap>);

impl Heaps {
    /// Whether such a buffer comes from a heap.
    pub(super) fn take(length: usize, storage: Storage) -> bool {
        storage == Storage::Private && length <= LARGEST
    }

    /// A private buffer of `length` bytes; `None` where there is no room in any heap, and none for
    /// another (`may_grow` says whether there may be), or Metal gives none.
    pub(super) fn allocate(
        &mut self,
        device: &ProtocolObject<dyn MTLDevice>,
        length: usize,
        may_grow: bool,
    ) -> Option<RawBuffer> {
        autoreleasepool(|_| {
            let needs = device.heapBufferSizeAndAlignWithLength_options(length, options());
            let room =
                |heap: &&Heap| heap.0.maxAvailableSizeWithAlignment(needs.align) >= needs.size;
            if !self.0.iter().any(|heap| room(&heap)) {
                self.0.push(may_grow.then(|| Heap::new(device)).flatten()?);
            }
            let heap = self.0.iter().find(room)?;
            heap.0.newBufferWithLength_options(length, options()).map(RawBuffer::new)
        })
    }

    /// Gives heaps back of which nothing is in use.
    pub(super) fn trim(&mut self) {
        autoreleasepool(|_| self.0.retain(|heap| heap.0.usedSize() > 0));
    }

    /// Bytes of all heaps.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() * HEAP_BYTES
    }
}

impl Heap {
    fn new(device: &ProtocolObject<dyn MTLDevice>) -> Option<Self> {
        let descriptor = MTLHeapDescriptor::new();
        descriptor.setSize(HEAP_BYTES);
        descriptor.setStorageMode(MTLStorageMode::Private);
        // Unlike buffers of a device, what lies in a heap is not tracked unless told so.
        descriptor.setHazardTrackingMode(MTLHazardTrackingMode::Tracked);
        device.newHeapWithDescriptor(&descriptor).map(Self)
    }
}

/// As the heap is made.
fn options() -> MTLResourceOptions {
    MTLResourceOptions::StorageModePrivate | MTLResourceOptions::HazardTrackingModeTracked
}
