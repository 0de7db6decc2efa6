//! Devices: every line of FFI and of unsafe code lives below this crate.
//!
//! This file holds the only gates for operating systems and devices.

pub mod cpu;
pub mod process;

#[cfg(any(target_os = "macos", objc_standin))]
pub mod metal;

mod size_class;
