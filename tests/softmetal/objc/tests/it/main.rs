//! Tests of the stand-ins, through objc2 as the backend uses it.

// Every binding of MPSGraph is unsafe. The calls below pass live objects and memory of the sizes they
// name, or mean to be refused.
#![allow(clippy::undocumented_unsafe_blocks, clippy::print_stderr)]

mod aborts;
mod compute;
mod counters;
mod faults;
mod foundation;
mod graph;
mod heap;
mod matrix;
mod metal;
mod runtime;

use softmetal_objc as _;
