//! Metal: one device, buffers, queues that run work on a thread of their own, encoders that check what
//! Apple's validation layer checks, libraries compiled by the kernel emulator.

pub(crate) mod blit;
pub(crate) mod buffer;
pub(crate) mod command_buffer;
pub(crate) mod compile_options;
pub(crate) mod compute;
pub(crate) mod compute_pass;
pub(crate) mod constants;
pub(crate) mod counters;
pub(crate) mod descriptors;
pub(crate) mod device;
pub(crate) mod event;
pub(crate) mod heap;
pub(crate) mod library;
pub(crate) mod pipeline;
pub(crate) mod queue;
mod residency;
mod shader;

/// Fills the method tables of this family.
pub(crate) fn install() {
    device::install();
    buffer::install();
    heap::install();
    queue::install();
    command_buffer::install();
    compute::install();
    compute_pass::install();
    blit::install();
    event::install();
    compile_options::install();
    constants::install();
    counters::install();
    library::install();
    pipeline::install();
    descriptors::install();
    residency::install();
}

/// A label that can be set at any time.
#[derive(Default)]
pub(crate) struct Label(std::sync::Mutex<Option<String>>);

impl Label {
    pub(crate) fn set(&self, text: crate::runtime::Id) {
        *self.0.lock().unwrap() = crate::foundation::string::read(text);
    }

    /// A string object, or nil.
    pub(crate) fn object(&self) -> crate::runtime::Id {
        match &*self.0.lock().unwrap() {
            Some(text) => crate::foundation::string::make(text).autorelease(),
            None => crate::runtime::Id::NIL,
        }
    }

    /// The text for messages.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone().unwrap_or_default()
    }
}
