//! The one device, shaped like an M2: its limits are those of family Apple8.

use std::ffi::c_void;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicIsize, Ordering};

use super::{
    buffer, compile_options, counters, descriptors, event, heap, library, pipeline, queue,
    residency,
};
use crate::control;
use crate::foundation::{array, data, string};
use crate::runtime::class::{class, methods};
use crate::runtime::encode::{Size, SizeAndAlign};
use crate::runtime::{BlockPtr, Id, Ref};

class!(DEVICE, "SoftMTLDevice");
class!(ARCHITECTURE, "MTLArchitecture");

/// Bytes; the real device of this memory size reports about as much.
pub(crate) const MAX_BUFFER_LENGTH: usize = 9 << 30;
const WORKING_SET: u64 = 12 << 30;

/// `MTLGPUFamily`: Apple1 is 1001; Apple8 covers everything before it. Common1 to 3 are 3001 to 3003,
/// Mac2 is 2002, Metal3 is 5001.
const FAMILIES: &[isize] =
    &[1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 2001, 2002, 3001, 3002, 3003, 5001];

/// The device has no value of its own.
struct Device;

/// The name of the architecture, as `MTLArchitecture` gives it.
struct Architecture;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

/// Adds to the bytes that buffers take.
pub(crate) fn allocated(bytes: isize) {
    ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
}

