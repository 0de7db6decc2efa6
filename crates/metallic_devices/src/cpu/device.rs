//! The CPU as a device: memory, mapped files, and the list of its kernels.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use metallic::cache::ResourceCache;
use metallic::device::{Device, DeviceId, MemoryStats};
use metallic::dispatch::{KernelBackendRegistry, Policies};
use metallic::tensor::{Buffer, HostBytes};
use metallic::{Context, Error, Result};
use metallic_instrumentation::Recorder;

use super::buffer::{CPU, CpuBuffer, Pool};
use super::pool::ThreadPool;
use super::simd::Level;
use crate::process::map_file;

/// How to open the CPU.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads, the caller's included.
    pub threads: usize,
    /// The best instructions to use.
    pub level: Level,
}

impl Default for CpuOptions {
    /// Every core this process may use, with the best instructions it has.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
        Self { threads, level: Level::detect() }
    }
}

/// The CPU.
pub struct CpuDevice {
    memory: Arc<Pool>,
    threads: Arc<ThreadPool>,
    level: Level,
}

impl CpuDevice {
    /// Opens the CPU and starts its threads.
    pub fn new(options: CpuOptions) -> Self {
        let threads = Arc::new(ThreadPool::new(options.threads.max(1)));
        Self { memory: Arc::default(), threads, level: options.level.usable() }
    }

    /// A context on the CPU with all its kernels.
    pub fn context(options: CpuOptions, policies: Policies, recorder: Recorder) -> Context {
        let device = Self::new(options);
        let mut registry = KernelBackendRegistry::new(CPU, policies);
        super::register(&mut registry, &device.threads, device.level, &device.memory);
        Context::new(Arc::new(device), registry, ResourceCache::default(), recorder)
    }

    fn buffer<'a>(
        &self,
        what: &'static str,
        buffer: &'a dyn Buffer,
        range: (usize, usize),
    ) -> Result<&'a CpuBuffer> {
        let error = |reason: String| Error::Device { device: CPU, what, reason };
        let cpu = buffer
            .as_any()
            .downcast_ref::<CpuBuffer>()
            .ok_or_else(|| error(format!("the buffer lies on {}", buffer.device())))?;
        let (offset, bytes) = range;
        if offset.checked_add(bytes).is_none_or(|end| end > cpu.bytes()) {
            let size = cpu.bytes();
            return Err(error(format!("{bytes} bytes at {offset} of a buffer of {size}")));
        }
        Ok(cpu)
    }

    fn writable<'a>(
        &self,
        what: &'static str,
        buffer: &'a dyn Buffer,
        range: (usize, usize),
    ) -> Result<&'a CpuBuffer> {
        let cpu = self.buffer(what, buffer, range)?;
        if !cpu.is_writable() {
            let reason = "the buffer is a read-only file".to_owned();
            return Err(Error::Device { device: CPU, what, reason });
        }
        Ok(cpu)
    }
}

impl Device for CpuDevice {
    fn id(&self) -> DeviceId {
        CPU
    }

    fn description(&self) -> String {
        let threads = self.threads.threads();
        let plural = if threads == 1 { "" } else { "s" };
        let level = self.level.name();
        let best = match Level::detect() {
            best if best == self.level => String::new(),
            best => format!(" (the machine has {})", best.name()),
        };
        format!("{}, {threads} thread{plural}, {level}{best}", processor_name())
    }

    fn allocate(&self, bytes: usize) -> Result<Arc<dyn Buffer>> {
        match self.memory.allocate(bytes) {
            Some(buffer) => Ok(Arc::new(buffer)),
            None => Err(Error::OutOfMemory { device: CPU, bytes }),
        }
    }

    fn import(&self, bytes: HostBytes) -> Result<Arc<dyn Buffer>> {
        // Kernels read f32 values through aligned slices; blocks of quantised types are bytes.
        if bytes.as_ptr().addr().is_multiple_of(align_of::<f32>()) {
            return Ok(Arc::new(CpuBuffer::host(bytes)));
        }
        let copy = self.allocate(bytes.len())?;
        self.write(&*copy, 0, &bytes)?;
        Ok(copy)
    }

    fn write(&self, buffer: &dyn Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let cpu = self.writable("write", buffer, (offset, bytes.len()))?;
        // SAFETY: the range was checked; the caller orders calls on one buffer.
        unsafe {
            let to = cpu.start().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        Ok(())
    }

    fn read(&self, buffer: &dyn Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let cpu = self.buffer("read", buffer, (offset, bytes.len()))?;
        // SAFETY: the range was checked; the caller orders calls on one buffer.
        unsafe {
            let from = cpu.start().add(offset);
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn zero(&self, buffer: &dyn Buffer) -> Result<()> {
        let bytes = buffer.bytes();
        let cpu = self.writable("zero", buffer, (0, bytes))?;
        // SAFETY: the whole buffer; the caller orders calls on one buffer.
        unsafe { std::ptr::write_bytes(cpu.start(), 0, bytes) };
        Ok(())
    }

    fn memory(&self) -> MemoryStats {
        self.memory.stats()
    }

    fn map_file(&self, path: &Path) -> Result<HostBytes> {
        map_file(path)
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description())
    }
}

/// The processor's own name where the system tells it, else its architecture.
fn processor_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
