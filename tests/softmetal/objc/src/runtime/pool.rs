//! Autorelease pools, one stack a thread. What is autoreleased with no pool in place is kept until the
//! thread ends, and counted: on macOS a worker thread without a pool grows in the same way.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::object::Id;

struct Pools {
    objects: Vec<Id>,
    /// Where each open pool begins.
    marks: Vec<usize>,
}

impl Drop for Pools {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.objects) {
            id.release();
        }
    }
}

thread_local! {
    static POOLS: RefCell<Pools> = const { RefCell::new(Pools { objects: Vec::new(), marks: Vec::new() }) };
}

static UNPOOLED: AtomicUsize = AtomicUsize::new(0);

/// Objects that were autoreleased on a thread with no pool, since the process began.
pub(crate) fn unpooled() -> usize {
    UNPOOLED.load(Ordering::Relaxed)
}

/// Hands one count of `id` to the innermost pool.
pub(crate) fn add(id: Id) -> Id {
    if id.is_nil() {
        return id;
    }
    // A thread that is ending has no pool any more; the object stays.
    let _ = POOLS.try_with(|pools| {
        let mut pools = pools.borrow_mut();
        if pools.marks.is_empty() {
            UNPOOLED.fetch_add(1, Ordering::Relaxed);
        }
        pools.objects.push(id);
    });
    id
}

/// Opens a pool; the result is its token.
pub(crate) fn push() -> usize {
    POOLS.with_borrow_mut(|pools| {
        let start = pools.objects.len();
        pools.marks.push(start);
        pools.marks.len()
    })
}

/// Closes the pool of this token and any opened inside it.
pub(crate) fn pop(token: usize) {
    let freed = POOLS.with_borrow_mut(|pools| {
        if token == 0 || token > pools.marks.len() {
            super::fatal("an autorelease pool was drained twice, or on another thread");
        }
        let start = pools.marks[token - 1];
        pools.marks.truncate(token - 1);
        pools.objects.split_off(start)
    });
    for id in freed {
        id.release();
    }
}

/// Runs `f` inside a pool of its own.
pub(crate) fn scope<R>(f: impl FnOnce() -> R) -> R {
    let token = push();
    let result = f();
    pop(token);
    result
}
