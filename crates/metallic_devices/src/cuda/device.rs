//! A GPU as a device: memory, transfers, and the list of its kernels.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use cudarc::driver::result::memset_d8_async;
use metallic::cache::ResourceCache;
use metallic::config::{cache_dir, process_env};
use metallic::device::{Device, DeviceId, MemoryStats, PendingRead};
use metallic::dispatch::{KernelBackendRegistry, Policies};
use metallic::graph::Executable;
use metallic::op::{Sdpa, SdpaSpec};
use metallic::tensor::{Buffer, HostBytes};
use metallic::{Context, Result};
use metallic_instrumentation::Recorder;

use super::buffer::CudaBuffer;
use super::error::{Doing, device_error};
use super::gpu::Gpu;
use super::graph::{ENGINES, guess};
use super::libraries::{Component, library};
use super::profiler::Profiler;
use super::recording::Recording;
use super::staging::{LaterRead, Staging};
use crate::Profile;
use crate::engines::{EngineTable, machine, preference};
use crate::process::map_file;

/// An NVIDIA GPU.
pub struct CudaDevice {
    gpu: Arc<Gpu>,
    staging: Staging,
}

impl CudaDevice {
    /// How many devices the driver has; 0 without a driver.
    pub fn count() -> u32 {
        if library(Component::Driver).state.is_err() {
            return 0;
        }
        let count = cudarc::driver::CudaContext::device_count();
        cudarc::driver::result::init()
            .and(count)
            .map_or(0, |count| u32::try_from(count).unwrap_or(0))
    }

    /// Opens device number `index`.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when there is no driver or no such device, with what is missing.
    pub fn new(index: u32) -> Result<Self> {
        Self::open(index, None)
    }

    fn open(index: u32, profiler: Option<Profiler>) -> Result<Self> {
        let id = DeviceId { kind: "cuda", index };
        if let Err(reason) = &library(Component::Driver).state {
            return Err(device_error(id, "open", format!("no driver: {reason}")));
        }
        let gpu = Gpu::open(index, profiler)?;
        let staging = Staging::new(Arc::clone(&gpu.stream));
        Ok(Self { gpu, staging })
    }

    /// A context on device number `index` with all its kernels, each of which is timed in
    /// [`Profile::Latency`] if somebody listens to `recorder`.
    ///
    /// # Errors
    /// As [`CudaDevice::new`].
    pub fn context(
        index: u32,
        profile: Profile,
        policies: Policies,
        recorder: Recorder,
    ) -> Result<Context> {
        let timed = profile == Profile::Latency && recorder.is_enabled();
        let device = Self::open(index, timed.then(|| Profiler::new(recorder.clone())))?;
        let mut registry = KernelBackendRegistry::new(device.id(), policies);
        super::register(&mut registry, &device.gpu);
        let machine = machine(&device);
        let table = match cache_dir(&process_env) {
            Some(dir) => EngineTable::load(&dir, &machine),
            None => EngineTable::new(&machine),
        };
        let capability = device.gpu.stream.properties().capability;
        let guess = move |spec: &SdpaSpec| guess(capability, spec);
        registry.prefer_engine::<Sdpa>(preference(table, ENGINES, guess));
        Ok(Context::new(Arc::new(device), registry, ResourceCache::default(), recorder))
    }

    /// The architecture kernels are compiled for, as `sm_90a`.
    pub fn arch(&self) -> &str {
        self.gpu.modules.arch()
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// # Errors
    /// When this thread records: host memory has no place in what is replayed.
    fn not_recording(&self, what: &'static str) -> Result<()> {
        if self.gpu.stream.is_recording() {
            let reason = "a recorded step cannot reach host memory".to_owned();
            return Err(device_error(self.id(), what, reason));
        }
        Ok(())
    }

    fn buffer<'a>(
        &self,
        what: &'static str,
        buffer: &'a dyn Buffer,
        (offset, bytes): (usize, usize),
    ) -> Result<&'a CudaBuffer> {
        let error = |reason: String| device_error(self.id(), what, reason);
        let own = buffer
            .as_any()
            .downcast_ref::<CudaBuffer>()
            .filter(|own| own.device() == self.id())
            .ok_or_else(|| error(format!("the buffer lies on {}", buffer.device())))?;
        if offset.checked_add(bytes).is_none_or(|end| end > own.bytes()) {
            let size = own.bytes();
            return Err(error(format!("{bytes} bytes at {offset} of a buffer of {size}")));
        }
        Ok(own)
    }
}

