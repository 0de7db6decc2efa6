//! The emulator on small kernels, against plain f64 loops.

mod cases;
mod features;
mod kernels;
mod mutants;
mod refusals;
mod sanitizers;
mod support;
