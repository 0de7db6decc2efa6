//! MPSCommandBuffer: wraps a Metal command buffer that may be committed and replaced on the way.

use std::sync::{Arc, Mutex};

use crate::foundation::string;
use crate::metal::command_buffer::{self, CommandBuffer, Status, Work};
use crate::metal::compute_pass::Borders;
use crate::metal::{blit, compute};
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Class, Id, Ref};

class!(pub(crate) COMMAND_BUFFER, "MPSCommandBuffer");

/// The value of an object: the newest command buffer.
struct Wrapper(Mutex<Ref>);

fn wrap(commands: Id) -> Wrapper {
    let commands = commands.required("the command buffer");
    if commands.value::<CommandBuffer>().work.status() >= Status::Committed {
        abort!("MPSCommandBuffer was given a command buffer that is committed");
    }
    Wrapper(Mutex::new(commands))
}

/// A new object around a Metal command buffer.
pub(crate) fn make(commands: Id) -> Ref {
    Ref::new(&COMMAND_BUFFER, wrap(commands))
}

/// The newest command buffer, retained.
pub(crate) fn root(this: Id) -> Ref {
    this.value::<Wrapper>().0.lock().unwrap().clone()
}

/// The command list of the newest command buffer.
pub(crate) fn work(this: Id) -> Arc<Work> {
    Arc::clone(&root(this).value::<CommandBuffer>().work)
}

/// Commits the newest command buffer and begins another on the same queue.
pub(crate) fn commit_and_continue(this: Id) {
    let mut root = this.value::<Wrapper>().0.lock().unwrap();
    command_buffer::commit(root.id());
    *root = command_buffer::new_on_queue_of(root.id());
}

fn from_queue(class: &'static Class, queue: Id) -> Id {
    Ref::new(class, wrap(command_buffer::new(queue, true).autorelease())).autorelease()
}

methods! { install for COMMAND_BUFFER;
    + "commandBufferWithCommandBuffer:" (class, commands: Id) -> Id { Ref::new(class, wrap(commands)).autorelease() }
    + "commandBufferFromCommandQueue:" (class, queue: Id) -> Id { from_queue(class, queue) }
    - "init" (_this) -> Id { abort!("-[MPSCommandBuffer init] is unavailable") }
    - "initWithCommandBuffer:" (this, commands: Id) -> Id { this.init(wrap(commands)) }
    - "commandBuffer" (this) -> Id { root(this).autorelease() }
    - "rootCommandBuffer" (this) -> Id { root(this).autorelease() }
    - "commitAndContinue" (this) { commit_and_continue(this) }
    - "prefetchHeapForWorkloadSize:" (_this, _bytes: usize) {}
    - "commit" (this) { command_buffer::commit(root(this).id()) }
    - "waitUntilCompleted" (this) { command_buffer::wait(root(this).id()) }
    - "addCompletedHandler:" (this, block: BlockPtr) { command_buffer::add_completed(root(this).id(), block) }
    - "status" (this) -> usize { work(this).status() as usize }
    - "error" (this) -> Id { work(this).error().map_or(Id::NIL, Ref::autorelease) }
    - "computeCommandEncoder" (this) -> Id { compute::new(&work(this), false, Borders::default()).autorelease() }
    - "blitCommandEncoder" (this) -> Id { blit::new(&work(this)).autorelease() }
    - "label" (_this) -> Id { string::make("MPSCommandBuffer").autorelease() }
}