/// The device object; there is one for the process.
pub(crate) fn shared() -> Ref {
    static DEVICE_OBJECT: OnceLock<Ref> = OnceLock::new();
    DEVICE_OBJECT.get_or_init(|| Ref::new(&DEVICE, Device)).clone()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn MTLCreateSystemDefaultDevice() -> Id {
    crate::runtime::class::ensure_installed();
    shared().into_id()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn MTLCopyAllDevices() -> Id {
    crate::runtime::class::ensure_installed();
    array::make(vec![shared()]).into_id()
}

fn compile(source: Id, options: Id) -> Result<Ref, Ref> {
    library::compile(&string::read(source).unwrap_or_default(), &compile_options::read(options))
}

fn pipeline_of(descriptor: Id) -> Result<Ref, Ref> {
    let (function, label) = descriptors::function(descriptor);
    pipeline::new(function, label)
}

methods! { install_device for DEVICE;
    - "name" (_this) -> Id { string::make("Apple M2 (softmetal)").autorelease() }
    - "registryID" (_this) -> u64 { 0x1_0000_0001 }
    - "architecture" (_this) -> Id { Ref::new(&ARCHITECTURE, Architecture).autorelease() }
    - "isLowPower" (_this) -> u8 { 0 }
    - "isHeadless" (_this) -> u8 { 0 }
    - "isRemovable" (_this) -> u8 { 0 }
    - "location" (_this) -> usize { 0 }
    - "hasUnifiedMemory" (_this) -> u8 { u8::from(control().unified_memory()) }
    - "recommendedMaxWorkingSetSize" (_this) -> u64 { WORKING_SET }
    - "currentAllocatedSize" (_this) -> usize { ALLOCATED.load(Ordering::Relaxed).max(0) as usize }
    - "maxBufferLength" (_this) -> usize { MAX_BUFFER_LENGTH }
    - "maxThreadgroupMemoryLength" (_this) -> usize { 32768 }
    - "maxThreadsPerThreadgroup" (_this) -> Size { Size { width: 1024, height: 1024, depth: 1024 } }
    - "maxTransferRate" (_this) -> u64 { 0 }
    - "supportsFamily:" (_this, family: isize) -> u8 { u8::from(FAMILIES.contains(&family)) }
    - "argumentBuffersSupport" (_this) -> usize { 1 }
    - "counterSets" (_this) -> Id { counters::sets() }
    - "supportsCounterSampling:" (_this, point: usize) -> u8 {
        u8::from(control().counter_sampling() as usize == point)
    }
    - "newCounterSampleBufferWithDescriptor:error:" (_this, descriptor: Id, error: *mut Id) -> Id {
        library::answer(counters::new(descriptor), error)
    }
    - "sampleTimestamps:gpuTimestamp:" (_this, cpu: *mut u64, gpu: *mut u64) {
        counters::both_clocks(cpu, gpu);
    }
    - "supportsDynamicLibraries" (_this) -> u8 { 0 }
    - "supportsFunctionPointers" (_this) -> u8 { 0 }
    - "supportsRaytracing" (_this) -> u8 { 0 }
    - "newCommandQueue" (_this) -> Id { queue::new().into_id() }
    - "newCommandQueueWithMaxCommandBufferCount:" (_this, _count: usize) -> Id { queue::new().into_id() }
    - "newCommandQueueWithDescriptor:" (_this, _descriptor: Id) -> Id { queue::new().into_id() }
    - "newBufferWithLength:options:" (_this, length: usize, options: usize) -> Id {
        buffer::new(length, options).map_or(Id::NIL, Ref::into_id)
    }
    - "newBufferWithBytes:length:options:" (_this, bytes: *const c_void, length: usize, options: usize) -> Id {
        let Some(made) = buffer::new(length, options) else { return Id::NIL };
        let target = made.value::<buffer::Buffer>().start();
        // SAFETY: the caller passes `length` bytes, and the new buffer has as many.
        unsafe { std::ptr::copy_nonoverlapping(bytes.cast::<u8>(), target, length) };
        made.into_id()
    }
    - "newBufferWithBytesNoCopy:length:options:deallocator:" (
        _this, bytes: *mut c_void, length: usize, options: usize, deallocator: BlockPtr,
    ) -> Id {
        if control().take_allocation_failure() {
            return Id::NIL;
        }
        buffer::over(bytes.cast(), length, options, deallocator.copied()).into_id()
    }
    - "heapBufferSizeAndAlignWithLength:options:" (_this, length: usize, _options: usize) -> SizeAndAlign {
        heap::size_and_align(length)
    }
    - "newHeapWithDescriptor:" (_this, descriptor: Id) -> Id { heap::new(descriptor) }
    - "newEvent" (_this) -> Id { event::new().into_id() }
    - "newSharedEvent" (_this) -> Id { event::new().into_id() }
    - "newFence" (_this) -> Id { residency::new_fence().into_id() }
    - "newResidencySetWithDescriptor:error:" (_this, _descriptor: Id, _error: *mut Id) -> Id {
        residency::new_set().into_id()
    }
    - "newDefaultLibrary" (_this) -> Id { Id::NIL }
    - "newLibraryWithData:error:" (_this, data: Id, error: *mut Id) -> Id {
        library::answer(library::load(data::read(&data)), error)
    }
    - "newLibraryWithSource:options:error:" (_this, source: Id, options: Id, error: *mut Id) -> Id {
        library::answer(compile(source, options), error)
    }
    - "newLibraryWithSource:options:completionHandler:" (_this, source: Id, options: Id, block: BlockPtr) {
        library::answer_block(compile(source, options), block);
    }
    - "newComputePipelineStateWithFunction:error:" (_this, function: Id, error: *mut Id) -> Id {
        library::answer(pipeline::new(function, Id::NIL), error)
    }
    - "newComputePipelineStateWithFunction:completionHandler:" (_this, function: Id, block: BlockPtr) {
        library::answer_block(pipeline::new(function, Id::NIL), block);
    }
    - "newComputePipelineStateWithFunction:options:reflection:error:" (
        _this, function: Id, _options: usize, _reflection: *mut Id, error: *mut Id,
    ) -> Id {
        library::answer(pipeline::new(function, Id::NIL), error)
    }
    - "newComputePipelineStateWithDescriptor:options:reflection:error:" (
        _this, descriptor: Id, _options: usize, _reflection: *mut Id, error: *mut Id,
    ) -> Id {
        library::answer(pipeline_of(descriptor), error)
    }
}

methods! { install_architecture for ARCHITECTURE;
    - "name" (_this) -> Id { string::make("applegpu_g14g").autorelease() }
}

pub(crate) fn install() {
    install_device();
    install_architecture();
}
