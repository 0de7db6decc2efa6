//! Kernels that were compiled with the program: one `.metallib` a file, embedded by `build.rs` when
//! `METALLIC_METALLIB=1` was set. Functions are specialised by their constants at run time either way.

use std::ffi::c_void;
use std::ptr;

use objc2::msg_send;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObject, ProtocolObject};
use objc2_foundation::NSError;
use objc2_metal::MTLDevice;

use super::command_buffer::error_text;
use super::library::Library;

#[cfg(metallic_metallib)]
include!(concat!(env!("OUT_DIR"), "/metallibs.rs"));
#[cfg(not(metallic_metallib))]
const EMBEDDED: &[(&str, &[u8])] = &[];

unsafe extern "C" {
    /// A `dispatch_data_t`, an object, with a copy of the bytes where `destructor` is null. NULL
    /// without memory.
    fn dispatch_data_create(
        bytes: *const c_void,
        size: usize,
        queue: *mut c_void,
        destructor: *mut c_void,
    ) -> *mut NSObject;
}

/// The libraries by the names of their files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Precompiled(&'static [(&'static str, &'static [u8])]);

impl Precompiled {
    /// Those of this build: all files, or none.
    pub(super) const EMBEDDED: Self = Self(EMBEDDED);

    /// Another table.
    #[cfg(test)]
    pub(super) const fn of(table: &'static [(&'static str, &'static [u8])]) -> Self {
        Self(table)
    }

    /// The bytes of a file's library.
    pub(super) fn bytes(self, name: &str) -> Option<&'static [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }

    /// The bytes of some library.
    pub(super) fn first(self) -> Option<&'static [u8]> {
        self.0.first().map(|(_, bytes)| *bytes)
    }
}

/// The library of `bytes`, or why there is none: the system may be older than the compiler meant.
pub(super) fn load(
    device: &ProtocolObject<dyn MTLDevice>,
    bytes: &[u8],
) -> Result<Library, String> {
    autoreleasepool(|_| {
        let none = ptr::null_mut();
        // SAFETY: the bytes are copied before the call returns, and the object is the caller's.
        let data: Option<Retained<NSObject>> = unsafe {
            Retained::from_raw(dispatch_data_create(bytes.as_ptr().cast(), bytes.len(), none, none))
        };
        let data = data.ok_or("no memory")?;
        // SAFETY: the method takes a `dispatch_data_t` and gives an object of that protocol, which
        // is the caller's, or an error.
        let library: Result<Library, Retained<NSError>> =
            unsafe { msg_send![device, newLibraryWithData: &*data, error: _] };
        library.map_err(|error| error_text(&error))
    })
}
