//! Descriptor classes that hold a few settings each.

use std::sync::Mutex;

use super::Label;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(COMMAND_BUFFER, "MTLCommandBufferDescriptor");
class!(PIPELINE, "MTLComputePipelineDescriptor");
class!(QUEUE, "MTLCommandQueueDescriptor");

/// Numbers that a descriptor holds, by place.
#[derive(Default)]
struct Numbers(Mutex<[usize; 3]>);

/// The value of a pipeline descriptor.
#[derive(Default)]
struct Pipeline {
    function: Mutex<Option<Ref>>,
    numbers: Numbers,
    label: Label,
}

impl Numbers {
    fn get(&self, place: usize) -> usize {
        self.0.lock().unwrap()[place]
    }

    fn set(&self, place: usize, value: usize) {
        self.0.lock().unwrap()[place] = value;
    }
}

/// Whether command buffers of this descriptor keep what they use.
pub(crate) fn retained_references(descriptor: Id) -> bool {
    descriptor.value::<Numbers>().get(0) != 0
}

/// The function and label of a pipeline descriptor.
pub(crate) fn function(descriptor: Id) -> (Id, Id) {
    let pipeline = descriptor.value::<Pipeline>();
    let function = pipeline.function.lock().unwrap().as_ref().map_or(Id::NIL, Ref::id);
    (function, pipeline.label.object())
}

methods! { install_command_buffer for COMMAND_BUFFER;
    - "init" (this) -> Id { this.init(Numbers(Mutex::new([1, 0, 0]))) }
    - "retainedReferences" (this) -> u8 { this.value::<Numbers>().get(0) as u8 }
    - "setRetainedReferences:" (this, on: u8) { this.value::<Numbers>().set(0, usize::from(on)) }
    - "errorOptions" (this) -> usize { this.value::<Numbers>().get(1) }
    - "setErrorOptions:" (this, options: usize) { this.value::<Numbers>().set(1, options) }
}

methods! { install_queue for QUEUE;
    - "init" (this) -> Id { this.init(Numbers(Mutex::new([64, 0, 0]))) }
    - "maxCommandBufferCount" (this) -> usize { this.value::<Numbers>().get(0) }
    - "setMaxCommandBufferCount:" (this, count: usize) { this.value::<Numbers>().set(0, count) }
}

methods! { install_pipeline for PIPELINE;
    - "init" (this) -> Id { this.init(Pipeline::default()) }
    - "computeFunction" (this) -> Id {
        this.value::<Pipeline>().function.lock().unwrap().clone().map_or(Id::NIL, Ref::autorelease)
    }
    - "setComputeFunction:" (this, function: Id) {
        *this.value::<Pipeline>().function.lock().unwrap() = function.retained();
    }
    - "label" (this) -> Id { this.value::<Pipeline>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Pipeline>().label.set(text) }
    - "maxTotalThreadsPerThreadgroup" (this) -> usize { this.value::<Pipeline>().numbers.get(0) }
    - "setMaxTotalThreadsPerThreadgroup:" (this, threads: usize) { this.value::<Pipeline>().numbers.set(0, threads) }
    - "threadGroupSizeIsMultipleOfThreadExecutionWidth" (this) -> u8 { this.value::<Pipeline>().numbers.get(1) as u8 }
    - "setThreadGroupSizeIsMultipleOfThreadExecutionWidth:" (this, on: u8) {
        this.value::<Pipeline>().numbers.set(1, usize::from(on));
    }
}

pub(crate) fn install() {
    install_command_buffer();
    install_queue();
    install_pipeline();
}
