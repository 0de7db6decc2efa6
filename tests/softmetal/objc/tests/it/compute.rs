//! Kernels: libraries, pipelines, dispatches, and what the encoder refuses.

use std::ptr::NonNull;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue, MTLComputeCommandEncoder,
    MTLComputePipelineState, MTLDataType, MTLDevice, MTLDispatchType, MTLFunctionConstantValues,
    MTLLibrary, MTLSize,
};

use crate::aborts::aborts;
use crate::metal::{Buffer, Device, buffer, device, read};

const SOURCE: &str = "
#include <metal_stdlib>
using namespace metal;
constant uint FACTOR [[function_constant(0)]];
kernel void scale(device uint* x [[buffer(0)]], constant uint& add [[buffer(1)]], uint i [[thread_position_in_grid]]) {
    x[i] = x[i] * FACTOR + add;
}
";

fn pipeline(device: &Device, factor: u32) -> Retained<ProtocolObject<dyn MTLComputePipelineState>> {
    let library =
        device.newLibraryWithSource_options_error(&NSString::from_str(SOURCE), None).unwrap();
    let constants = MTLFunctionConstantValues::new();
    let value = NonNull::from(&factor).cast();
    unsafe { constants.setConstantValue_type_atIndex(value, MTLDataType::UInt, 0) };
    let name = NSString::from_str("scale");
    let function = library.newFunctionWithName_constantValues_error(&name, &constants).unwrap();
    device.newComputePipelineStateWithFunction_error(&function).unwrap()
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|n| n.to_le_bytes()).collect()
}

fn size(width: usize) -> MTLSize {
    MTLSize { width, height: 1, depth: 1 }
}

/// Binds `x` and the number 5, and dispatches one thread an element.
fn encode(
    encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>,
    state: &ProtocolObject<dyn MTLComputePipelineState>,
    x: &Buffer,
    offset: usize,
    threads: usize,
) {
    encoder.setComputePipelineState(state);
    let add = 5u32;
    unsafe {
        encoder.setBuffer_offset_atIndex(Some(x), offset, 0);
        encoder.setBytes_length_atIndex(NonNull::from(&add).cast(), 4, 1);
    }
    encoder.dispatchThreads_threadsPerThreadgroup(size(threads), size(threads.min(32)));
}

#[test]
fn a_kernel_runs_with_constants_bytes_and_an_offset() {
    let (device, queue) = device();
    let state = pipeline(&device, 3);
    assert_eq!((state.threadExecutionWidth(), state.maxTotalThreadsPerThreadgroup()), (32, 1024));
    let x = buffer(&device, &numbers(&[1, 2, 3, 4]));
    autoreleasepool(|_| {
        let commands = queue.commandBuffer().unwrap();
        let encoder = commands.computeCommandEncoder().unwrap();
        encode(&encoder, &state, &x, 8, 2);
        encoder.endEncoding();
        commands.commit();
        commands.waitUntilCompleted();
    });
    assert_eq!(read(&x), numbers(&[1, 2, 14, 17]));
}

#[test]
fn concurrent_dispatches_have_no_order_without_a_barrier() {
    let (device, queue) = device();
    let (triple, double) = (pipeline(&device, 3), pipeline(&device, 2));
    let x = buffer(&device, &numbers(&[1]));
    autoreleasepool(|_| {
        let commands = queue.commandBuffer().unwrap();
        let encoder =
            commands.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent).unwrap();
        encode(&encoder, &triple, &x, 0, 1);
        encode(&encoder, &double, &x, 0, 1);
        encoder.endEncoding();
        commands.commit();
        commands.waitUntilCompleted();
    });
    // (1 · 2 + 5) · 3 + 5: the second ran first.
    assert_eq!(read(&x), numbers(&[26]));
}

#[test]
fn a_source_with_an_error_says_where() {
    let (device, _) = device();
    let result = device.newLibraryWithSource_options_error(
        &NSString::from_str("kernel void f() { nonsense; }"),
        None,
    );
    let text = result.unwrap_err().localizedDescription().to_string();
    assert!(text.contains("nonsense"), "{text}");
}

#[test]
fn large_bytes_are_refused() {
    aborts("length(4100) must be between 1 and 4096", || {
        let encoder = device().1.commandBuffer().unwrap().computeCommandEncoder().unwrap();
        let bytes = [0u8; 4100];
        unsafe { encoder.setBytes_length_atIndex(NonNull::from(&bytes).cast(), bytes.len(), 0) };
    });
}

#[test]
fn a_missing_binding_is_named() {
    aborts("dispatch of scale", || {
        let (device, queue) = device();
        let state = pipeline(&device, 1);
        let commands = queue.commandBuffer().unwrap();
        let encoder = commands.computeCommandEncoder().unwrap();
        encoder.setComputePipelineState(&state);
        encoder.dispatchThreads_threadsPerThreadgroup(size(1), size(1));
        encoder.endEncoding();
        commands.commit();
        commands.waitUntilCompleted();
    });
}

#[test]
fn a_large_threadgroup_is_refused() {
    aborts("at most 1024", || {
        let (device, queue) = device();
        let state = pipeline(&device, 1);
        let encoder = queue.commandBuffer().unwrap().computeCommandEncoder().unwrap();
        encoder.setComputePipelineState(&state);
        encoder.dispatchThreads_threadsPerThreadgroup(size(4096), size(2048));
    });
}

#[test]
fn an_access_past_the_end_of_a_buffer_is_named() {
    aborts("dispatch of scale", || {
        let (device, queue) = device();
        let state = pipeline(&device, 1);
        let x = buffer(&device, &numbers(&[1, 2]));
        let commands = queue.commandBuffer().unwrap();
        let encoder = commands.computeCommandEncoder().unwrap();
        encode(&encoder, &state, &x, 0, 4096);
        encoder.endEncoding();
        commands.commit();
        commands.waitUntilCompleted();
    });
}
