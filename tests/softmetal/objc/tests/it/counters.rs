//! Counters: what is supported, samples of encoders and between dispatches, and what is refused.

use std::ptr::NonNull;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTLCommandBuffer, MTLCommandEncoder, MTLCommandQueue, MTLCommonCounterSetTimestamp,
    MTLComputeCommandEncoder, MTLComputePassDescriptor, MTLComputePipelineState,
    MTLCounterSampleBuffer, MTLCounterSampleBufferDescriptor, MTLCounterSamplingPoint,
    MTLCounterSet, MTLDevice, MTLLibrary, MTLSize, MTLStorageMode,
};
use softmetal_objc::{CounterSampling, control};

use crate::aborts::{aborts, alone};
use crate::metal::{Device, Queue, device};

type Samples = Retained<ProtocolObject<dyn MTLCounterSampleBuffer>>;

/// `MTLCounterErrorValue`.
const ERROR: u64 = u64::MAX;
const ONE: MTLSize = MTLSize { width: 1, height: 1, depth: 1 };

fn descriptor(device: &Device, count: usize) -> Retained<MTLCounterSampleBufferDescriptor> {
    let sets = device.counterSets().unwrap();
    let set = sets.iter().find(|set| *set.name() == *unsafe { MTLCommonCounterSetTimestamp });
    let descriptor = MTLCounterSampleBufferDescriptor::new();
    descriptor.setCounterSet(set.as_deref());
    descriptor.setStorageMode(MTLStorageMode::Shared);
    unsafe { descriptor.setSampleCount(count) };
    descriptor
}

fn samples(device: &Device, count: usize) -> Samples {
    device.newCounterSampleBufferWithDescriptor_error(&descriptor(device, count)).unwrap()
}

fn ticks(samples: &Samples) -> Vec<u64> {
    let range = NSRange::new(0, samples.sampleCount());
    let bytes = unsafe { samples.resolveCounterRange(range) }.unwrap().to_vec();
    bytes.chunks(8).map(|tick| u64::from_le_bytes(tick.try_into().unwrap())).collect()
}

fn clocks(device: &Device) -> (u64, u64) {
    let (mut cpu, mut gpu) = (0, 0);
    unsafe {
        device.sampleTimestamps_gpuTimestamp(NonNull::from(&mut cpu), NonNull::from(&mut gpu));
    }
    (cpu, gpu)
}

fn nothing(device: &Device) -> Retained<ProtocolObject<dyn MTLComputePipelineState>> {
    let source = NSString::from_str("kernel void nothing() {}");
    let library = device.newLibraryWithSource_options_error(&source, None).unwrap();
    let function = library.newFunctionWithName(&NSString::from_str("nothing")).unwrap();
    device.newComputePipelineStateWithFunction_error(&function).unwrap()
}

fn pass(samples: &Samples, start: usize, end: usize) -> Retained<MTLComputePassDescriptor> {
    let pass = MTLComputePassDescriptor::computePassDescriptor();
    unsafe {
        let attachment = pass.sampleBufferAttachments().objectAtIndexedSubscript(0);
        attachment.setSampleBuffer(Some(samples));
        attachment.setStartOfEncoderSampleIndex(start);
        attachment.setEndOfEncoderSampleIndex(end);
    }
    pass
}

/// Runs one encoder of `pass`, with `dispatches`.
fn run(device: &Device, queue: &Queue, pass: &MTLComputePassDescriptor, dispatches: usize) {
    let state = nothing(device);
    autoreleasepool(|_| {
        let commands = queue.commandBuffer().unwrap();
        let encoder = commands.computeCommandEncoderWithDescriptor(pass).unwrap();
        encoder.setComputePipelineState(&state);
        for _ in 0..dispatches {
            encoder.dispatchThreads_threadsPerThreadgroup(ONE, ONE);
        }
        encoder.endEncoding();
        commands.commit();
        commands.waitUntilCompleted();
    });
}

