//! Recorded work: a CUDA graph with the memory its kernels use, replayed as one launch.
//!
//! A thread that records puts its work on a stream beside the device's own, which captures instead
//! of running; other threads go on as before. Memory it takes meanwhile comes from the pool once and
//! then stays with the recording, so nobody else is handed an address that a replay writes to.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::graph;
use cudarc::driver::result::stream::{begin_capture, end_capture};
use cudarc::driver::sys::{CUgraph, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode};
use metallic::Result;
use metallic::graph::Executable;

use super::buffer::RecordedMemory;
use super::error::{Doing, device_error};
use super::gpu::Gpu;

/// Bytes a recorded launch is counted as, for the caches' bounds; the driver does not say.
const LAUNCH_BYTES: usize = 1 << 10;

/// A graph ready to be launched.
pub(crate) struct Recording {
    gpu: Arc<Gpu>,
    executable: CUgraphExec,
    launches: usize,
    /// Given back when the last replay cannot be running any more.
    memory: Arc<RecordedMemory>,
}

// SAFETY: an executable graph is the driver's handle; it is launched through the one stream, and
// destroyed once by whoever drops the last reference.
unsafe impl Send for Recording {}
// SAFETY: as above; launches of one graph from two threads are ordered by the stream, and the driver
// asks only that they are not made at the same moment, which `Gpu::launching` sees to.
unsafe impl Sync for Recording {}

/// Ends a capture that nobody ended, when `work` fails or panics.
struct Capture<'a> {
    gpu: &'a Gpu,
    open: bool,
}

impl Capture<'_> {
    fn end(&mut self) -> Result<CUgraph> {
        self.open = false;
        self.gpu.memory.end_recording();
        let stream = self.gpu.stream.end_recording();
        // SAFETY: the capture was begun on this stream by this thread.
        unsafe { end_capture(stream) }.doing(self.gpu.id(), "record", String::new)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open
            && let Ok(graph) = self.end()
            && !graph.is_null()
        {
            // SAFETY: given by `end_capture`, destroyed once.
            let _ = unsafe { graph::destroy(graph) };
        }
    }
}

impl Recording {
    /// What `work` puts on the device of `gpu` from this thread.
    ///
    /// # Errors
    /// What `work` reports; [`metallic::Error::Device`] when another recording is under way, or the
    /// driver cannot capture what was done.
    pub(crate) fn new(gpu: &Arc<Gpu>, work: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        let id = gpu.id();
        gpu.stream.bind()?;
        let stream = gpu.stream.begin_recording()?;
        let memory = gpu.memory.begin_recording();
        let mut capture = Capture { gpu, open: true };
        // Memory may have to come from the driver meanwhile, which the stricter modes forbid.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a stream of this device that captures nothing yet.
        unsafe { begin_capture(stream, mode) }.doing(id, "record", String::new)?;
        work()?;
        let graph = capture.end()?;
        if graph.is_null() {
            return Err(device_error(id, "record", "the driver gave no graph".to_owned()));
        }
        let launches = nodes(graph);
        // SAFETY: the graph is alive until it is destroyed below.
        let executable = unsafe { graph::instantiate(graph, CUgraphInstantiate_flags(0)) };
        // SAFETY: given by `end_capture`, destroyed once; the executable does not need it.
        let _ = unsafe { graph::destroy(graph) };
        let executable = executable.doing(id, "record", || format!("{launches} launches"))?;
        tracing::debug!(launches, bytes = memory.bytes(), "recorded");
        Ok(Self { gpu: Arc::clone(gpu), executable, launches, memory })
    }

    /// Puts one run on the stream.
    ///
    /// # Errors
    /// When it was recorded on another device, or the driver refuses.
    pub(crate) fn replay(&self, gpu: &Gpu) -> Result<()> {
        let id = gpu.id();
        if !std::ptr::eq(gpu, &raw const *self.gpu) {
            return Err(device_error(id, "replay", "recorded on another device".to_owned()));
        }
        gpu.stream.bind()?;
        let _one_at_a_time = gpu.launching();
        // SAFETY: the executable is alive, with all memory its kernels use; what it only names is
        // the caller's promise (`Device::record`).
        unsafe { graph::launch(self.executable, gpu.stream.raw()) }
            .doing(id, "replay", || format!("{} launches", self.launches))
    }
}

/// How many nodes `graph` has.
fn nodes(graph: CUgraph) -> usize {
    let mut count = 0;
    // SAFETY: a live graph; without room for nodes the driver only counts them.
    let _ =
        unsafe { cudarc::driver::sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count) };
    count
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.gpu.stream.synchronize().is_ok() {
            // SAFETY: made in `new`, destroyed once, after all replays.
            let _ = unsafe { graph::exec_destroy(self.executable) };
        }
    }
}

impl Executable for Recording {
    fn bytes(&self) -> usize {
        self.memory.bytes() + self.launches * LAUNCH_BYTES
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({} launches, {} bytes)", self.launches, self.memory.bytes())
    }
}