impl Device for CudaDevice {
    fn id(&self) -> DeviceId {
        self.gpu.id()
    }

    fn description(&self) -> String {
        let chip = self.gpu.stream.properties();
        let gib = chip.memory_bytes as f64 / (1u64 << 30) as f64;
        let arch = self.arch();
        format!("{}, {} multiprocessors, {gib:.0} GiB, {arch}", chip.name, chip.multiprocessors)
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(self.gpu.memory.allocate(bytes)?))
    }

    fn import(&self, bytes: HostBytes) -> Result<Arc<dyn Buffer>> {
        let copy = self.allocate(bytes.len())?;
        self.write(&*copy, 0, &bytes)?;
        Ok(copy)
    }

    fn write(&self, buffer: &dyn Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.not_recording("write")?;
        let own = self.buffer("write", buffer, (offset, bytes.len()))?;
        // SAFETY: the range was checked; the buffer outlives the copy, since memory that is let go
        // of is reused in the order of the stream.
        unsafe { self.staging.write(own.start() + offset as u64, bytes) }
    }

    fn read(&self, buffer: &dyn Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.not_recording("read")?;
        let own = self.buffer("read", buffer, (offset, bytes.len()))?;
        // SAFETY: the range was checked.
        unsafe { self.staging.read(own.start() + offset as u64, bytes) }?;
        self.gpu.synchronize()
    }

    fn read_later(
        &self,
        buffer: &dyn Buffer,
        offset: usize,
        bytes: usize,
    ) -> Result<Box<dyn PendingRead>> {
        self.not_recording("read")?;
        let own = self.buffer("read", buffer, (offset, bytes))?;
        // SAFETY: the range was checked; memory that is let go of is reused in the order of the stream.
        match unsafe { self.staging.read_later(own.start() + offset as u64, bytes) }? {
            Some(read) => Ok(Box::new(Pending { read, gpu: Arc::clone(&self.gpu) })),
            None => {
                let mut read = vec![0; bytes];
                self.read(buffer, offset, &mut read)?;
                Ok(Box::new(read))
            }
        }
    }

    fn zero(&self, buffer: &dyn Buffer) -> Result<()> {
        let own = self.buffer("zero", buffer, (0, buffer.bytes()))?;
        self.gpu.stream.bind()?;
        // SAFETY: the whole buffer.
        unsafe { memset_d8_async(own.start(), 0, own.bytes(), self.gpu.stream.raw()) }.doing(
            self.id(),
            "zero",
            || format!("{} bytes", own.bytes()),
        )
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn records(&self) -> bool {
        !self.gpu.stream.is_profiled()
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Arc<dyn Executable>> {
        Ok(Arc::new(Recording::new(&self.gpu, work)?))
    }

    fn replay(&self, recorded: &dyn Executable) -> Result<()> {
        let recording: &Recording = recorded.as_any().downcast_ref().ok_or_else(|| {
            device_error(self.id(), "replay", "recorded on another device".to_owned())
        })?;
        recording.replay(&self.gpu)
    }

    fn memory(&self) -> MemoryStats {
        self.gpu.memory.stats()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.gpu.stream.bind().ok()?;
        let (free, _) = cudarc::driver::result::mem_get_info().ok()?;
        Some((free + self.memory().pooled) as u64)
    }

    fn map_file(&self, path: &Path) -> Result<HostBytes> {
        map_file(path)
    }
}

/// Bytes on their way to the host.
struct Pending {
    read: LaterRead,
    gpu: Arc<Gpu>,
}

impl PendingRead for Pending {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        let bytes = self.read.wait()?;
        self.gpu.check_fault()?;
        Ok(bytes)
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read.fmt(f)
    }
}

impl fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}
