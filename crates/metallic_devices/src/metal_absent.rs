//! The Metal device where Apple's frameworks are not: the same names, and no device.

use metallic::device::DeviceId;
use metallic::dispatch::Policies;
use metallic::{Context, Error, Result};
use metallic_instrumentation::Recorder;

use crate::certificate::Machine;
use crate::{GraphOptions, Profile};

/// Whether this build has the device.
pub const PRESENT: bool = false;

/// How to open the GPU.
#[derive(Clone, Debug, Default)]
pub struct MetalOptions {
    /// When work is handed to the GPU.
    pub profile: Profile,
    /// Kernels in one command buffer at most.
    pub max_kernels: usize,
    /// How graphs are compiled and run.
    pub graph: GraphOptions,
}

/// No GPU.
#[derive(Debug)]
pub struct MetalDevice;

impl MetalDevice {
    /// Says that there is none.
    ///
    /// # Errors
    /// [`Error::Device`], always.
    pub fn context(_: MetalOptions, _: Policies, _: Recorder) -> Result<Context> {
        Err(absent())
    }
}

fn absent() -> Error {
    let device = DeviceId { kind: "metal", index: 0 };
    let reason = "this build has no Metal device".to_owned();
    Error::Device { device, what: "open", reason }
}

/// Says that there is none.
///
/// # Errors
/// [`Error::Device`], always.
pub fn machine() -> Result<Machine> {
    Err(absent())
}

/// Probes of a device that is not there.
pub mod probe {
    use super::{Result, absent};
    use crate::probe::{Finding, Probe};

    /// None.
    pub const PROBES: &[Probe] = &[];

    /// Says that there is no device.
    ///
    /// # Errors
    /// [`metallic::Error::Device`], always.
    pub fn run(_: &str) -> Result<Finding> {
        Err(absent())
    }
}
