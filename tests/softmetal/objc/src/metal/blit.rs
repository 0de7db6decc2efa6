//! Blit encoders: copies between buffers and fills.

use std::sync::{Arc, Mutex};

use super::buffer::Buffer;
use super::command_buffer::{Command, Work};
use super::{Label, device};
use crate::control;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Range;
use crate::runtime::{Id, Ref};

class!(ENCODER, "SoftMTLBlitCommandEncoder");

/// The value of a blit encoder object.
struct Encoder {
    work: Arc<Work>,
    /// Empty once the encoder has ended.
    commands: Mutex<Option<Vec<Command>>>,
    label: Label,
}

/// A new encoder; another open one ends the process.
pub(crate) fn new(work: &Arc<Work>) -> Ref {
    work.open("blit");
    let commands = Mutex::new(Some(Vec::new()));
    Ref::new(&ENCODER, Encoder { work: Arc::clone(work), commands, label: Label::default() })
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if self.commands.lock().unwrap().is_some() {
            abort!("Command encoder released without endEncoding (blit \"{}\")", self.label.text());
        }
    }
}

/// A buffer for a command: kept alive where the command buffer retains.
struct Target(Id, #[allow(dead_code)] Option<Ref>);

impl Encoder {
    fn push(&self, command: Command) {
        match &mut *self.commands.lock().unwrap() {
            Some(commands) => commands.push(command),
            None => abort!("a blit encoder was used after endEncoding"),
        }
        control().count("blits", 1);
    }

    fn target(&self, id: Id, offset: usize, length: usize, what: &str) -> Target {
        let buffer = id.value::<Buffer>();
        buffer.check_tracked(what);
        buffer.range(offset, length, what);
        Target(id, self.work.retains.then(|| id.required("the buffer")))
    }
}

methods! { install for ENCODER;
    - "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:" (
        this, source: Id, from: usize, target: Id, to: usize, size: usize,
    ) {
        let encoder = this.value::<Encoder>();
        let what = "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:";
        if !size.is_multiple_of(4) || !from.is_multiple_of(4) || !to.is_multiple_of(4) {
            abort!("{what}: offsets {from} and {to} and size {size} must be multiples of 4 bytes on macOS");
        }
        if size == 0 {
            abort!("{what}: the size must not be 0");
        }
        if source == target && from < to + size && to < from + size {
            abort!("{what}: the ranges overlap");
        }
        let source = encoder.target(source, from, size, what);
        let target = encoder.target(target, to, size, what);
        encoder.push(Box::new(move || {
            let (source, target) = (&source, &target);
            let read = source.0.value::<Buffer>().range(from, size, "a copy");
            let write = target.0.value::<Buffer>().range(to, size, "a copy");
            control().count("copied_bytes", size as u64);
            // SAFETY: both ranges were checked, and overlapping ones refused.
            unsafe { std::ptr::copy_nonoverlapping(read, write, size) };
        }));
    }
    - "fillBuffer:range:value:" (this, buffer: Id, range: Range, value: u8) {
        let encoder = this.value::<Encoder>();
        if range.length == 0 || !range.length.is_multiple_of(4) || !range.location.is_multiple_of(4) {
            abort!("fillBuffer:range:value:: {range:?} must be a multiple of 4 bytes on macOS, and not empty");
        }
        let target = encoder.target(buffer, range.location, range.length, "fillBuffer:range:value:");
        encoder.push(Box::new(move || {
            let target = &target;
            let write = target.0.value::<Buffer>().range(range.location, range.length, "a fill");
            // SAFETY: the range was checked.
            unsafe { write.write_bytes(value, range.length) };
        }));
    }
    - "synchronizeResource:" (this, _resource: Id) { this.value::<Encoder>().push(Box::new(|| {})) }
    - "updateFence:" (_this, _fence: Id) {}
    - "waitForFence:" (_this, _fence: Id) {}
    - "endEncoding" (this) {
        let encoder = this.value::<Encoder>();
        match encoder.commands.lock().unwrap().take() {
            Some(commands) => encoder.work.close(commands),
            None => abort!("endEncoding was sent twice to a blit encoder"),
        }
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Encoder>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Encoder>().label.set(text) }
    - "insertDebugSignpost:" (_this, _text: Id) {}
    - "pushDebugGroup:" (_this, _text: Id) {}
    - "popDebugGroup" (_this) {}
}
