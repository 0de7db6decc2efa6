//! Compute pipeline states: a specialised kernel that can be dispatched.

use super::library::Kernel;
use super::shader::Function;
use super::{Label, device};
use crate::foundation::error;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Size;
use crate::runtime::{Id, Ref};

class!(PIPELINE, "SoftMTLComputePipelineState");

/// `MTLComputePipelineError` code for a function that cannot be compiled.
const FAILED: isize = 3;

/// The value of a pipeline object.
pub(crate) struct Pipeline {
    pub(crate) function: Function,
    pub(crate) name: String,
    label: Label,
}

/// The pipeline of a function object.
pub(crate) fn new(function: Id, label: Id) -> Result<Ref, Ref> {
    let kernel = function.value::<Kernel>();
    match kernel.function() {
        Ok(function) => {
            let pipeline =
                Pipeline { function, name: kernel.name.clone(), label: Label::default() };
            pipeline.label.set(label);
            Ok(Ref::new(&PIPELINE, pipeline))
        }
        Err(text) => Err(error::make("AGXMetalG14X", FAILED, &text)),
    }
}

methods! { install for PIPELINE;
    - "maxTotalThreadsPerThreadgroup" (this) -> usize { this.value::<Pipeline>().function.max_total_threads() as usize }
    - "threadExecutionWidth" (this) -> usize { this.value::<Pipeline>().function.thread_execution_width() as usize }
    - "staticThreadgroupMemoryLength" (this) -> usize { this.value::<Pipeline>().function.static_threadgroup_bytes() }
    - "supportIndirectCommandBuffers" (_this) -> u8 { 0 }
    - "requiredThreadsPerThreadgroup" (_this) -> Size { Size { width: 0, height: 0, depth: 0 } }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Pipeline>().label.object() }
}