#[test]
fn encoders_sample_their_start_and_end() {
    let (device, queue) = device();
    assert!(device.supportsCounterSampling(MTLCounterSamplingPoint::AtStageBoundary));
    assert!(!device.supportsCounterSampling(MTLCounterSamplingPoint::AtDispatchBoundary));
    let samples = samples(&device, 6);
    assert_eq!(ticks(&samples), [ERROR; 6]);
    let before = clocks(&device);
    run(&device, &queue, &pass(&samples, 2, 1), 3);
    let after = clocks(&device);
    let got = ticks(&samples);
    assert_eq!([got[0], got[3], got[4], got[5]], [ERROR; 4]);
    assert!(before.1 <= got[2] && got[2] <= got[1] && got[1] <= after.1, "{before:?} {got:?}");
    // A tick is 125 / 3 ns.
    let (cpu, gpu) = (after.0 - before.0, after.1 - before.1);
    assert!((cpu * 3 / 125).abs_diff(gpu) <= 1, "{cpu} ns, {gpu} ticks");
    // An encoder that does nothing leaves zeros.
    run(&device, &queue, &pass(&samples, 4, 5), 0);
    assert_eq!(ticks(&samples)[4..], [0, 0]);
}

#[test]
fn samples_may_lie_between_dispatches_and_may_fail() {
    alone(|| {
        control().set_counter_sampling(CounterSampling::AtDispatchBoundary);
        let (device, queue) = device();
        let (samples, state) = (samples(&device, 3), nothing(&device));
        for written in [true, false] {
            control().set_counters_written(written);
            let commands = queue.commandBuffer().unwrap();
            let encoder = commands.computeCommandEncoder().unwrap();
            encoder.setComputePipelineState(&state);
            for index in [0, if written { 1 } else { 2 }] {
                encoder.dispatchThreads_threadsPerThreadgroup(ONE, ONE);
                unsafe {
                    encoder.sampleCountersInBuffer_atSampleIndex_withBarrier(&samples, index, true)
                };
            }
            encoder.endEncoding();
            commands.commit();
            commands.waitUntilCompleted();
        }
        let got = ticks(&samples);
        assert!(got[0] <= got[1] && got[1] < ERROR && got[2] == ERROR, "{got:?}");
        control().set_counter_sampling(CounterSampling::Never);
        assert!(device.counterSets().is_none());
    });
}

#[test]
fn more_samples_than_metal_gives_are_an_error() {
    let (device, _) = device();
    for count in [0, 4097] {
        let made = device.newCounterSampleBufferWithDescriptor_error(&descriptor(&device, count));
        let text = made.unwrap_err().localizedDescription().to_string();
        assert!(text.contains("Expected range"), "{text}");
    }
    samples(&device, 4096);
}

#[test]
fn a_sample_outside_the_buffer_is_refused() {
    aborts("sample index 2 must be < 2", || {
        let (device, queue) = device();
        run(&device, &queue, &pass(&samples(&device, 2), 0, 2), 1);
    });
}

#[test]
fn both_samples_in_one_place_are_refused() {
    aborts("both samples have index 1", || {
        let (device, queue) = device();
        run(&device, &queue, &pass(&samples(&device, 2), 1, 1), 1);
    });
}

#[test]
fn samples_between_dispatches_are_refused_where_there_are_none() {
    aborts("cannot be sampled AtDispatchBoundary", || {
        let (device, queue) = device();
        let encoder = queue.commandBuffer().unwrap().computeCommandEncoder().unwrap();
        let samples = samples(&device, 2);
        unsafe { encoder.sampleCountersInBuffer_atSampleIndex_withBarrier(&samples, 0, true) };
    });
}

#[test]
fn a_range_past_the_samples_is_refused() {
    aborts("must lie in 2 samples", || {
        let (device, _) = device();
        unsafe { samples(&device, 2).resolveCounterRange(NSRange::new(1, 2)) };
    });
}
