//! Buffers that outlive a call, so that a product allocates only when it is the largest so far.

use std::cell::RefCell;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A growing buffer that starts on a cache line.
#[derive(Default)]
pub(crate) struct Buffer(Vec<Line>);

/// Element types for which any bytes are a value.
pub(crate) trait Element: bytemuck::Pod {}

impl Element for u8 {}
impl Element for i8 {}
impl Element for i32 {}
impl Element for f32 {}

impl Buffer {
    /// `len` elements with whatever an earlier call left in them, from a cache line on.
    pub(crate) fn take<T: Element>(&mut self, len: usize) -> &mut [T] {
        let lines = (len * size_of::<T>()).div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        // SAFETY: the lines are initialised, aligned to 64 bytes and at least as long; any bytes
        // are a `T`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub a: Buffer,
    pub b: Buffer,
    pub c: Buffer,
}

thread_local! {
    /// For the work of a task.
    static TASK: RefCell<Scratch> = RefCell::default();
    /// For what the caller of a product prepares and its tasks share.
    static SHARED: RefCell<Scratch> = RefCell::default();
}

/// Lends the buffers of this thread's task.
pub(super) fn with_task_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    TASK.with_borrow_mut(f)
}

/// Lends the buffers that this thread shares with its tasks.
pub(super) fn with_shared_scratch<R>(f: impl FnOnce(&mut Scratch) -> R) -> R {
    SHARED.with_borrow_mut(f)
}
