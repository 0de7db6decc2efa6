//! The emulator on small kernels, against plain f64 loops.

mod features;
mod kernels;
mod refusals;
mod sanitizers;
mod support;
