//! One run of an executable, appended to the command buffer in flight.

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSArray;
use objc2_metal::MTLCommandBuffer;
use objc2_metal_performance_shaders::MPSCommandBuffer;
use objc2_metal_performance_shaders_graph::{
    MPSGraphExecutable, MPSGraphExecutableExecutionDescriptor, MPSGraphTensorData,
};

/// Appends a run of `executable` to `buffer`, which has no open encoder, and gives the command
/// buffer to go on with: MPSGraph commits the one it has when it finds it long enough.
pub(super) fn encode(
    executable: &MPSGraphExecutable,
    buffer: &ProtocolObject<dyn MTLCommandBuffer>,
    inputs: &[Retained<MPSGraphTensorData>],
    results: &[Retained<MPSGraphTensorData>],
) -> Retained<ProtocolObject<dyn MTLCommandBuffer>> {
    autoreleasepool(|_| {
        // SAFETY: inputs and results are in the executable's order, with its shapes and types,
        // and lie in their buffers; the descriptor asks for nothing but the defaults, spelled
        // out.
        unsafe {
            let wrapped = MPSCommandBuffer::commandBufferWithCommandBuffer(buffer);
            let descriptor = MPSGraphExecutableExecutionDescriptor::new();
            descriptor.setWaitUntilCompleted(false);
            let _ = executable.encodeToCommandBuffer_inputsArray_resultsArray_executionDescriptor(
                &wrapped,
                &NSArray::from_retained_slice(inputs),
                Some(&NSArray::from_retained_slice(results)),
                Some(&descriptor),
            );
            wrapped.rootCommandBuffer()
        }
    })
}
