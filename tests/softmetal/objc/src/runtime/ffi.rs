//! The C entry points that objc2 and block2 call for messages and reference counts.

use std::ffi::{CStr, c_char, c_void};

use super::abort::abort;
use super::class::{Class, Kind, ensure_installed};
use super::object::{Id, Ref};
use super::pool;
use super::selector::Sel;

/// A receiver with the class where the lookup starts.
#[repr(C)]
struct Super {
    receiver: Id,
    class: &'static Class,
}

fn code_of(receiver: Id, class: &'static Class, sel: Sel) -> *const c_void {
    match class.find(sel) {
        Some(method) => method.code,
        None if class.kind() == Kind::Meta => {
            abort!("+[{} {}]: unrecognized selector sent to class", class.name(), sel.name())
        }
        None => abort!(
            "-[{} {}]: unrecognized selector sent to instance {:#x}",
            class.name(),
            sel.name(),
            receiver.address()
        ),
    }
}

extern "C-unwind" fn answer_of_nil(_: Id, _: Sel) -> *mut c_void {
    std::ptr::null_mut()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_msg_lookup(receiver: Id, sel: Sel) -> *const c_void {
    if receiver.is_nil() {
        return answer_of_nil as extern "C-unwind" fn(Id, Sel) -> *mut c_void as *const c_void;
    }
    ensure_installed();
    let class = receiver.class();
    if class.kind() == Kind::Object {
        receiver.check_alive(sel.name());
    }
    code_of(receiver, class, sel)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_msg_lookup_super(message: &Super, sel: Sel) -> *const c_void {
    ensure_installed();
    code_of(message.receiver, message.class, sel)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_alloc(class: &'static Class) -> Id {
    ensure_installed();
    Id::alloc(class)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retain(id: Id) -> Id {
    id.retain()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_release(id: Id) {
    id.release();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autorelease(id: Id) -> Id {
    pool::add(id)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleaseReturnValue(id: Id) -> Id {
    pool::add(id)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retainAutorelease(id: Id) -> Id {
    pool::add(id.retain())
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retainAutoreleaseReturnValue(id: Id) -> Id {
    pool::add(id.retain())
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retainAutoreleasedReturnValue(id: Id) -> Id {
    id.retain()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_retainBlock(id: Id) -> Id {
    Id::from_ptr(super::block::copy(id.as_ptr()))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_storeStrong(place: *mut Id, value: Id) {
    let kept = value.retained().map_or(Id::NIL, Ref::into_id);
    // SAFETY: the caller passes the address of a strong reference.
    let before = unsafe { std::ptr::replace(place, kept) };
    before.release();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPush() -> *mut c_void {
    pool::push() as *mut c_void
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPop(token: *mut c_void) {
    pool::pop(token as usize);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_exception_throw(exception: Id) -> ! {
    abort!("an exception was thrown: instance of {}", exception.class().name())
}

#[unsafe(no_mangle)]
extern "C" fn sel_registerName(name: *const c_char) -> Sel {
    // SAFETY: the caller passes a NUL-terminated name.
    Sel::register(unsafe { CStr::from_ptr(name) })
}

#[unsafe(no_mangle)]
extern "C" fn sel_getName(sel: Sel) -> *const c_char {
    sel.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn sel_isEqual(a: Sel, b: Sel) -> u8 {
    u8::from(a == b)
}
