//! The emulator on small kernels, against plain f64 loops.

mod features;
mod kernels;
mod sanitizers;
mod support;
