//! cuDNN's backend functions, found in the library at run time, and a handle on one device.
//!
//! Declared here and not taken from `cudarc`, whose loader panics where a symbol is missing and whose
//! attribute names are those of the one cuDNN version chosen when it is built.

use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::cuda::libraries::{Component, Presence, library};
use crate::cuda::stream::Stream;

/// `cudnnStatus_t`; 0 is success.
pub(super) type Status = i32;
/// `cudnnBackendDescriptor_t` and `cudnnHandle_t`.
pub(super) type Raw = *mut c_void;

/// Bytes of an error text at most.
const MESSAGE: usize = 1024;
/// The first version whose attention holds everything that the graphs here ask for, and after the
/// faults of 9.10.0 and 9.10.1.
const OLDEST: (u32, u32, u32) = (9, 10, 2);

/// The functions that are used. Their signatures are those of `cudnn_graph.h` and `cudnn_ops.h`.
pub(super) struct Library {
    pub(super) version: String,
    pub(super) create_descriptor: unsafe extern "C" fn(i32, *mut Raw) -> Status,
    pub(super) destroy_descriptor: unsafe extern "C" fn(Raw) -> Status,
    pub(super) set_attribute: unsafe extern "C" fn(Raw, i32, i32, i64, *const c_void) -> Status,
    pub(super) get_attribute:
        unsafe extern "C" fn(Raw, i32, i32, i64, *mut i64, *mut c_void) -> Status,
    pub(super) finalize: unsafe extern "C" fn(Raw) -> Status,
    pub(super) execute: unsafe extern "C" fn(Raw, Raw, Raw) -> Status,
    create: unsafe extern "C" fn(*mut Raw) -> Status,
    destroy: unsafe extern "C" fn(Raw) -> Status,
    set_stream: unsafe extern "C" fn(Raw, *mut c_void) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
}

impl Library {
    /// The library, or what is missing.
    ///
    /// # Errors
    /// In words.
    pub(super) fn get() -> Result<&'static Library, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(Self::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Self, String> {
        let Presence { version, place } = library(Component::Cudnn).state.clone()?;
        if numbers(&version) < OLDEST {
            let (major, minor, patch) = OLDEST;
            return Err(format!("version {version} is older than {major}.{minor}.{patch}"));
        }
        // SAFETY: NVIDIA's library, which `library` has opened before under this name.
        let opened = unsafe { libloading::Library::new(&place) }.map_err(|e| e.to_string())?;
        // What the library is made of stays for the rest of the process.
        let opened: &'static libloading::Library = Box::leak(Box::new(opened));
        Ok(Self {
            version,
            create_descriptor: symbol(opened, "cudnnBackendCreateDescriptor")?,
            destroy_descriptor: symbol(opened, "cudnnBackendDestroyDescriptor")?,
            set_attribute: symbol(opened, "cudnnBackendSetAttribute")?,
            get_attribute: symbol(opened, "cudnnBackendGetAttribute")?,
            finalize: symbol(opened, "cudnnBackendFinalize")?,
            execute: symbol(opened, "cudnnBackendExecute")?,
            create: symbol(opened, "cudnnCreate")?,
            destroy: symbol(opened, "cudnnDestroy")?,
            set_stream: symbol(opened, "cudnnSetStream")?,
            error_string: symbol(opened, "cudnnGetErrorString")?,
            last_error: symbol(opened, "cudnnGetLastErrorString")?,
        })
    }

    /// The failure of `what` in words; nothing for success.
    ///
    /// # Errors
    /// As `finalize of CUDNN_BACKEND_…: CUDNN_STATUS_BAD_PARAM (…)`.
    pub(super) fn check(
        &self,
        status: Status,
        what: impl FnOnce() -> String,
    ) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a text that lives as long as the library, for any number.
        let name = unsafe { (self.error_string)(status) };
        let name = if name.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: a text of the library's, which ends with a zero byte.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        let mut message = [0u8; MESSAGE];
        // SAFETY: the buffer has that many bytes.
        unsafe { (self.last_error)(message.as_mut_ptr().cast(), MESSAGE - 1) };
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default().to_string_lossy();
        let text = text.trim().replace('\n', "; ");
        let what = what();
        Err(match text.is_empty() {
            true => format!("{what}: {name}"),
            false => format!("{what}: {name} ({text})"),
        })
    }
}

fn symbol<T: Copy>(library: &'static libloading::Library, name: &str) -> Result<T, String> {
    // SAFETY: the types above are the documented signatures of these functions.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|error| error.to_string())
}

/// `9.19.0` as numbers; what is no number counts as 0.
fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// A handle that works on one device's stream. Not to be used from two threads at once.
pub(super) struct Handle {
    raw: Raw,
    library: &'static Library,
    stream: Arc<Stream>,
}

// SAFETY: a handle belongs to no thread; its users hold a lock.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// A handle that works on `stream`.
    ///
    /// # Errors
    /// In words.
    pub(super) fn new(library: &'static Library, stream: &Arc<Stream>) -> Result<Self, String> {
        stream.bind().map_err(|error| error.to_string())?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to one handle; the device's context is this thread's.
        library.check(unsafe { (library.create)(&mut raw) }, || "cudnnCreate".to_owned())?;
        let handle = Self { raw, library, stream: Arc::clone(stream) };
        // SAFETY: both are alive; the stream outlives the handle, which holds it.
        let status = unsafe { (library.set_stream)(raw, stream.raw().cast()) };
        library.check(status, || "cudnnSetStream".to_owned())?;
        Ok(handle)
    }

    /// The library's own handle.
    pub(super) fn raw(&self) -> Raw {
        self.raw
    }

    /// The library.
    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    /// The stream it works on.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.stream.synchronize().is_ok() {
            // SAFETY: made in `new`, destroyed once, after all work.
            let _ = unsafe { (self.library.destroy)(self.raw) };
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuDNN {}", self.library.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(numbers("9.19.0"), (9, 19, 0));
        assert!(numbers("9.10.1") < OLDEST && numbers("9.9.0") < OLDEST);
        assert!(numbers("9.10.2") >= OLDEST && numbers("10.0.0") >= OLDEST);
        assert_eq!(numbers("?"), (0, 0, 0));
    }

    #[test]
    fn absence_is_a_reason() {
        if let Err(reason) = Library::get() {
            assert!(!reason.is_empty());
        }
    }
}
