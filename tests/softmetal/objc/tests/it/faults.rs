//! Failures on demand.

use objc2::rc::{Retained, autoreleasepool};
use objc2::{AnyThread, msg_send};
use objc2_foundation::{NSArray, NSDictionary};
use objc2_metal::{
    MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandQueue, MTLCreateSystemDefaultDevice,
    MTLDevice, MTLResourceOptions,
};
use objc2_metal_performance_shaders_graph::{
    MPSGraph, MPSGraphCompilationDescriptor, MPSGraphExecutable, MPSGraphShapedType, MPSGraphTensor,
};
use softmetal_objc::control;

use crate::aborts::{aborts, alone};

#[test]
fn the_second_command_buffer_loses_the_device() {
    alone(|| {
        let queue = MTLCreateSystemDefaultDevice().unwrap().newCommandQueue().unwrap();
        control().fail_command_buffer(2);
        autoreleasepool(|_| {
            let all: Vec<_> = (0..3).map(|_| queue.commandBuffer().unwrap()).collect();
            for commands in &all {
                commands.commit();
            }
            all[2].waitUntilCompleted();
            let status: Vec<_> = all.iter().map(|commands| commands.status()).collect();
            let (good, bad) = (MTLCommandBufferStatus::Completed, MTLCommandBufferStatus::Error);
            assert_eq!(status, [good, bad, good]);
            assert_eq!(all[1].error().unwrap().code(), 11);
        });
    });
}

#[test]
fn an_allocation_fails_on_order() {
    alone(|| {
        let device = MTLCreateSystemDefaultDevice().unwrap();
        control().fail_allocation(2);
        let made: Vec<bool> = (0..3)
            .map(|_| {
                device
                    .newBufferWithLength_options(64, MTLResourceOptions::StorageModeShared)
                    .is_some()
            })
            .collect();
        assert_eq!(made, [true, false, true]);
    });
}

#[test]
fn a_graph_that_does_not_compile_is_nil() {
    alone(|| unsafe {
        let graph = MPSGraph::new();
        control().fail_next_graph_compile();
        let feeds: Retained<NSDictionary<MPSGraphTensor, MPSGraphShapedType>> = NSDictionary::new();
        let targets: Retained<NSArray<MPSGraphTensor>> = NSArray::new();
        let none = std::ptr::null::<MPSGraphCompilationDescriptor>();
        let made: Option<Retained<MPSGraphExecutable>> = msg_send![
            &*graph, compileWithDevice: std::ptr::null::<objc2_metal_performance_shaders_graph::MPSGraphDevice>(),
            feeds: &*feeds, targetTensors: &*targets,
            targetOperations: std::ptr::null::<NSArray<objc2_metal_performance_shaders_graph::MPSGraphOperation>>(),
            compilationDescriptor: none
        ];
        assert!(made.is_none());
        assert_eq!(control().counter("graph_compiles_above_level_0"), 1, "the default level is 1");
    });
}

#[test]
fn a_newer_type_ends_the_process() {
    aborts("MPSDataType bf16 needs macOS 14.0", || unsafe {
        control().set_os_version((13, 0));
        let bf16 = objc2_metal_performance_shaders::MPSDataType::BFloat16;
        MPSGraphShapedType::initWithShape_dataType(MPSGraphShapedType::alloc(), None, bf16);
    });
}
