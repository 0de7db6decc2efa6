//! Command buffers: a list of commands, filled by one encoder at a time, committed once.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use super::compute_pass::Borders;
use super::queue::{Line, Queue};
use super::{Label, blit, compute, compute_pass, device, event};
use crate::control;
use crate::foundation::error;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Id, Ref};

class!(pub(crate) COMMAND_BUFFER, "SoftMTLCommandBuffer");

/// `MTLCommandBufferStatus`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) enum Status {
    NotEnqueued = 0,
    Enqueued = 1,
    Committed = 2,
    Scheduled = 3,
    Completed = 4,
    Error = 5,
}

/// `MTLCommandBufferErrorDeviceRemoved`.
const DEVICE_REMOVED: isize = 11;

/// One command, run on the queue's thread.
pub(crate) type Command = Box<dyn FnOnce() + Send>;

/// Called with the command buffer object and its error, if any.
pub(crate) type Handler = Box<dyn FnOnce(Id, Option<&Ref>) + Send>;

/// What a command buffer, its encoders and its queue share.
pub(crate) struct Work {
    state: Mutex<State>,
    done: Condvar,
    /// Whether commands keep the buffers they use alive.
    pub(crate) retains: bool,
}

struct State {
    status: Status,
    /// What kind of encoder is open.
    encoder: Option<&'static str>,
    commands: Vec<Command>,
    scheduled: Vec<Handler>,
    completed: Vec<Handler>,
    error: Option<Ref>,
    number: u64,
    started: f64,
    ended: f64,
    /// The object itself while it is committed and not done: handlers get it, and it must live.
    object: Option<Ref>,
    /// Whether the queue's thread has let go of everything, and waiters may return.
    finished: bool,
}

/// The value of a command buffer object.
pub(crate) struct CommandBuffer {
    queue: Ref,
    line: Arc<Line>,
    pub(crate) work: Arc<Work>,
    label: Label,
}

/// Seconds since the process began, as `GPUStartTime` counts from some start.
fn seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64() + 1.0
}

/// A new command buffer object of a queue.
pub(crate) fn new(queue: Id, retains: bool) -> Ref {
    let state = State {
        status: Status::NotEnqueued,
        encoder: None,
        commands: Vec::new(),
        scheduled: Vec::new(),
        completed: Vec::new(),
        error: None,
        number: 0,
        started: 0.0,
        ended: 0.0,
        object: None,
        finished: false,
    };
    let line = Arc::clone(&queue.value::<Queue>().line);
    let queue = queue.required("the queue");
    let work = Arc::new(Work { state: Mutex::new(state), done: Condvar::new(), retains });
    Ref::new(&COMMAND_BUFFER, CommandBuffer { queue, line, work, label: Label::default() })
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Notes that an encoder was opened.
    pub(crate) fn open(&self, kind: &'static str) {
        let mut state = self.state();
        if let Some(open) = state.encoder {
            abort!(
                "A command encoder is already encoding to this command buffer ({open}, then {kind})"
            );
        }
        if state.status >= Status::Committed {
            abort!("{kind}CommandEncoder: the command buffer was committed already");
        }
        state.encoder = Some(kind);
    }

    /// Takes an encoder's commands when it ends.
    pub(crate) fn close(&self, commands: Vec<Command>) {
        let mut state = self.state();
        state.encoder = None;
        state.commands.extend(commands);
    }

    /// Adds a command between encoders.
    pub(crate) fn add(&self, what: &'static str, command: Command) {
        self.open(what);
        self.close(vec![command]);
    }

    pub(crate) fn status(&self) -> Status {
        self.state().status
    }

    /// The error, once there is one.
    pub(crate) fn error(&self) -> Option<Ref> {
        self.state().error.clone()
    }

    /// Runs `handler` when the work is done or has failed, before waiters return.
    pub(crate) fn when_done(&self, handler: Handler) {
        self.state().completed.push(handler);
    }
}

/// Commits a command buffer object.
pub(crate) fn commit(this: Id) {
    let buffer = this.value::<CommandBuffer>();
    let mut state = buffer.work.state();
    if state.status >= Status::Committed {
        abort!("commit an already committed command buffer");
    }
    if let Some(kind) = state.encoder {
        abort!("commit command buffer with uncommitted encoder ({kind})");
    }
    state.status = Status::Committed;
    state.object = this.retained();
    control().count("commits", 1);
    // Handlers may commit further work, so the number is taken under the lock that they wait for.
    state.number = buffer.line.push(Arc::clone(&buffer.work));
}

/// Runs committed work; called on the queue's thread.
pub(crate) fn execute(work: &Work) {
    let (commands, scheduled, object) = {
        let mut state = work.state();
        state.status = Status::Scheduled;
        state.started = seconds();
        (
            std::mem::take(&mut state.commands),
            std::mem::take(&mut state.scheduled),
            state.object.clone(),
        )
    };
    let id = object.as_ref().map_or(Id::NIL, Ref::id);
    for handler in scheduled {
        handler(id, None);
    }
    let lost = control().take_command_buffer_failure();
    if lost {
        drop(commands);
    } else {
        for command in commands {
            command();
        }
    }
    let (completed, error) = {
        let mut state = work.state();
        state.ended = seconds();
        state.status = if lost { Status::Error } else { Status::Completed };
        if lost {
            let text =
                "Caused GPU device to be removed (00000003:kIOGPUCommandBufferCallbackErrorHang)";
            state.error = Some(error::make("MTLCommandBufferErrorDomain", DEVICE_REMOVED, text));
        }
        (std::mem::take(&mut state.completed), state.error.clone())
    };
    // Handlers run before waiters return.
    for handler in completed {
        handler(id, error.as_ref());
    }
    drop(object);
    drop(error);
    let kept = work.state().object.take();
    drop(kept);
    work.state().finished = true;
    work.done.notify_all();
}

