//! MTLComputePassDescriptor: how an encoder of kernels is opened, and where it samples the clock.

use std::sync::Mutex;

use super::counters::Place;
use crate::control::CounterSampling;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(PASS, "MTLComputePassDescriptor");
class!(ATTACHMENTS, "MTLComputePassSampleBufferAttachmentDescriptorArray");
class!(ATTACHMENT, "MTLComputePassSampleBufferAttachmentDescriptor");

/// Attachments of a pass.
const ATTACHMENT_COUNT: usize = 4;
/// `MTLCounterDontSample`.
const DONT_SAMPLE: usize = usize::MAX;

/// The value of a pass descriptor.
struct Pass {
    dispatch_type: Mutex<usize>,
    attachments: Ref,
}

impl Pass {
    fn new() -> Pass {
        let attachment = || Ref::new(&ATTACHMENT, Attachment::default());
        let attachments = Attachments((0..ATTACHMENT_COUNT).map(|_| attachment()).collect());
        Pass { dispatch_type: Mutex::new(0), attachments: Ref::new(&ATTACHMENTS, attachments) }
    }
}

/// The value of an array of attachments.
struct Attachments(Vec<Ref>);

/// The value of an attachment.
#[derive(Default)]
struct Attachment(Mutex<Settings>);

#[derive(Default)]
struct Settings {
    samples: Option<Ref>,
    /// Sample indices of the start and the end of the encoder.
    start: usize,
    end: usize,
}

/// `MTLDispatchType` of a pass: 0 serial, 1 concurrent.
pub(crate) fn dispatch_type(descriptor: Id) -> usize {
    *descriptor.value::<Pass>().dispatch_type.lock().unwrap()
}

/// Where an encoder samples the clock as it starts, and as it ends.
#[derive(Default)]
pub(crate) struct Borders {
    pub(crate) start: Vec<Place>,
    pub(crate) end: Vec<Place>,
}

/// The samples of a pass; ends the process where the device takes none at the borders of encoders.
pub(crate) fn borders(descriptor: Id) -> Borders {
    let mut borders = Borders::default();
    for attachment in &descriptor.value::<Pass>().attachments.value::<Attachments>().0 {
        let Settings { samples, start, end } = &*attachment.value::<Attachment>().0.lock().unwrap();
        let Some(samples) = samples else { continue };
        let place = |index: usize| {
            (index != DONT_SAMPLE)
                .then(|| Place::new(samples.id(), index, CounterSampling::AtStageBoundary))
        };
        if start == end {
            abort!("computeCommandEncoderWithDescriptor: both samples have index {start}");
        }
        borders.start.extend(place(*start));
        borders.end.extend(place(*end));
    }
    borders
}

methods! { install_pass for PASS;
    + "computePassDescriptor" (class) -> Id { Ref::new(class, Pass::new()).autorelease() }
    - "init" (this) -> Id { this.init(Pass::new()) }
    - "dispatchType" (this) -> usize { dispatch_type(this) }
    - "setDispatchType:" (this, kind: usize) { *this.value::<Pass>().dispatch_type.lock().unwrap() = kind }
    - "sampleBufferAttachments" (this) -> Id { this.value::<Pass>().attachments.clone().autorelease() }
}

methods! { install_attachments for ATTACHMENTS;
    - "objectAtIndexedSubscript:" (this, index: usize) -> Id {
        match this.value::<Attachments>().0.get(index) {
            Some(attachment) => attachment.clone().autorelease(),
            None => abort!("sampleBufferAttachments: index {index} must be < {ATTACHMENT_COUNT}"),
        }
    }
}

methods! { install_attachment for ATTACHMENT;
    - "sampleBuffer" (this) -> Id {
        this.value::<Attachment>().0.lock().unwrap().samples.clone().map_or(Id::NIL, Ref::autorelease)
    }
    - "setSampleBuffer:" (this, samples: Id) {
        this.value::<Attachment>().0.lock().unwrap().samples = samples.retained();
    }
    - "startOfEncoderSampleIndex" (this) -> usize { this.value::<Attachment>().0.lock().unwrap().start }
    - "setStartOfEncoderSampleIndex:" (this, index: usize) {
        this.value::<Attachment>().0.lock().unwrap().start = index;
    }
    - "endOfEncoderSampleIndex" (this) -> usize { this.value::<Attachment>().0.lock().unwrap().end }
    - "setEndOfEncoderSampleIndex:" (this, index: usize) {
        this.value::<Attachment>().0.lock().unwrap().end = index;
    }
}

pub(crate) fn install() {
    install_pass();
    install_attachments();
    install_attachment();
}
