//! Stand-ins for the Objective-C runtime, Foundation, Metal, MPS and MPSGraph, so that the Apple backend
//! links and runs on Linux as it is. They are strict where Apple's frameworks end the process, and
//! hostile where those promise nothing: see [`control`].
//!
//! It proves the backend's use of the interfaces. It does not prove Apple's frameworks, and speed says
//! nothing.

mod classes;
mod control;
mod environment;
mod foundation;
mod gates;
mod graph;
mod metal;
mod mps;
mod runtime;

pub use softmetal_emulator::{CompileOptions, FiberOrder};

pub use control::{ClassCount, Control, CounterSampling, Version, control, counts};
