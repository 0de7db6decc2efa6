//! Heaps: buffers side by side, and what is refused.

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBuffer, MTLCommandBuffer, MTLCommandQueue, MTLComputeCommandEncoder, MTLDevice,
    MTLHazardTrackingMode, MTLHeap, MTLHeapDescriptor, MTLResource, MTLResourceOptions,
    MTLStorageMode,
};

use crate::aborts::aborts;
use crate::metal::{Device, device, read};

const SHARED: MTLResourceOptions = MTLResourceOptions::StorageModeShared;

fn heap(
    device: &Device,
    size: usize,
    tracking: MTLHazardTrackingMode,
) -> Retained<ProtocolObject<dyn MTLHeap>> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(size);
    descriptor.setStorageMode(MTLStorageMode::Shared);
    descriptor.setHazardTrackingMode(tracking);
    device.newHeapWithDescriptor(&descriptor).unwrap()
}

#[test]
fn buffers_of_a_heap_lie_side_by_side() {
    let (device, _) = device();
    let needs = device.heapBufferSizeAndAlignWithLength_options(100, SHARED);
    assert!(needs.size > 100 && needs.size.is_multiple_of(needs.align));
    let heap = heap(&device, 2 * needs.size, MTLHazardTrackingMode::Tracked);
    let cut = || heap.newBufferWithLength_options(100, SHARED);
    let (first, second) = (cut().unwrap(), cut().unwrap());
    assert!(cut().is_none() && heap.maxAvailableSizeWithAlignment(needs.align) == 0);
    assert_eq!(first.hazardTrackingMode(), MTLHazardTrackingMode::Tracked);
    assert_eq!(read(&first), [0xff; 100]);
    unsafe { second.contents().cast::<u8>().write(5) };
    drop(first);
    assert_eq!(heap.usedSize(), needs.size);
    let again = cut().unwrap();
    assert_eq!((read(&again), read(&second)[0]), (vec![0xff; 100], 5));
}

#[test]
fn an_untracked_buffer_is_refused_by_encoders() {
    aborts("are not tracked", || {
        let (device, queue) = device();
        let heap = heap(&device, 1 << 16, MTLHazardTrackingMode::Default);
        let buffer = heap.newBufferWithLength_options(100, SHARED).unwrap();
        let encoder = queue.commandBuffer().unwrap().computeCommandEncoder().unwrap();
        unsafe { encoder.setBuffer_offset_atIndex(Some(&buffer), 0, 0) };
    });
}

#[test]
fn another_hazard_tracking_than_the_heaps_is_refused() {
    aborts("the hazard tracking differs", || {
        let (device, _) = device();
        let heap = heap(&device, 1 << 16, MTLHazardTrackingMode::Default);
        let options = SHARED | MTLResourceOptions::HazardTrackingModeTracked;
        heap.newBufferWithLength_options(100, options);
    });
}

#[test]
fn a_write_behind_a_buffer_of_a_heap_is_named() {
    aborts("behind buffer", || {
        let (device, _) = device();
        let heap = heap(&device, 1 << 16, MTLHazardTrackingMode::Tracked);
        let buffer = heap.newBufferWithLength_options(100, SHARED).unwrap();
        unsafe { buffer.contents().cast::<u8>().add(100).write(5) };
        drop(buffer);
    });
}
