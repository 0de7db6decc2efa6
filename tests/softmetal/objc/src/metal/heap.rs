//! Heaps: one block of memory that buffers are cut from. Each lies between guards, and holds 0xff bytes
//! at first, as new buffers do.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::buffer::{self, Buffer, GUARD};
use super::{Label, device};
use crate::control;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::SizeAndAlign;
use crate::runtime::{Id, Ref};

class!(HEAP, "SoftMTLHeap");
class!(DESCRIPTOR, "MTLHeapDescriptor");

/// The alignment of buffers in a heap; more than that of Apple's.
const ALIGN: usize = 1024;

/// What a buffer takes in a heap: its guard too.
pub(crate) fn size_and_align(length: usize) -> SizeAndAlign {
    SizeAndAlign { size: (length + GUARD).next_multiple_of(ALIGN), align: ALIGN }
}

/// `MTLHazardTrackingModeUntracked`.
pub(crate) const UNTRACKED: usize = 1;

/// `MTLHeapType`: placement heaps let the caller choose the offset.
const PLACEMENT: isize = 1;

/// The value of a heap descriptor.
#[derive(Default)]
struct Descriptor(Mutex<Settings>);

#[derive(Clone, Copy, Default)]
struct Settings {
    size: usize,
    storage: usize,
    cache: usize,
    tracking: usize,
    kind: isize,
}

impl Settings {
    fn options(self) -> usize {
        self.cache | self.storage << 4 | self.tracking << 8
    }
}

/// The value of a heap object. Its memory is a buffer of its own.
struct Heap {
    memory: Ref,
    settings: Settings,
    /// Offset to length of what is in use.
    used: Mutex<BTreeMap<usize, usize>>,
    label: Label,
}

/// A new heap, or nil where memory ran out.
pub(crate) fn new(descriptor: Id) -> Id {
    let settings = *descriptor.value::<Descriptor>().0.lock().unwrap();
    // The memory of every heap can be reached here; the buffers in it keep their mode.
    let Some(memory) = buffer::new(settings.size, 0) else { return Id::NIL };
    control().count("heaps", 1);
    Ref::new(&HEAP, Heap { memory, settings, used: Mutex::default(), label: Label::default() })
        .into_id()
}

/// Marks the part of a heap at `offset` as free.
pub(crate) fn give_back(heap: &Ref, offset: usize) {
    heap.value::<Heap>().used.lock().unwrap().remove(&offset);
}

impl Heap {
    fn gaps(&self) -> Vec<(usize, usize)> {
        let used = self.used.lock().unwrap();
        let mut start = 0;
        let mut gaps = Vec::new();
        for (offset, length) in used.iter() {
            gaps.push((start, offset.saturating_sub(start)));
            start = (offset + length).next_multiple_of(ALIGN);
        }
        gaps.push((start, self.settings.size.saturating_sub(start)));
        gaps
    }
}

fn cut(this: Id, length: usize, options: usize, offset: usize) -> Id {
    let heap = this.value::<Heap>();
    if options >> 4 & 0xf != heap.settings.storage {
        abort!("-[MTLHeap newBufferWithLength:options:]: the storage mode differs from the heap's");
    }
    // `MTLHazardTrackingModeDefault` is untracked for a heap, and the heap's for its buffers.
    let mode = |mode: usize| if mode == 0 { UNTRACKED } else { mode };
    let tracking =
        if options >> 8 & 0x3 == 0 { heap.settings.tracking } else { options >> 8 & 0x3 };
    if mode(tracking) != mode(heap.settings.tracking) {
        abort!(
            "-[MTLHeap newBufferWithLength:options:]: the hazard tracking differs from the heap's"
        );
    }
    let options = options & !(0x3 << 8) | mode(tracking) << 8;
    if control().take_allocation_failure() {
        return Id::NIL;
    }
    let size = size_and_align(length).size;
    heap.used.lock().unwrap().insert(offset, size);
    let start = heap.memory.value::<Buffer>().range(offset, size, "a buffer in a heap");
    control().count("heap_buffers", 1);
    let owner = this.required("the heap");
    buffer::in_heap(owner, start, offset, length, options).into_id()
}

