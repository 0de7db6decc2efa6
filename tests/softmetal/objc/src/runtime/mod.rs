//! A small Objective-C runtime: what objc2 and block2 link against, and no more.
//!
//! Classes are Rust statics with a method table; objects hold a count and a boxed Rust value. Every
//! misuse that Apple's runtime answers by ending the process ends it here too, with a line that names
//! class and selector.

pub(crate) mod abort;
pub(crate) mod block;
pub(crate) mod class;
pub(crate) mod encode;
mod ffi;
mod ffi_class;
pub(crate) mod object;
pub(crate) mod pool;
pub(crate) mod selector;

pub(crate) use abort::fatal;
pub(crate) use block::BlockPtr;
pub(crate) use class::Class;
pub(crate) use object::{Id, Ref};
pub(crate) use selector::Sel;
