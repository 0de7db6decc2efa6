//! Command queues. Each has a thread that runs committed work in order, late: not before somebody waits
//! for it or a short time has passed, so that a program which reads too early sees old data.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::command_buffer::{self, Work};
use super::{Label, device};
use crate::control;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(QUEUE, "SoftMTLCommandQueue");

/// What a queue and its thread share.
pub(crate) struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Instant, Arc<Work>)>,
    committed: u64,
    /// Work up to this number runs without delay.
    hurry: u64,
    finished: u64,
    closed: bool,
}

/// The value of a queue object.
pub(crate) struct Queue {
    pub(crate) line: Arc<Line>,
    label: Label,
}

impl Line {
    /// Puts work at the end and gives it its number.
    pub(crate) fn push(&self, work: Arc<Work>) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.waiting.push_back((Instant::now(), work));
        state.committed += 1;
        self.changed.notify_all();
        state.committed
    }

    /// Somebody waits for this work: it and all before it run now.
    pub(crate) fn hurry(&self, number: u64) {
        let mut state = self.state.lock().unwrap();
        state.hurry = state.hurry.max(number);
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Arc<Work>> {
        let mut state = self.state.lock().unwrap();
        loop {
            let Some((since, _)) = state.waiting.front() else {
                if state.closed {
                    return None;
                }
                state = self.changed.wait(state).unwrap();
                continue;
            };
            let due = *since + Duration::from_micros(control().commit_delay_us());
            let now = Instant::now();
            let hurried = state.hurry > state.finished || state.closed;
            if hurried || !control().late_execution() || now >= due {
                state.finished += 1;
                return state.waiting.pop_front().map(|(_, work)| work);
            }
            state = self.changed.wait_timeout(state, due - now).unwrap().0;
        }
    }
}

fn run(line: &Line) {
    while let Some(work) = line.next() {
        crate::runtime::pool::scope(|| command_buffer::execute(&work));
    }
}

/// A new queue object with its thread.
pub(crate) fn new() -> Ref {
    let line = Arc::new(Line { state: Mutex::default(), changed: Condvar::new() });
    let shared = Arc::clone(&line);
    // Kernels and reference graphs are deep here and there; stacks are cheap.
    let thread =
        std::thread::Builder::new().name("softmetal queue".to_owned()).stack_size(16 << 20);
    thread.spawn(move || run(&shared)).expect("a thread for a queue can be started");
    Ref::new(&QUEUE, Queue { line, label: Label::default() })
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.line.state.lock().unwrap().closed = true;
        self.line.changed.notify_all();
    }
}

methods! { install for QUEUE;
    - "commandBuffer" (this) -> Id { command_buffer::new(this, true).autorelease() }
    - "commandBufferWithUnretainedReferences" (this) -> Id { command_buffer::new(this, false).autorelease() }
    - "commandBufferWithDescriptor:" (this, descriptor: Id) -> Id {
        command_buffer::new(this, super::descriptors::retained_references(descriptor)).autorelease()
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Queue>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Queue>().label.set(text) }
    - "addResidencySet:" (_this, _set: Id) {}
    - "removeResidencySet:" (_this, _set: Id) {}
    - "insertDebugCaptureBoundary" (_this) {}
}
