//! The Metal device's own source once more, as a crate that is only tested: its unit tests are part of
//! `metallic_devices`, which cannot depend on stand-ins. `src/metal` is a link to the device's folder, and
//! the modules beside it are those of `metallic_devices` that the device knows.

// What the CPU and CUDA use of these modules is not used here.
#![allow(dead_code, missing_docs, unreachable_pub)]

// Linked in place of Apple's frameworks.
#[cfg(test)]
use softmetal_objc as _;

#[path = "../../../../crates/metallic_devices/src/certificate.rs"]
pub mod certificate;
#[path = "../../../../crates/metallic_devices/src/composed.rs"]
mod composed;
#[path = "../../../../crates/metallic_devices/src/graph_options.rs"]
mod graph_options;
#[path = "../../../../crates/metallic_devices/src/json_file.rs"]
mod json_file;
pub mod metal;
#[path = "../../../../crates/metallic_devices/src/probe.rs"]
pub mod probe;
#[path = "../../../../crates/metallic_devices/src/process.rs"]
pub mod process;
#[path = "../../../../crates/metallic_devices/src/profile.rs"]
mod profile;
#[path = "../../../../crates/metallic_devices/src/size_class.rs"]
mod size_class;

pub use graph_options::{GraphOptions, HiddenKeys, Operands, Terms};
pub use profile::Profile;
