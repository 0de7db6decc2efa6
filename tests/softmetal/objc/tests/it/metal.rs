//! Device, buffers, queues, command buffers and encoders.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block2::RcBlock;
use objc2::msg_send;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLCreateSystemDefaultDevice, MTLDevice, MTLGPUFamily, MTLResourceOptions,
    MTLSharedEvent,
};

use crate::aborts::aborts;

pub(crate) type Device = Retained<ProtocolObject<dyn MTLDevice>>;
pub(crate) type Queue = Retained<ProtocolObject<dyn MTLCommandQueue>>;
pub(crate) type Buffer = Retained<ProtocolObject<dyn MTLBuffer>>;

pub(crate) fn device() -> (Device, Queue) {
    let device = MTLCreateSystemDefaultDevice().unwrap();
    let queue = device.newCommandQueue().unwrap();
    (device, queue)
}

pub(crate) fn buffer(device: &Device, bytes: &[u8]) -> Buffer {
    let pointer = NonNull::from(bytes).cast();
    unsafe {
        device.newBufferWithBytes_length_options(
            pointer,
            bytes.len(),
            MTLResourceOptions::StorageModeShared,
        )
    }
    .unwrap()
}

pub(crate) fn read(buffer: &Buffer) -> Vec<u8> {
    unsafe { std::slice::from_raw_parts(buffer.contents().cast::<u8>().as_ptr(), buffer.length()) }
        .to_vec()
}

#[test]
fn the_device_has_limits() {
    let (device, _) = device();
    assert!(device.name().to_string().starts_with("Apple"));
    assert!(device.hasUnifiedMemory());
    assert!(
        device.supportsFamily(MTLGPUFamily::Apple7) && !device.supportsFamily(MTLGPUFamily::Apple9)
    );
    assert_eq!(device.maxThreadgroupMemoryLength(), 32768);
    assert!(device.maxBufferLength() > 1 << 30 && device.recommendedMaxWorkingSetSize() > 1 << 30);
    assert_eq!(device.maxThreadsPerThreadgroup().width, 1024);
}

#[test]
fn new_buffers_are_poisoned() {
    let (device, _) = device();
    let made =
        device.newBufferWithLength_options(8, MTLResourceOptions::StorageModeShared).unwrap();
    assert_eq!(read(&made), [0xff; 8]);
}

#[test]
fn work_runs_late_and_in_order() {
    let (device, queue) = device();
    softmetal_objc::control().set_commit_delay_us(1_000_000);
    let (from, to) = (buffer(&device, &[7; 16]), buffer(&device, &[1; 16]));
    autoreleasepool(|_| unsafe {
        let commands = queue.commandBuffer().unwrap();
        let blit = commands.blitCommandEncoder().unwrap();
        blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from, 0, &to, 0, 8);
        blit.fillBuffer_range_value(&to, NSRange::new(4, 4), 9);
        blit.endEncoding();
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
            tell.store(true, Ordering::SeqCst)
        });
        commands.addCompletedHandler(RcBlock::as_ptr(&block));
        commands.commit();
        assert_eq!(read(&to), [1; 16], "a read before the wait sees old data");
        commands.waitUntilCompleted();
        assert_eq!(commands.status(), MTLCommandBufferStatus::Completed);
        let (start, end): (f64, f64) =
            (msg_send![&*commands, GPUStartTime], msg_send![&*commands, GPUEndTime]);
        assert!(commands.error().is_none() && end >= start && start > 0.0);
        assert!(told.load(Ordering::SeqCst));
    });
    assert_eq!(read(&to), [7, 7, 7, 7, 9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn events_order_two_queues() {
    let (device, first) = device();
    let second = device.newCommandQueue().unwrap();
    let event = device.newSharedEvent().unwrap();
    let target = buffer(&device, &[0; 4]);
    autoreleasepool(|_| {
        let late = second.commandBuffer().unwrap();
        late.encodeWaitForEvent_value(ProtocolObject::from_ref(&*event), 1);
        let blit = late.blitCommandEncoder().unwrap();
        blit.fillBuffer_range_value(&target, NSRange::new(0, 4), 2);
        blit.endEncoding();
        late.commit();
        let early = first.commandBuffer().unwrap();
        let blit = early.blitCommandEncoder().unwrap();
        blit.fillBuffer_range_value(&target, NSRange::new(0, 4), 1);
        blit.endEncoding();
        early.encodeSignalEvent_value(ProtocolObject::from_ref(&*event), 1);
        early.commit();
        late.waitUntilCompleted();
    });
    assert_eq!(read(&target), [2; 4]);
    assert_eq!(event.signaledValue(), 1);
}

#[test]
fn a_source_that_does_not_compile_gives_its_error() {
    let (device, _) = device();
    softmetal_objc::control().fail_next_library("broken on purpose");
    let result =
        device.newLibraryWithSource_options_error(&NSString::from_str("kernel void f() {}"), None);
    assert!(result.unwrap_err().localizedDescription().to_string().contains("broken on purpose"));
}

#[test]
fn a_private_buffer_has_no_contents() {
    aborts("has storage mode private", || {
        let (device, _) = device();
        device
            .newBufferWithLength_options(8, MTLResourceOptions::StorageModePrivate)
            .unwrap()
            .contents();
    });
}

#[test]
fn a_command_buffer_is_committed_once() {
    aborts("already committed", || {
        let commands = device().1.commandBuffer().unwrap();
        commands.commit();
        commands.commit();
    });
}

#[test]
fn one_encoder_at_a_time() {
    aborts("A command encoder is already encoding", || {
        let commands = device().1.commandBuffer().unwrap();
        let _open = commands.blitCommandEncoder().unwrap();
        commands.computeCommandEncoder();
    });
}

#[test]
fn an_open_encoder_forbids_commit() {
    aborts("uncommitted encoder", || {
        let commands = device().1.commandBuffer().unwrap();
        let _open = commands.blitCommandEncoder().unwrap();
        commands.commit();
    });
}

#[test]
fn a_committed_buffer_takes_no_encoder() {
    aborts("was committed already", || {
        let commands = device().1.commandBuffer().unwrap();
        commands.commit();
        commands.computeCommandEncoder();
    });
}

#[test]
fn an_encoder_must_end() {
    aborts("released without endEncoding", || {
        let (_, queue) = device();
        autoreleasepool(|_| drop(queue.commandBuffer().unwrap().blitCommandEncoder()));
    });
}

#[test]
fn a_wait_before_commit_is_named() {
    aborts("was not committed", || device().1.commandBuffer().unwrap().waitUntilCompleted());
}

#[test]
fn a_copy_past_the_end_is_named() {
    aborts("leave buffer", || {
        let (device, queue) = device();
        let small = buffer(&device, &[0; 8]);
        let large = buffer(&device, &[0; 16]);
        let blit = queue.commandBuffer().unwrap().blitCommandEncoder().unwrap();
        unsafe {
            blit.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                &large, 0, &small, 0, 16,
            )
        };
    });
}
