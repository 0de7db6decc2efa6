//! What a kernel is to the registry, and what it may use while it runs.

use std::fmt;

use metallic_instrumentation::Recorder;

use super::Support;
use crate::cache::ResourceCache;
use crate::device::Device;
use crate::error::Result;
use crate::op::Op;

/// What a kernel may use. There is no registry in it, so a kernel cannot dispatch again.
#[derive(Clone, Copy)]
pub struct ExecCx<'a> {
    /// Memory and transfers.
    pub device: &'a dyn Device,
    /// Compiled executables and masks.
    pub cache: &'a ResourceCache,
    /// Where events go.
    pub recorder: &'a Recorder,
}

impl fmt::Debug for ExecCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecCx").field("device", &self.device).finish_non_exhaustive()
    }
}

/// One way to run an op on one device.
pub trait KernelInvocable<O: Op>: Send + Sync {
    /// Whether this kernel takes calls of this spec.
    fn supports(&self, spec: &O::Spec) -> Support;

    /// Runs a call that [`Op::check`] accepted and [`KernelInvocable::supports`] agreed to.
    ///
    /// # Errors
    /// [`crate::Error::Compile`] or [`crate::Error::CacheFrozen`] before anything was written;
    /// [`crate::Error::Device`] or [`crate::Error::OutOfMemory`] when the device fails.
    fn run(&self, cx: &ExecCx<'_>, spec: &O::Spec, args: &O::Args) -> Result<()>;
}
