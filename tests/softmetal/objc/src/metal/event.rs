//! Events: a counter that queues and the CPU signal and wait for.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::{Label, device};
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(EVENT, "SoftMTLSharedEvent");

/// After this long a queue that waits is taken to be stuck.
const STUCK: Duration = Duration::from_secs(30);

/// The value of an event object.
#[derive(Default)]
struct Event {
    value: Mutex<u64>,
    changed: Condvar,
    label: Label,
}

/// A new event object; shared and plain events are the same here.
pub(crate) fn new() -> Ref {
    Ref::new(&EVENT, Event::default())
}

/// Raises the value; a lower one changes nothing.
pub(crate) fn signal(id: Id, value: u64) {
    let event = id.value::<Event>();
    let mut current = event.value.lock().unwrap();
    *current = value.max(*current);
    event.changed.notify_all();
}

/// Whether the value was reached within `limit`.
fn wait(id: Id, value: u64, limit: Duration) -> bool {
    let event = id.value::<Event>();
    let current = event.value.lock().unwrap();
    !event
        .changed
        .wait_timeout_while(current, limit, |current| *current < value)
        .unwrap()
        .1
        .timed_out()
}

/// Waits on a queue's thread; a value that never comes ends the process.
pub(crate) fn wait_or_abort(id: Id, value: u64) {
    if !wait(id, value, STUCK) {
        abort!(
            "a queue waits for value {value} of event \"{}\", which nobody signals",
            id.value::<Event>().label.text()
        );
    }
}

methods! { install for EVENT;
    - "signaledValue" (this) -> u64 { *this.value::<Event>().value.lock().unwrap() }
    - "setSignaledValue:" (this, value: u64) { signal(this, value) }
    - "waitUntilSignaledValue:timeoutMS:" (this, value: u64, limit: u64) -> u8 {
        u8::from(wait(this, value, Duration::from_millis(limit)))
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Event>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Event>().label.set(text) }
}