methods! { install_heap for HEAP;
    - "newBufferWithLength:options:" (this, length: usize, options: usize) -> Id {
        let heap = this.value::<Heap>();
        if heap.settings.kind == PLACEMENT {
            abort!("-[MTLHeap newBufferWithLength:options:]: a placement heap wants an offset");
        }
        let size = size_and_align(length).size;
        match heap.gaps().into_iter().find(|(_, room)| *room >= size) {
            Some((offset, _)) => cut(this, length, options, offset),
            None => Id::NIL,
        }
    }
    - "newBufferWithLength:options:offset:" (this, length: usize, options: usize, offset: usize) -> Id {
        let heap = this.value::<Heap>();
        if heap.settings.kind != PLACEMENT || !offset.is_multiple_of(ALIGN) {
            abort!("-[MTLHeap newBufferWithLength:options:offset:]: wants a placement heap and an aligned offset");
        }
        cut(this, length, options, offset)
    }
    - "size" (this) -> usize { this.value::<Heap>().settings.size }
    - "usedSize" (this) -> usize { this.value::<Heap>().used.lock().unwrap().values().sum() }
    - "currentAllocatedSize" (this) -> usize { this.value::<Heap>().settings.size }
    - "allocatedSize" (this) -> usize { this.value::<Heap>().settings.size }
    - "maxAvailableSizeWithAlignment:" (this, _alignment: usize) -> usize {
        this.value::<Heap>().gaps().into_iter().map(|(_, room)| room).max().unwrap_or(0)
    }
    - "storageMode" (this) -> usize { this.value::<Heap>().settings.storage }
    - "cpuCacheMode" (this) -> usize { this.value::<Heap>().settings.cache }
    - "hazardTrackingMode" (this) -> usize { this.value::<Heap>().settings.tracking }
    - "resourceOptions" (this) -> usize { this.value::<Heap>().settings.options() }
    - "type" (this) -> isize { this.value::<Heap>().settings.kind }
    - "setPurgeableState:" (_this, _state: usize) -> usize { 2 }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Heap>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Heap>().label.set(text) }
}

methods! { install_descriptor for DESCRIPTOR;
    - "init" (this) -> Id {
        // The header's defaults: private storage, untracked hazards.
        let settings = Settings { storage: 2, tracking: 1, ..Settings::default() };
        this.init(Descriptor(Mutex::new(settings)))
    }
    - "size" (this) -> usize { this.value::<Descriptor>().0.lock().unwrap().size }
    - "setSize:" (this, size: usize) { this.value::<Descriptor>().0.lock().unwrap().size = size }
    - "storageMode" (this) -> usize { this.value::<Descriptor>().0.lock().unwrap().storage }
    - "setStorageMode:" (this, mode: usize) { this.value::<Descriptor>().0.lock().unwrap().storage = mode }
    - "cpuCacheMode" (this) -> usize { this.value::<Descriptor>().0.lock().unwrap().cache }
    - "setCpuCacheMode:" (this, mode: usize) { this.value::<Descriptor>().0.lock().unwrap().cache = mode }
    - "setHazardTrackingMode:" (this, mode: usize) { this.value::<Descriptor>().0.lock().unwrap().tracking = mode }
    - "setResourceOptions:" (this, options: usize) {
        let mut settings = this.value::<Descriptor>().0.lock().unwrap();
        (settings.cache, settings.storage, settings.tracking) = (options & 0xf, options >> 4 & 0xf, options >> 8 & 0x3);
    }
    - "setType:" (this, kind: isize) { this.value::<Descriptor>().0.lock().unwrap().kind = kind }
    - "type" (this) -> isize { this.value::<Descriptor>().0.lock().unwrap().kind }
}

pub(crate) fn install() {
    install_heap();
    install_descriptor();
}
