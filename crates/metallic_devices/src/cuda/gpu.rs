//! What every kernel of one device holds: its stream, memory, modules and the word kernels report
//! their faults in.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::NoUninit;
use cudarc::driver::result::{free_host, malloc_host};
use metallic::Result;
use metallic::device::DeviceId;

use super::blas::Blas;
use super::buffer::{CudaBuffer, MemoryPool};
use super::error::{Doing, device_error};
use super::module::{Function, LaunchShape, Modules, Param};
use super::profiler::Profiler;
use super::stream::Stream;

/// One device. Kernels share it through `Arc`.
pub(crate) struct Gpu {
    pub(crate) stream: Arc<Stream>,
    pub(crate) memory: Arc<MemoryPool>,
    pub(crate) modules: Modules,
    /// Matrix products; `Err` says why there is no cuBLASLt.
    pub(crate) blas: Result<Blas, String>,
    fault: FaultWord,
    launching: Mutex<()>,
}

impl Gpu {
    /// Opens device number `index`, with `profiler` for its kernels if there is one.
    ///
    /// # Errors
    /// When the driver cannot open it.
    pub(crate) fn open(index: u32, profiler: Option<Profiler>) -> Result<Arc<Self>> {
        let stream = Stream::open(index, profiler)?;
        let memory = MemoryPool::new(Arc::clone(&stream));
        let modules = Modules::new(Arc::clone(&stream));
        let blas = Blas::open(&stream, &memory);
        let fault = FaultWord::new(Arc::clone(&stream))?;
        Ok(Arc::new(Self { stream, memory, modules, blas, fault, launching: Mutex::default() }))
    }

    /// The device.
    pub(crate) fn id(&self) -> DeviceId {
        self.stream.id()
    }

    /// Memory of at least `bytes` bytes for the work of one call; dropping it after the last launch
    /// that uses it is right, because all work is ordered by the stream.
    ///
    /// # Errors
    /// [`metallic::Error::OutOfMemory`].
    pub(crate) fn workspace(&self, bytes: usize) -> Result<CudaBuffer> {
        self.memory.allocate(bytes)
    }

    /// Finds the kernel (see [`Modules::function`]) and launches it with the one parameter `params`.
    ///
    /// # Safety
    /// As [`Function::launch`].
    ///
    /// # Errors
    /// As [`Modules::function`] and [`Function::launch`].
    pub(crate) unsafe fn launch<P: NoUninit>(
        &self,
        kernel: Kernel,
        shape: LaunchShape,
        params: &P,
    ) -> Result<()> {
        let function = self.function(kernel)?;
        // SAFETY: the caller's promise.
        unsafe { function.launch(shape, &[Param::new(params)]) }
    }

    /// See [`Modules::function`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn function(&self, kernel: Kernel) -> Result<Function> {
        self.modules.function(kernel.source, kernel.variant, kernel.name)
    }

    /// Blocks of `threads` threads that go over `elements` elements with a stride: enough for the
    /// chip, at least one.
    pub(crate) fn strided(&self, elements: usize, threads: u32) -> LaunchShape {
        let most = 16 * self.stream.properties().multiprocessors as usize;
        LaunchShape::linear(elements.div_ceil(threads as usize).clamp(1, most), threads)
    }

    /// Held while a graph is launched: the driver takes one launch of a graph at a time.
    pub(crate) fn launching(&self) -> MutexGuard<'_, ()> {
        self.launching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device address of the word in which kernels report what they cannot do (`Fault` in
    /// `numbers.cuh`).
    pub(crate) fn fault(&self) -> u64 {
        self.fault.device
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// The driver's failure, or the first fault a kernel reported since the last time.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()?;
        self.check_fault()
    }

    /// # Errors
    /// The first fault a kernel reported since the last time.
    pub(crate) fn check_fault(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), |reason| Err(device_error(self.id(), "run", reason)))
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id(), self.stream.properties().name)
    }
}

/// A kernel's name: its file, the file's variant, the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The file without `.cu`.
    pub source: &'static str,
    /// One of its variant lines; `""` for a file without.
    pub variant: &'static str,
    /// The `extern "C"` function.
    pub name: &'static str,
}

impl Kernel {
    /// The function of the same name in a file without variants.
    pub(crate) const fn plain(source: &'static str, name: &'static str) -> Self {
        Self { source, variant: "", name }
    }
}

/// Three words of host memory that kernels write and the host reads after a wait.
struct FaultWord {
    host: *mut i32,
    device: u64,
    stream: Arc<Stream>,
}

// SAFETY: the words are read and cleared through volatile accesses alone, each of them whole.
unsafe impl Send for FaultWord {}
// SAFETY: as above.
unsafe impl Sync for FaultWord {}

/// `CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP` of `cuda.h`.
const MAPPED: u32 = 1 | 2;

impl FaultWord {
    fn new(stream: Arc<Stream>) -> Result<Self> {
        stream.bind()?;
        // SAFETY: three words, freed in `drop`.
        let host = unsafe { malloc_host(12, MAPPED) }
            .doing(stream.id(), "open", || "12 bytes of mapped host memory".to_owned())?
            .cast::<i32>();
        // SAFETY: the memory was just made, 12 bytes long.
        unsafe { std::ptr::write_bytes(host, 0, 3) };
        // With unified addressing, which every 64-bit system has, both sides use one address.
        let device = host.addr() as u64;
        Ok(Self { host, device, stream })
    }

    /// What was reported since the last time, in words.
    fn take(&self) -> Option<String> {
        // SAFETY: three live words; kernels that write them are done.
        let word = |at| unsafe { self.host.add(at).read_volatile() };
        let (code, value, limit) = (word(0), word(1), word(2));
        if code == 0 {
            return None;
        }
        // SAFETY: as above.
        unsafe { self.host.write_volatile(0) };
        Some(match code {
            1 => format!("token id {value} in a table of {limit} rows"),
            2 => format!("key and value rows at position {value} of {limit}"),
            3 => format!(
                "block {value} of a decode step waited for {limit} looks: words that never came"
            ),
            code => format!("fault {code}: {value} of {limit}"),
        })
    }
}

impl Drop for FaultWord {
    fn drop(&mut self) {
        if self.stream.synchronize().is_ok() {
            // SAFETY: made by `malloc_host`, freed once, after all work.
            let _ = unsafe { free_host(self.host.cast()) };
        }
    }
}
