//! Devices: every line of FFI and of unsafe code lives below this crate.
//!
//! This file holds the only gates for operating systems and devices.

pub mod certificate;
mod composed;
pub mod cpu;
pub mod cuda;
pub mod engines;
mod graph_options;
mod json_file;
#[cfg(any(target_os = "macos", objc_standin))]
pub mod metal;
#[cfg(not(any(target_os = "macos", objc_standin)))]
#[path = "metal_absent.rs"]
pub mod metal;
pub mod probe;
pub mod process;
mod profile;
mod sdpa_graph;
mod segment_graph;
mod size_class;

pub use graph_options::{GraphOptions, HiddenKeys, Operands, Terms};
pub use profile::Profile;

/// The kinds of devices in this build, the one that runs by default first.
pub const KINDS: &[&str] = if metal::PRESENT { &["metal", "cpu"] } else { &["cpu", "cuda"] };

/// The kinds of devices that other builds have, each with its operating system.
pub const KINDS_ELSEWHERE: &[(&str, &str)] =
    if metal::PRESENT { &[("cuda", "Linux")] } else { &[("metal", "macOS")] };
