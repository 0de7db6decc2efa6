//! Devices: every line of FFI and of unsafe code lives below this crate.
//!
//! This file holds the only gates for operating systems and devices.

pub mod cpu;
pub mod cuda;
pub mod process;

mod sdpa_graph;
