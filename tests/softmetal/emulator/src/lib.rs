//! Runs unmodified Metal Shading Language compute kernels on the CPU.
//!
//! A pre-pass turns preprocessed MSL into C++, clang compiles it against a shim of the MSL library,
//! and a runtime runs every thread of a threadgroup as a fiber. [`Library::compile`],
//! [`Library::function`] and [`Function::dispatch`] are what `newLibraryWithSource`,
//! `newFunctionWithName` and a dispatch are on a device.
//!
//! What it finds, beside wrong numbers:
//!
//! | mistake | found by |
//! |---|---|
//! | address spaces mixed, writes to constants, double | the rule check before each compilation |
//! | missing or misaligned bindings, sizes beyond the limits | each dispatch |
//! | barriers and simdgroup operations in divergent flow | strict mode |
//! | accesses outside of a buffer | guard pages, [`Sanitizer::Address`] |
//! | accesses outside of a threadgroup variable | patterns around it (writes), [`Sanitizer::Address`] |
//! | threadgroup memory or private variables that nobody wrote | they hold NaNs |
//! | races in a threadgroup and between threadgroups | [`Sanitizer::Thread`], other [`FiberOrder`]s |
//! | misaligned accesses | [`Sanitizer::Undefined`] |
//!
//! What it cannot find: a barrier whose flags name the wrong memory (only `mem_none` orders nothing),
//! methods called on objects outside of thread memory, register and occupancy limits, mistakes of
//! Apple's compiler. Numbers differ in the last places from a device's: other libraries, other fused
//! products. Threadgroups that wait for each other hang. A function constant counts as used by a kernel
//! if any code the kernel reaches mentions its name, be it as a variable of its own.

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
