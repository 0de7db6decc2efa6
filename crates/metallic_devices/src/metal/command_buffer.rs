//! One `MTLCommandBuffer` and the encoders it opens. Not: which one is in flight (`stream`).

use metallic::Result;
use objc2::msg_send;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_foundation::NSString;
use objc2_metal::{
    MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLComputeCommandEncoder, MTLComputePassDescriptor,
};

use super::failure;

/// A command buffer of the device's queue.
pub(crate) struct CommandBuffer(Retained<ProtocolObject<dyn MTLCommandBuffer>>);

// SAFETY: Metal lets a command buffer be used from any thread, by one at a time: it lies behind
// the stream's mutex.
unsafe impl Send for CommandBuffer {}

impl CommandBuffer {
    /// An empty buffer of `queue`, which keeps what it refers to alive until it is done.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when the queue gives none.
    pub(crate) fn new(queue: &ProtocolObject<dyn MTLCommandQueue>, label: &str) -> Result<Self> {
        let none = || failure("command buffer", "the queue gave no command buffer");
        let buffer = queue.commandBuffer().ok_or_else(none)?;
        buffer.setLabel(Some(&NSString::from_str(label)));
        Ok(Self(buffer))
    }

    /// A buffer that another framework opened on the same queue.
    pub(crate) fn adopt(buffer: Retained<ProtocolObject<dyn MTLCommandBuffer>>) -> Self {
        Self(buffer)
    }

    /// The object.
    pub(crate) fn raw(&self) -> &ProtocolObject<dyn MTLCommandBuffer> {
        &self.0
    }

    /// Whether `other` is this very object.
    pub(crate) fn is(&self, other: &ProtocolObject<dyn MTLCommandBuffer>) -> bool {
        std::ptr::eq::<AnyObject>(self.raw().as_ref(), other.as_ref())
    }

    /// Whether it was handed to the GPU.
    pub(crate) fn is_committed(&self) -> bool {
        self.0.status().0 >= MTLCommandBufferStatus::Committed.0
    }

    /// Hands it to the GPU.
    pub(crate) fn commit(&self) {
        autoreleasepool(|_| self.0.commit());
    }

    /// Waits until the GPU is done with it, and says how that went in Metal's words.
    pub(crate) fn wait(&self) -> Result<(), String> {
        autoreleasepool(|_| {
            self.0.waitUntilCompleted();
            match (self.0.status(), self.0.error()) {
                (_, Some(error)) => Err(error_text(&error)),
                (MTLCommandBufferStatus::Completed, None) => Ok(()),
                (status, None) => Err(format!("the command buffer ended with status {}", status.0)),
            }
        })
    }

    /// When the GPU began and ended it, in seconds of the host's clock; 0 before.
    pub(crate) fn gpu_times(&self) -> (f64, f64) {
        // SAFETY: both are getters of a CFTimeInterval, which is a double. The bindings hide them
        // behind a crate of which nothing else would be used.
        unsafe { (msg_send![self.raw(), GPUStartTime], msg_send![self.raw(), GPUEndTime]) }
    }

    /// Opens an encoder of kernels that run as if one by one.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when the buffer gives none.
    pub(crate) fn compute(&self) -> Result<ComputeEncoder> {
        let none = || failure("command buffer", "the command buffer gave no compute encoder");
        self.0.computeCommandEncoder().map(ComputeEncoder).ok_or_else(none)
    }

    /// Opens an encoder of kernels as `pass` describes it.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when the buffer gives none.
    pub(crate) fn compute_pass(&self, pass: &MTLComputePassDescriptor) -> Result<ComputeEncoder> {
        let none = || failure("command buffer", "the command buffer gave no compute encoder");
        self.0.computeCommandEncoderWithDescriptor(pass).map(ComputeEncoder).ok_or_else(none)
    }

    /// Opens an encoder of copies.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when the buffer gives none.
    pub(crate) fn blit(&self) -> Result<BlitEncoder> {
        let none = || failure("command buffer", "the command buffer gave no blit encoder");
        self.0.blitCommandEncoder().map(BlitEncoder).ok_or_else(none)
    }
}

/// What Metal says about a failure.
pub(super) fn error_text(error: &objc2_foundation::NSError) -> String {
    format!("{} (code {})", error.localizedDescription(), error.code())
}

/// An open encoder of kernels; ended when dropped, as Metal demands before anything else.
pub(crate) struct ComputeEncoder(Retained<ProtocolObject<dyn MTLComputeCommandEncoder>>);

// SAFETY: as for its command buffer, it lies behind the stream's mutex.
unsafe impl Send for ComputeEncoder {}

impl ComputeEncoder {
    /// The object.
    pub(crate) fn raw(&self) -> &ProtocolObject<dyn MTLComputeCommandEncoder> {
        &self.0
    }
}

impl Drop for ComputeEncoder {
    fn drop(&mut self) {
        self.0.endEncoding();
    }
}

/// An open encoder of copies; ended when dropped.
pub(crate) struct BlitEncoder(Retained<ProtocolObject<dyn MTLBlitCommandEncoder>>);

// SAFETY: as for its command buffer, it lies behind the stream's mutex.
unsafe impl Send for BlitEncoder {}

impl BlitEncoder {
    /// The object.
    pub(crate) fn raw(&self) -> &ProtocolObject<dyn MTLBlitCommandEncoder> {
        &self.0
    }
}

impl Drop for BlitEncoder {
    fn drop(&mut self) {
        self.0.endEncoding();
    }
}
