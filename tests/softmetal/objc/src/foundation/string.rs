//! NSString: immutable UTF-8.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(pub(crate) NS_STRING, "NSString");
class!(NS_MUTABLE_STRING, "NSMutableString", NS_STRING);

/// `NSUTF8StringEncoding`.
const UTF8: i32 = 4;

/// The value of a string object.
pub(crate) struct Text(CString);

/// A new string object.
pub(crate) fn make(text: &str) -> Ref {
    Ref::new(&NS_STRING, value(text))
}

fn value(text: &str) -> Text {
    Text(CString::new(text.replace('\0', "")).expect("the NULs were taken out"))
}

/// The text of a string object, or none for nil.
pub(crate) fn read(id: Id) -> Option<String> {
    (!id.is_nil()).then(|| id.value::<Text>().0.to_string_lossy().into_owned())
}

methods! { install_string for NS_STRING;
    + "string" (_class) -> Id { make("").autorelease() }
    - "init" (this) -> Id { this.init(value("")) }
    - "initWithBytes:length:encoding:" (this, bytes: *const c_void, length: usize, encoding: i32) -> Id {
        if encoding != UTF8 {
            abort!("-[NSString initWithBytes:length:encoding:]: encoding {encoding} is not modelled");
        }
        // SAFETY: the caller passes `length` bytes; the pointer of an empty string may be anything.
        let bytes = if length == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) } };
        match std::str::from_utf8(bytes) {
            Ok(text) => this.init(value(text)),
            Err(_) => {
                this.release();
                Id::NIL
            }
        }
    }
    + "stringWithUTF8String:" (_class, text: *const c_char) -> Id {
        // SAFETY: the caller passes a NUL-terminated string.
        make(&unsafe { CStr::from_ptr(text) }.to_string_lossy()).autorelease()
    }
    - "UTF8String" (this) -> *const c_char { this.value::<Text>().0.as_ptr() }
    - "lengthOfBytesUsingEncoding:" (this, encoding: i32) -> usize {
        if encoding == UTF8 { this.value::<Text>().0.as_bytes().len() } else { 0 }
    }
    - "length" (this) -> usize { read(this).map_or(0, |text| text.encode_utf16().count()) }
    - "isEqualToString:" (this, other: Id) -> u8 { u8::from(read(this) == read(other)) }
    - "isEqual:" (this, other: Id) -> u8 {
        u8::from(other.try_value::<Text>().is_some_and(|text| text.0 == this.value::<Text>().0))
    }
    - "hash" (this) -> usize {
        this.value::<Text>().0.as_bytes().iter().fold(5381, |h: usize, b| h.wrapping_mul(33) ^ usize::from(*b))
    }
    - "description" (this) -> Id { make(&read(this).unwrap_or_default()).autorelease() }
    - "mutableCopy" (this) -> Id { Ref::new(&NS_MUTABLE_STRING, value(&read(this).unwrap_or_default())).into_id() }
}
methods! { install_mutable for NS_MUTABLE_STRING; }

pub(crate) fn install() {
    install_string();
    install_mutable();
}