/// Waits for a committed command buffer object.
pub(crate) fn wait(this: Id) {
    let buffer = this.value::<CommandBuffer>();
    let number = {
        let state = buffer.work.state();
        if state.status < Status::Committed {
            abort!(
                "waitUntilCompleted on a command buffer that was not committed would never return"
            );
        }
        state.number
    };
    buffer.line.hurry(number);
    let state = buffer.work.state();
    drop(buffer.work.done.wait_while(state, |state| !state.finished).unwrap());
}

/// A block as a handler.
fn block_handler(block: BlockPtr, what: &str) -> Handler {
    let block = block.copied().unwrap_or_else(|| abort!("{what}: the block must not be nil"));
    Box::new(move |commands, _| block.call_with(commands))
}

fn add_handler(this: Id, block: BlockPtr, what: &str, pick: fn(&mut State) -> &mut Vec<Handler>) {
    let handler = block_handler(block, what);
    let mut state = this.value::<CommandBuffer>().work.state();
    if state.status >= Status::Committed {
        abort!("{what} after commit");
    }
    pick(&mut state).push(handler);
}

/// Adds a completion handler to a command buffer object.
pub(crate) fn add_completed(this: Id, block: BlockPtr) {
    add_handler(this, block, "addCompletedHandler", |state| &mut state.completed);
}

/// A further command buffer on the queue of an existing one.
pub(crate) fn new_on_queue_of(commands: Id) -> Ref {
    let before = commands.value::<CommandBuffer>();
    new(before.queue.id(), before.work.retains)
}

methods! { install for COMMAND_BUFFER;
    - "enqueue" (this) {
        let mut state = this.value::<CommandBuffer>().work.state();
        if state.status != Status::NotEnqueued {
            abort!("enqueue a command buffer twice");
        }
        state.status = Status::Enqueued;
    }
    - "commit" (this) { commit(this) }
    - "waitUntilCompleted" (this) { wait(this) }
    - "waitUntilScheduled" (this) {
        if this.value::<CommandBuffer>().work.status() < Status::Committed {
            abort!("waitUntilScheduled on a command buffer that was not committed would never return");
        }
    }
    - "addCompletedHandler:" (this, block: BlockPtr) { add_completed(this, block) }
    - "addScheduledHandler:" (this, block: BlockPtr) {
        add_handler(this, block, "addScheduledHandler", |state| &mut state.scheduled);
    }
    - "status" (this) -> usize { this.value::<CommandBuffer>().work.status() as usize }
    - "error" (this) -> Id {
        this.value::<CommandBuffer>().work.error().map_or(Id::NIL, Ref::autorelease)
    }
    - "GPUStartTime" (this) -> f64 { this.value::<CommandBuffer>().work.state().started }
    - "GPUEndTime" (this) -> f64 { this.value::<CommandBuffer>().work.state().ended }
    - "kernelStartTime" (this) -> f64 { this.value::<CommandBuffer>().work.state().started }
    - "kernelEndTime" (this) -> f64 { this.value::<CommandBuffer>().work.state().ended }
    - "retainedReferences" (this) -> u8 { u8::from(this.value::<CommandBuffer>().work.retains) }
    - "errorOptions" (_this) -> usize { 0 }
    - "computeCommandEncoder" (this) -> Id { compute::new(&this.value::<CommandBuffer>().work, false, Borders::default()).autorelease() }
    - "computeCommandEncoderWithDispatchType:" (this, kind: usize) -> Id {
        compute::new(&this.value::<CommandBuffer>().work, kind == 1, Borders::default()).autorelease()
    }
    - "computeCommandEncoderWithDescriptor:" (this, descriptor: Id) -> Id {
        let concurrent = compute_pass::dispatch_type(descriptor) == 1;
        let borders = compute_pass::borders(descriptor);
        compute::new(&this.value::<CommandBuffer>().work, concurrent, borders).autorelease()
    }
    - "blitCommandEncoder" (this) -> Id { blit::new(&this.value::<CommandBuffer>().work).autorelease() }
    - "encodeSignalEvent:value:" (this, event: Id, value: u64) {
        let event = event.required("the event");
        this.value::<CommandBuffer>().work.add("event", Box::new(move || event::signal(event.id(), value)));
    }
    - "encodeWaitForEvent:value:" (this, event: Id, value: u64) {
        let event = event.required("the event");
        this.value::<CommandBuffer>().work.add("event", Box::new(move || event::wait_or_abort(event.id(), value)));
    }
    - "commandQueue" (this) -> Id { this.value::<CommandBuffer>().queue.clone().autorelease() }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<CommandBuffer>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<CommandBuffer>().label.set(text) }
    - "useResidencySet:" (_this, _set: Id) {}
    - "pushDebugGroup:" (_this, _name: Id) {}
    - "popDebugGroup" (_this) {}
}
