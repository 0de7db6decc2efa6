//! Objects: a class, a reference count and one boxed Rust value. Freed objects stay as zombies for a
//! while, so that a message to one or a release too many is named instead of being undefined.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::abort::abort;
use super::class::{Class, Kind};

/// How many freed objects keep their memory.
const QUARANTINE: usize = 1 << 16;

/// The memory of an object.
#[repr(C)]
pub(crate) struct Object {
    isa: AtomicPtr<Class>,
    count: AtomicUsize,
    value: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// An object pointer as messages carry it: may be nil, owns nothing.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Id(*mut Object);

// SAFETY: counts are atomic and the values are `Send + Sync`.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

fn quarantine(object: *mut Object) {
    static FREED: Mutex<VecDeque<usize>> = Mutex::new(VecDeque::new());
    let mut freed = FREED.lock().unwrap();
    freed.push_back(object as usize);
    if freed.len() > QUARANTINE {
        let oldest = freed.pop_front().expect("it was just filled") as *mut Object;
        // SAFETY: made by `Box::into_raw` in `Id::alloc`, left the count at zero, and leaves the queue once.
        drop(unsafe { Box::from_raw(oldest) });
    }
}

impl Id {
    pub(crate) const NIL: Id = Id(std::ptr::null_mut());

    /// A new object of `class` with a count of one and no value yet.
    pub(crate) fn alloc(class: &'static Class) -> Id {
        class.count_made();
        Id(Box::into_raw(Box::new(Object {
            isa: AtomicPtr::new(std::ptr::from_ref(class).cast_mut()),
            count: AtomicUsize::new(1),
            value: OnceLock::new(),
        })))
    }

    pub(crate) fn is_nil(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }

    pub(crate) fn as_ptr(self) -> *mut std::ffi::c_void {
        self.0.cast()
    }

    /// The pointer that a block or an out parameter held.
    pub(crate) fn from_ptr(pointer: *mut std::ffi::c_void) -> Id {
        Id(pointer.cast())
    }

    /// The class of an object, or the metaclass of a class object.
    pub(crate) fn class(self) -> &'static Class {
        if self.0.is_null() {
            abort!("the class of nil was asked for");
        }
        // SAFETY: every object, class and block starts with its isa; zombies keep theirs.
        let isa = unsafe { (*self.0).isa.load(Ordering::Acquire) };
        if isa.is_null() {
            // A class object that nothing has used yet.
            super::class::ensure_installed();
            // SAFETY: a null isa occurs in class statics alone.
            return unsafe { &*self.0.cast::<Class>() }.metaclass();
        }
        // SAFETY: an isa is the address of a class, and classes live for ever.
        unsafe { &*isa }
    }

    /// Ends the process if the object was freed; `what` names the use.
    pub(crate) fn check_alive(self, what: &str) {
        let class = self.class();
        // SAFETY: objects of kind `Object` have a count, also when freed.
        if class.kind() == Kind::Object && unsafe { (*self.0).count.load(Ordering::Acquire) } == 0 {
            abort!("{what}: deallocated instance {:p} of {}", self.0, class.name());
        }
    }

    /// Gives a freshly allocated object its value and returns it, as `init` methods do.
    pub(crate) fn init(self, value: impl Any + Send + Sync) -> Id {
        self.check_alive("init");
        // SAFETY: `check_alive` saw an object of this crate.
        if unsafe { (*self.0).value.set(Box::new(value)) }.is_err() {
            abort!("an instance of {} was initialised twice", self.class().name());
        }
        self
    }

    /// The value, when it is a `T`.
    pub(crate) fn try_value<T: 'static>(&self) -> Option<&T> {
        if self.is_nil() || self.class().kind() != Kind::Object {
            return None;
        }
        self.check_alive("use of an object");
        // SAFETY: as in `init`; the borrow ends before the caller gives its reference up.
        unsafe { (*self.0).value.get() }?.downcast_ref()
    }

    /// The value; another type of object in this place ends the process.
    pub(crate) fn value<T: 'static>(&self) -> &T {
        if self.is_nil() {
            abort!("nil where {} was expected", std::any::type_name::<T>());
        }
        self.try_value().unwrap_or_else(|| {
            abort!(
                "an instance of {} stands where {} was expected, or it was never initialised",
                self.class().name(),
                std::any::type_name::<T>()
            )
        })
    }

    /// An owned reference, or none for nil.
    pub(crate) fn retained(self) -> Option<Ref> {
        (!self.is_nil()).then(|| Ref(self.retain()))
    }

    /// [`Id::retained`] of an argument that must not be nil.
    pub(crate) fn required(self, what: &str) -> Ref {
        self.retained().unwrap_or_else(|| abort!("{what} must not be nil"))
    }

    /// Adds one to the count; classes are not counted, blocks are copied.
    pub(crate) fn retain(self) -> Id {
        if self.is_nil() {
            return self;
        }
        match self.class().kind() {
            Kind::Meta | Kind::GlobalBlock => self,
            Kind::StackBlock | Kind::HeapBlock => Id::from_ptr(super::block::copy(self.as_ptr())),
            Kind::Object => {
                self.check_alive("retain");
                // SAFETY: an object of this crate that is alive.
                unsafe { (*self.0).count.fetch_add(1, Ordering::Relaxed) };
                self
            }
        }
    }

    /// Takes one from the count; the last one frees the value.
    pub(crate) fn release(self) {
        if self.is_nil() {
            return;
        }
        match self.class().kind() {
            Kind::Meta | Kind::GlobalBlock | Kind::StackBlock => return,
            Kind::HeapBlock => return super::block::release(self.as_ptr()),
            Kind::Object => {}
        }
        self.check_alive("over-release");
        // SAFETY: an object of this crate; the count was not zero a moment ago, and going below is caught.
        match unsafe { (*self.0).count.fetch_sub(1, Ordering::AcqRel) } {
            0 => abort!("over-release: deallocated instance of {}", self.class().name()),
            1 => {
                self.class().count_freed();
                // SAFETY: nobody else holds a reference; the memory itself stays.
                drop(unsafe { (*self.0).value.take() });
                quarantine(self.0);
            }
            _ => {}
        }
    }

    /// The count, for tests and messages.
    pub(crate) fn retain_count(self) -> usize {
        // SAFETY: the caller has an object of this crate.
        unsafe { (*self.0).count.load(Ordering::Acquire) }
    }
}

/// One counted reference.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Ref(Id);

impl Ref {
    /// A new object with its value.
    pub(crate) fn new(class: &'static Class, value: impl Any + Send + Sync) -> Ref {
        Ref(Id::alloc(class).init(value))
    }

    /// Takes over a count that the caller owns.
    pub(crate) fn adopt(id: Id) -> Ref {
        Ref(id)
    }

    pub(crate) fn id(&self) -> Id {
        self.0
    }

    pub(crate) fn value<T: 'static>(&self) -> &T {
        self.0.value()
    }

    /// Hands the count to the caller, as `new…` and `copy` methods do.
    pub(crate) fn into_id(self) -> Id {
        let id = self.0;
        std::mem::forget(self);
        id
    }

    /// Hands the count to the innermost autorelease pool, as most methods do.
    pub(crate) fn autorelease(self) -> Id {
        super::pool::add(self.into_id())
    }
}

impl Clone for Ref {
    fn clone(&self) -> Ref {
        Ref(self.0.retain())
    }
}

impl Drop for Ref {
    fn drop(&mut self) {
        self.0.release();
    }
}
