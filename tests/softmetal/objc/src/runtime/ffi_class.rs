//! The C entry points that ask about classes and methods: objc2 checks every message with them in
//! builds with debug assertions.

use std::ffi::{CStr, c_char, c_void};

use super::class::{self, Class, Kind, Method, ensure_installed};
use super::object::Id;
use super::selector::Sel;

#[unsafe(no_mangle)]
extern "C" fn objc_getClass(name: *const c_char) -> Option<&'static Class> {
    // SAFETY: the caller passes a NUL-terminated name.
    class::lookup(unsafe { CStr::from_ptr(name) })
}

#[unsafe(no_mangle)]
extern "C" fn object_getClass(id: Id) -> Option<&'static Class> {
    (!id.is_nil()).then(|| id.class())
}

#[unsafe(no_mangle)]
extern "C" fn class_getName(class: &'static Class) -> *const c_char {
    class.name_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn class_getSuperclass(class: &'static Class) -> Option<&'static Class> {
    class.superclass()
}

#[unsafe(no_mangle)]
extern "C" fn class_isMetaClass(class: &'static Class) -> u8 {
    u8::from(class.kind() == Kind::Meta)
}

#[unsafe(no_mangle)]
extern "C" fn class_respondsToSelector(class: &'static Class, sel: Sel) -> u8 {
    ensure_installed();
    u8::from(class.find(sel).is_some())
}

#[unsafe(no_mangle)]
extern "C" fn class_getInstanceMethod(class: &'static Class, sel: Sel) -> Option<&'static Method> {
    ensure_installed();
    class.find(sel)
}

#[unsafe(no_mangle)]
extern "C" fn class_getClassMethod(class: &'static Class, sel: Sel) -> Option<&'static Method> {
    ensure_installed();
    class.metaclass().find(sel)
}

#[unsafe(no_mangle)]
extern "C" fn method_getName(method: &'static Method) -> Sel {
    method.sel
}

#[unsafe(no_mangle)]
extern "C" fn method_getTypeEncoding(method: &'static Method) -> *const c_char {
    method.types.as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn method_getImplementation(method: &'static Method) -> *const c_void {
    method.code
}
