//! NSData: immutable bytes.

use std::ffi::c_void;

use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Id, Ref};

class!(pub(crate) NS_DATA, "NSData");

/// The value of a data object.
struct Bytes(Vec<u8>);

/// A new data object.
pub(crate) fn make(bytes: Vec<u8>) -> Ref {
    Ref::new(&NS_DATA, Bytes(bytes))
}

/// The bytes of a data object.
pub(crate) fn read(id: &Id) -> &[u8] {
    &id.value::<Bytes>().0
}

fn copied(bytes: *const c_void, length: usize) -> Bytes {
    if length == 0 {
        return Bytes(Vec::new());
    }
    // SAFETY: the caller passes `length` bytes.
    Bytes(unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) }.to_vec())
}

/// libdispatch's data are objects of the system too; here they are `NSData`, always a copy.
///
/// # Safety
/// `bytes` points to `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn dispatch_data_create(
    bytes: *const c_void,
    size: usize,
    _queue: *mut c_void,
    destructor: *mut c_void,
) -> Id {
    crate::runtime::class::ensure_installed();
    if !destructor.is_null() {
        abort!("dispatch data with a destructor are not modelled");
    }
    Ref::new(&NS_DATA, copied(bytes, size)).into_id()
}

methods! { install for NS_DATA;
    + "data" (_class) -> Id { make(Vec::new()).autorelease() }
    + "dataWithBytes:length:" (class, bytes: *const c_void, length: usize) -> Id {
        Ref::new(class, copied(bytes, length)).autorelease()
    }
    - "init" (this) -> Id { this.init(Bytes(Vec::new())) }
    - "initWithBytes:length:" (this, bytes: *const c_void, length: usize) -> Id { this.init(copied(bytes, length)) }
    // The memory goes back through the block at once: data are copies here.
    - "initWithBytesNoCopy:length:deallocator:" (this, bytes: *mut c_void, length: usize, deallocator: BlockPtr) -> Id {
        let id = this.init(copied(bytes, length));
        if let Some(block) = deallocator.copied() {
            block.call_with_memory(bytes, length);
        }
        id
    }
    - "length" (this) -> usize { read(&this).len() }
    - "bytes" (this) -> *const c_void { read(&this).as_ptr().cast() }
    - "isEqualToData:" (this, other: Id) -> u8 { u8::from(read(&this) == read(&other)) }
}
