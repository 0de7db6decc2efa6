//! Runs unmodified Metal Shading Language compute kernels on the CPU.
//!
//! A pre-pass turns preprocessed MSL into C++, clang compiles it against a shim of the MSL library,
//! and a runtime runs every thread of a threadgroup as a fiber. What it finds beside wrong numbers:
//! divergent barriers and simdgroup operations, accesses out of bounds, reads of threadgroup memory
//! that nobody wrote, and with a sanitizer races and misaligned accesses.

mod cache;
mod compile;
mod constants;
mod function;
mod guard;
mod launch;
mod library;
mod module;
mod options;
mod prepass;
mod regions;
mod runner;
mod token;

pub use compile::check_rules;
pub use constants::{Constant, ConstantValue};
pub use function::{BindingInfo, BindingKind, Function, Grid};
pub use library::{Field, Layout, Library};
pub use options::{CompileOptions, FiberOrder, Sanitizer};
