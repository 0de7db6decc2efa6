//! What kernels report about data they were given: a token id outside its table, a write past a
//! cache. The host learns of it when the submission is done.

use bytemuck::Zeroable;
use metallic::{Error, Result};

use super::buffer::{MetalBuffer, Storage};
use super::failure;
use super::layout::shader_struct;
use super::library::kernel_source;
use super::pool::Pool;
use std::sync::Arc;

/// What can be wrong with data on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// `value` is a token id, `limit` the rows of the table.
    TokenId,
    /// `value` is a first position, `limit` the capacity, `extent` the rows to be written.
    Position,
}

impl FaultKind {
    const ALL: [FaultKind; 2] = [FaultKind::TokenId, FaultKind::Position];

    fn error(self, fault: &Fault) -> Error {
        let Fault { value, limit, extent, .. } = fault;
        match self {
            FaultKind::TokenId => {
                failure("embedding", format!("token id {value} in a table of {limit} rows"))
            }
            FaultKind::Position => {
                failure("kv_append", format!("{extent} rows at position {value} of {limit}"))
            }
        }
    }
}

shader_struct! {
    [kernel_source!("embedding")]
    /// The first report of one kind: `Fault` in `common.h`.
    pub(super) struct Fault {
        /// How many reports there were.
        count: u32,
        value: i32,
        limit: i32,
        extent: i32,
    }
}

/// Room for the reports of one submission.
#[derive(Debug)]
pub(crate) struct Faults(MetalBuffer);

impl Faults {
    /// Room without a report.
    ///
    /// # Errors
    /// No memory.
    pub(crate) fn new(pool: &Arc<Pool>) -> Result<Self> {
        let bytes = size_of::<[Fault; FaultKind::ALL.len()]>();
        let faults = Self(pool.allocate(bytes, Storage::Shared)?);
        let start = faults.start();
        // SAFETY: the buffer is that long, and shared memory of the pool is not in use.
        unsafe { start.write([Fault::zeroed(); FaultKind::ALL.len()]) };
        Ok(faults)
    }

    /// The buffer, and where reports of `kind` begin in it.
    pub(crate) fn slot(&self, kind: FaultKind) -> (&MetalBuffer, usize) {
        (&self.0, kind as usize * size_of::<Fault>())
    }

    /// The first report, once the submission is done.
    ///
    /// # Errors
    /// The report, as the CPU device words it.
    pub(crate) fn check(&self) -> Result<()> {
        // SAFETY: as in `new`; the submission that wrote it is done.
        let faults = unsafe { self.start().read() };
        match FaultKind::ALL.into_iter().zip(&faults).find(|(_, fault)| fault.count > 0) {
            Some((kind, fault)) => Err(kind.error(fault)),
            None => Ok(()),
        }
    }

    fn start(&self) -> *mut [Fault; FaultKind::ALL.len()] {
        let start = self.0.host_start().expect("shared memory has an address here");
        start.as_ptr().cast()
    }
}
