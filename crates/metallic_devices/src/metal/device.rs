//! The GPU as a device: memory, transfers, mapped files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metallic::cache::ResourceCache;
use metallic::device::{BandFill, Device, DeviceId, MemoryStats};
use metallic::dispatch::{KernelBackendRegistry, Policies};
use metallic::tensor::{Buffer, HostBytes};
use metallic::{Context, Result};
use metallic_instrumentation::Recorder;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice};

use super::buffer::{Bound, METAL, MetalBuffer, Storage, read_only};
use super::description::Identity;
use super::failure;
use super::mapping::Mappings;
use super::mask;
use super::stream::{Metal, StreamOptions};
use crate::{GraphOptions, Profile};

// A command-line program on macOS gets no default device unless it is linked with this
// framework (documentation of MTLCreateSystemDefaultDevice).
#[cfg_attr(target_vendor = "apple", link(name = "CoreGraphics", kind = "framework"))]
unsafe extern "C" {}

/// Bytes that go through one staging buffer.
const STAGING_BYTES: usize = 16 << 20;

/// How to open the GPU.
#[derive(Clone, Debug)]
pub struct MetalOptions {
    /// When work is handed to the GPU.
    pub profile: Profile,
    /// Kernels in one command buffer at most. Enough to hide the cost of handing one over (about
    /// 10 µs), few enough that the GPU begins early.
    pub max_kernels: usize,
    /// How graphs are compiled and run.
    pub graph: GraphOptions,
}

impl Default for MetalOptions {
    fn default() -> Self {
        Self { profile: Profile::Throughput, max_kernels: 128, graph: GraphOptions::default() }
    }
}

/// Bytes of weights by the way they came onto the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportStats {
    /// Pages of mapped files that the GPU reads in place, now.
    pub mapped: usize,
    /// Bytes that had to be copied, so far.
    pub copied: usize,
}

/// The default GPU.
pub struct MetalDevice {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    identity: Identity,
    metal: Metal,
    mappings: Arc<Mappings>,
    copied: AtomicUsize,
}

impl MetalDevice {
    /// Opens the default GPU. Events of its profile go to `recorder`.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when there is none, or it gives no queue.
    pub fn new(options: MetalOptions, recorder: Recorder) -> Result<Self> {
        let device = autoreleasepool(|_| MTLCreateSystemDefaultDevice());
        let none = || failure("open", "this machine has no Metal device; the cpu device is left");
        let device = device.ok_or_else(none)?;
        let MetalOptions { profile, max_kernels, .. } = options;
        let stream = StreamOptions { profile, max_kernels: max_kernels.max(1) };
        Ok(Self {
            identity: Identity::of(&device),
            metal: Metal::new(&device, stream, recorder)?,
            device,
            mappings: Arc::default(),
            copied: AtomicUsize::new(0),
        })
    }

    /// A context on the default GPU with all its kernels.
    ///
    /// # Errors
    /// As [`MetalDevice::new`].
    pub fn context(
        options: MetalOptions,
        policies: Policies,
        recorder: Recorder,
    ) -> Result<Context> {
        let graph = options.graph.clone();
        let device = Self::new(options, recorder.clone())?;
        let mut registry = KernelBackendRegistry::new(METAL, policies);
        super::register(&mut registry, &device);
        super::graph::register(&mut registry, &device, &graph, &recorder);
        Ok(Context::new(Arc::new(device), registry, ResourceCache::default(), recorder))
    }

    /// The object.
    pub(crate) fn raw(&self) -> &ProtocolObject<dyn MTLDevice> {
        &self.device
    }

    /// Its stream.
    pub(crate) fn metal(&self) -> &Metal {
        &self.metal
    }

    /// Its name, family and operating system.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How weights came onto the device.
    pub fn imports(&self) -> ImportStats {
        let copied = self.copied.load(Ordering::Relaxed);
        ImportStats { mapped: self.metal.pool().mapped(), copied }
    }

    /// Pipeline states made so far.
    pub fn pipelines(&self) -> usize {
        self.metal.pipelines().len()
    }

