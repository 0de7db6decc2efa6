//! Tests of the stand-ins, through objc2 as the backend uses it.

mod aborts;
mod foundation;
mod graph;
mod metal;
mod runtime;

use softmetal_objc as _;
