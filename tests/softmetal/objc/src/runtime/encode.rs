//! Type encodings of methods, derived from the Rust function types, so that objc2's check of every
//! message against its method holds by construction.

use std::ffi::{c_char, c_void};

use super::block::BlockPtr;
use super::class::Class;
use super::object::Id;
use super::selector::Sel;

/// A type with an Objective-C encoding.
pub(crate) trait Encoded {
    const ENCODING: &'static str;
}

macro_rules! encodings {
    ($($ty:ty => $encoding:literal),* $(,)?) => {
        $(impl Encoded for $ty { const ENCODING: &'static str = $encoding; })*
    };
}

// BOOL is an unsigned char with GNUstep's layout, which objc2 uses on Linux.
encodings! {
    () => "v", Id => "@", &'static Class => "#", Sel => ":", BlockPtr => "@?",
    usize => "Q", isize => "q", u64 => "Q", i64 => "q", u32 => "I", i32 => "i", u16 => "S", i16 => "s",
    u8 => "C", i8 => "c", f32 => "f", f64 => "d",
    *const Id => "^@", *mut Id => "^@", *const c_void => "^v", *mut c_void => "^v",
    *const c_char => "*", *const usize => "^Q", *mut usize => "^Q", *mut isize => "^q", *mut u64 => "^Q",
    *const f32 => "^f",
}

macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident => $encoding:literal { $($field:ident: $ty:ty),* $(,)? })*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(crate) struct $name { $(pub(crate) $field: $ty),* }
        impl Encoded for $name { const ENCODING: &'static str = $encoding; }
    )* };
}

structs! {
    /// `MTLSize`: threads or threadgroups along three axes.
    Size => "{?=QQQ}" { width: usize, height: usize, depth: usize }
    /// `NSOperatingSystemVersion`.
    OsVersion => "{?=qqq}" { major: isize, minor: isize, patch: isize }
    /// `NSRange` in bytes or elements.
    Range => "{_NSRange=QQ}" { location: usize, length: usize }
    /// `MTLSizeAndAlign`, bytes.
    SizeAndAlign => "{?=QQ}" { size: usize, align: usize }
}

/// `NSFastEnumerationState`.
#[repr(C)]
pub(crate) struct FastEnumeration {
    pub(crate) state: u64,
    pub(crate) items: *const Id,
    pub(crate) mutations: *const u64,
    pub(crate) extra: [u64; 5],
}

impl Encoded for *mut FastEnumeration {
    const ENCODING: &'static str = "^{?=Q^@^Q[5Q]}";
}

/// A function that can stand in a method table.
pub(crate) trait Implementation: Copy {
    fn address(self) -> *const c_void;
    fn types() -> String;
}

macro_rules! implementations {
    ($(($($arg:ident),*))*) => { $(
        impl<R: Encoded, S: Encoded, $($arg: Encoded),*> Implementation
            for extern "C-unwind" fn(S, Sel $(, $arg)*) -> R
        {
            fn address(self) -> *const c_void {
                self as *const c_void
            }
            fn types() -> String {
                [R::ENCODING, S::ENCODING, ":" $(, $arg::ENCODING)*].concat()
            }
        }
    )* };
}

implementations! {
    () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G)
    (A, B, C, D, E, F, G, H)
}
