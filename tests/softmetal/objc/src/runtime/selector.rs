//! Selectors: interned names, compared by address.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::sync::{OnceLock, RwLock};

/// A registered selector: the address of its interned, NUL-terminated name.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Sel(*const c_char);

// SAFETY: interned names are never changed or freed.
unsafe impl Send for Sel {}
// SAFETY: as above.
unsafe impl Sync for Sel {}

fn table() -> &'static RwLock<HashMap<CString, Sel>> {
    static TABLE: OnceLock<RwLock<HashMap<CString, Sel>>> = OnceLock::new();
    TABLE.get_or_init(Default::default)
}

impl Sel {
    /// The selector of this name; the same name gives the same address.
    pub(crate) fn register(name: &CStr) -> Sel {
        if let Some(sel) = table().read().unwrap().get(name) {
            return *sel;
        }
        let mut table = table().write().unwrap();
        *table
            .entry(name.to_owned())
            .or_insert_with(|| Sel(name.to_owned().into_raw().cast_const()))
    }

    pub(crate) fn as_ptr(self) -> *const c_char {
        self.0
    }

    /// The name, for messages.
    pub(crate) fn name(self) -> &'static str {
        if self.0.is_null() {
            return "<null selector>";
        }
        // SAFETY: every non-null selector comes from `register`, which leaks a NUL-terminated name.
        unsafe { CStr::from_ptr(self.0) }.to_str().unwrap_or("<not UTF-8>")
    }
}
