//! What a device offers besides kernels: identity, memory, transfers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::Executable;
use crate::op::Band;
use crate::tensor::{Buffer, DType, HostBytes};

/// Which device: a kind and a number, printed as `cpu:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// `cpu`, `metal`, `cuda`, `null`.
    pub kind: &'static str,
    /// Number among the devices of that kind.
    pub index: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.index)
    }
}

/// Bytes held on a device, now and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes handed out and not returned.
    pub in_use: usize,
    /// The highest `in_use` so far.
    pub peak: usize,
    /// Bytes kept for reuse.
    pub pooled: usize,
}

/// A band mask to be written: 0 where row `row` sees column `column`, −inf elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandFill {
    /// Which columns a row sees around its diagonal; the offset is that of row 0.
    pub band: Band,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub width: usize,
    /// f32, f16 or bf16.
    pub dtype: DType,
}

/// Bytes that a device is about to copy out ([`Device::read_later`]). Dropped, nobody waits for them.
pub trait PendingRead: Send + fmt::Debug {
    /// Waits for them, and for the work before them.
    ///
    /// # Errors
    /// [`Error::Device`] with the first failure of that work.
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Bytes that were there at once.
impl PendingRead for Vec<u8> {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(*self)
    }
}

/// Memory and transfers of one device. Kernels are registered separately.
///
/// Calls on one buffer from several threads are ordered by the caller, where one of them writes: as a
/// kernel of another thread may be writing too, nothing here checks it.
pub trait Device: Send + Sync + fmt::Debug {
    /// Kind and number.
    fn id(&self) -> DeviceId;

    /// A line for people: the processor's name, cores or memory, instruction sets.
    fn description(&self) -> String;

    /// A buffer of at least `bytes` bytes with unspecified contents.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Buffer>>;

    /// As [`Device::allocate`], in memory that the host reaches at once, where the device tells
    /// the two apart: for what the host fills in every step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate_shared(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.allocate(bytes)
    }

    /// A buffer holding `bytes`, without a copy where the device can read host memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn import(&self, bytes: HostBytes) -> Result<Arc<dyn Buffer>>;

    /// Copies `bytes` into `buffer` at `offset` bytes.
    ///
    /// # Errors
    /// [`Error::Device`] when the range lies outside or the buffer is read-only.
    fn write(&self, buffer: &dyn Buffer, offset: usize, bytes: &[u8]) -> Result<()>;

    /// Copies out of `buffer` at `offset` bytes, after all earlier work on it.
    ///
    /// # Errors
    /// [`Error::Device`] when the range lies outside.
    fn read(&self, buffer: &dyn Buffer, offset: usize, bytes: &mut [u8]) -> Result<()>;

    /// As [`Device::read`], in the order of the work around it and without waiting for it where the
    /// device can.
    ///
    /// # Errors
    /// [`Error::Device`] when the range lies outside, or the device fails.
    fn read_later(
        &self,
        buffer: &dyn Buffer,
        offset: usize,
        bytes: usize,
    ) -> Result<Box<dyn PendingRead>> {
        let mut read = vec![0; bytes];
        self.read(buffer, offset, &mut read)?;
        Ok(Box::new(read))
    }

    /// Fills `buffer` with zero bytes.
    ///
    /// # Errors
    /// [`Error::Device`] when the buffer is read-only.
    fn zero(&self, buffer: &dyn Buffer) -> Result<()>;

    /// Copies `bytes` bytes from one buffer to another, each from a byte on, in the order of the
    /// work around it.
    ///
    /// # Errors
    /// [`Error::Device`] when a range lies outside or the target is read-only.
    fn copy(
        &self,
        (from, from_offset): (&dyn Buffer, usize),
        (to, to_offset): (&dyn Buffer, usize),
        bytes: usize,
    ) -> Result<()> {
        let mut staging = vec![0; bytes];
        self.read(from, from_offset, &mut staging)?;
        self.write(to, to_offset, &staging)
    }

    /// Writes a dense mask `[rows, width]` from the first byte of `buffer` on, with a kernel of the
    /// device's own; false when it has none, and the caller writes it.
    ///
    /// # Errors
    /// [`Error::Device`] when the buffer is read-only or the device fails.
    fn fill_band(&self, buffer: &dyn Buffer, fill: &BandFill) -> Result<bool> {
        let _ = (buffer, fill);
        Ok(false)
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// [`Error::Device`] with the first failure of that work.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Whether [`Device::record`] works here.
    fn records(&self) -> bool {
        false
    }

    /// Calls `work` once and keeps what this thread puts on the device meanwhile, without running
    /// it. Memory that `work` takes belongs to the result until that is dropped; memory it only
    /// names must be there whenever the result is replayed.
    ///
    /// # Errors
    /// What `work` reports; [`Error::Device`] where nothing can be recorded, or what was done
    /// cannot.
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Arc<dyn Executable>> {
        let _ = work;
        let reason = "the device records nothing".to_owned();
        Err(Error::Device { device: self.id(), what: "record", reason })
    }

    /// Puts what [`Device::record`] kept on the device, in the order of the work around it.
    ///
    /// # Errors
    /// [`Error::Device`] when it is another device's, or the device fails.
    fn replay(&self, recorded: &dyn Executable) -> Result<()> {
        let _ = recorded;
        let reason = "the device records nothing".to_owned();
        Err(Error::Device { device: self.id(), what: "replay", reason })
    }

    /// Bytes in use.
    fn memory(&self) -> MemoryStats;

    /// Bytes that can still be had, kept ones among them; `None` where the device does not say.
    fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// The bytes of a file: mapped where the device can, read into memory otherwise.
    ///
    /// # Errors
    /// [`Error::Read`] with the operating system's words.
    fn map_file(&self, path: &Path) -> Result<HostBytes> {
        std::fs::read(path)
            .map(HostBytes::new)
            .map_err(|error| Error::Read { path: path.to_owned(), reason: error.to_string() })
    }
}