    fn buffer<'a>(
        &self,
        what: &'static str,
        buffer: &'a dyn Buffer,
        (offset, bytes): (usize, usize),
    ) -> Result<&'a MetalBuffer> {
        let metal = MetalBuffer::of(what, buffer)?;
        if offset.checked_add(bytes).is_none_or(|end| end > metal.bytes()) {
            let size = metal.bytes();
            return Err(failure(what, format!("{bytes} bytes at {offset} of a buffer of {size}")));
        }
        Ok(metal)
    }

    fn writable<'a>(
        &self,
        what: &'static str,
        buffer: &'a dyn Buffer,
        range: (usize, usize),
    ) -> Result<&'a MetalBuffer> {
        let metal = self.buffer(what, buffer, range)?;
        if metal.is_writable() { Ok(metal) } else { Err(read_only(what)) }
    }

    /// Copies `bytes` into private memory at `offset`, through shared memory.
    fn upload(&self, buffer: &MetalBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        for (index, chunk) in bytes.chunks(STAGING_BYTES).enumerate() {
            let staging = self.metal.pool().allocate(chunk.len(), Storage::Shared)?;
            store(&staging, 0, chunk)?;
            let from = Bound { buffer: &staging, offset: staging.base() };
            let offset = buffer.base() + offset + index * STAGING_BYTES;
            let to = Bound { buffer, offset };
            self.metal.encode("upload", |encoder| encoder.copy(from, to, chunk.len()))?;
        }
        Ok(())
    }

    /// Copies out of private memory at `offset`, through shared memory.
    fn download(&self, buffer: &MetalBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        for (index, chunk) in bytes.chunks_mut(STAGING_BYTES).enumerate() {
            let staging = self.metal.pool().allocate(chunk.len(), Storage::Shared)?;
            let from = Bound { buffer, offset: buffer.base() + offset + index * STAGING_BYTES };
            let to = Bound { buffer: &staging, offset: staging.base() };
            self.metal.encode("download", |encoder| encoder.copy(from, to, chunk.len()))?;
            self.metal.wait(staging.last_use())?;
            load(&staging, 0, chunk)?;
        }
        Ok(())
    }
}

/// Copies `bytes` into shared memory that the GPU does not use now.
fn store(buffer: &MetalBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
    let start = buffer.host_start().ok_or_else(|| failure("write", "the memory is private"))?;
    // SAFETY: the caller checked the range and waited for the GPU, and orders calls on one buffer.
    unsafe {
        let to = start.as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
    Ok(())
}

/// Copies out of shared memory that the GPU does not write now.
fn load(buffer: &MetalBuffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
    let start = buffer.host_start().ok_or_else(|| failure("read", "the memory is private"))?;
    // SAFETY: as in `store`.
    unsafe {
        let from = start.as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
    }
    Ok(())
}

impl Device for MetalDevice {
    fn id(&self) -> DeviceId {
        METAL
    }

    fn description(&self) -> String {
        format!("{}, {}", self.identity, self.metal.pipelines().origin())
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(self.metal.pool().allocate(bytes, Storage::Private)?))
    }

    fn allocate_shared(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(self.metal.pool().allocate(bytes, Storage::Shared)?))
    }

    fn import(&self, bytes: HostBytes) -> Result<Arc<dyn Buffer>> {
        if let Some(lent) = self.mappings.lend(&bytes, &self.device, self.metal.pool())? {
            return Ok(Arc::new(lent));
        }
        let copy = self.metal.pool().allocate(bytes.len(), Storage::Shared)?;
        store(&copy, 0, &bytes)?;
        self.copied.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(Arc::new(copy))
    }

    fn write(&self, buffer: &dyn Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let metal = self.writable("write", buffer, (offset, bytes.len()))?;
        if metal.host_start().is_none() {
            return self.upload(metal, offset, bytes);
        }
        self.metal.wait(metal.last_use())?;
        store(metal, offset, bytes)
    }

    fn read(&self, buffer: &dyn Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let metal = self.buffer("read", buffer, (offset, bytes.len()))?;
        if metal.host_start().is_none() {
            return self.download(metal, offset, bytes);
        }
        self.metal.wait(metal.last_use())?;
        load(metal, offset, bytes)
    }

    fn zero(&self, buffer: &dyn Buffer) -> Result<()> {
        let metal = self.writable("zero", buffer, (0, buffer.bytes()))?;
        self.metal.encode("zero", |encoder| encoder.zero(metal))
    }

    fn fill_band(&self, buffer: &dyn Buffer, fill: &BandFill) -> Result<bool> {
        let BandFill { rows, width, dtype, .. } = fill;
        let bytes = rows.saturating_mul(*width).saturating_mul(dtype.block_bytes());
        let metal = self.writable("mask", buffer, (0, bytes))?;
        mask::fill(&self.metal, metal, fill)?;
        Ok(true)
    }

    fn copy(
        &self,
        (from, from_offset): (&dyn Buffer, usize),
        (to, to_offset): (&dyn Buffer, usize),
        bytes: usize,
    ) -> Result<()> {
        let source = self.buffer("copy", from, (from_offset, bytes))?;
        let target = self.writable("copy", to, (to_offset, bytes))?;
        let from = Bound { buffer: source, offset: source.base() + from_offset };
        let to = Bound { buffer: target, offset: target.base() + to_offset };
        self.metal.encode("copy", |encoder| encoder.copy(from, to, bytes))
    }

    fn synchronize(&self) -> Result<()> {
        self.metal.synchronize()
    }

    fn memory(&self) -> MemoryStats {
        self.metal.pool().stats()
    }

    fn map_file(&self, path: &Path) -> Result<HostBytes> {
        self.mappings.open(path)
    }
}

impl fmt::Debug for MetalDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}
