//! NSObject: allocation, counting, identity and questions about methods.

use crate::runtime::class::methods;
use crate::runtime::{Class, Id, Ref, Sel, fatal};

#[unsafe(export_name = "._OBJC_CLASS_NSObject")]
pub(crate) static NS_OBJECT: Class = Class::new(c"NSObject", None);

/// What a bare `init` gives: an object with no value of its own.
struct Plain;

methods! { install for NS_OBJECT;
    + "alloc" (class) -> Id { Id::alloc(class) }
    + "new" (class) -> Id {
        let id = Id::alloc(class);
        let init = Sel::register(c"init");
        let method = class.find(init).unwrap_or_else(|| fatal("NSObject lost its init"));
        // SAFETY: `init` takes no argument and returns an object, in every class here.
        let code: extern "C-unwind" fn(Id, Sel) -> Id = unsafe { std::mem::transmute(method.code) };
        code(id, init)
    }
    + "class" (class) -> &'static Class { class }
    - "init" (this) -> Id { this.init(Plain) }
    - "retain" (this) -> Id { this.retain() }
    - "release" (this) { this.release() }
    - "autorelease" (this) -> Id { Ref::adopt(this).autorelease() }
    - "retainCount" (this) -> usize { this.retain_count() }
    - "copy" (this) -> Id { this.retain() }
    - "copyWithZone:" (this, _zone: *const std::ffi::c_void) -> Id { this.retain() }
    - "hash" (this) -> usize { this.address() }
    - "isEqual:" (this, other: Id) -> u8 { u8::from(this == other) }
    - "class" (this) -> &'static Class { this.class() }
    - "isKindOfClass:" (this, class: &'static Class) -> u8 { u8::from(this.class().is_kind_of(class)) }
    - "isMemberOfClass:" (this, class: &'static Class) -> u8 { u8::from(std::ptr::eq(this.class(), class)) }
    - "respondsToSelector:" (this, sel: Sel) -> u8 { u8::from(this.class().find(sel).is_some()) }
    + "instancesRespondToSelector:" (class, sel: Sel) -> u8 { u8::from(class.find(sel).is_some()) }
    - "description" (this) -> Id {
        super::string::make(&format!("<{}: {:#x}>", this.class().name(), this.address())).autorelease()
    }
    - "debugDescription" (this) -> Id {
        super::string::make(&format!("<{}: {:#x}>", this.class().name(), this.address())).autorelease()
    }
}
