//! One device's context and its one stream: everything Metallic does there is ordered by it.
//!
//! Memory of the pool may be reused as soon as the host lets go of it, because whoever gets it
//! next works on the same stream. Not: copies (`device`), launches (`module`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::sys::{CUdevice_attribute_enum as Attribute, CUevent_flags_enum, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream as DriverStream};
use metallic::Result;
use metallic::device::DeviceId;

use super::error::{Doing, device_error};
use super::profiler::Profiler;

/// What kernels must know of the chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// As `NVIDIA H200`.
    pub name: String,
    /// Compute capability, as (9, 0).
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Most dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: usize,
    /// Bytes of device memory.
    pub memory_bytes: usize,
}

impl Properties {
    /// The architecture kernels are compiled for, as `sm_90a`: from Hopper on with the features of
    /// that chip alone.
    pub(crate) fn arch(&self) -> String {
        let (major, minor) = self.capability;
        let exact = if major >= 9 { "a" } else { "" };
        format!("sm_{major}{minor}{exact}")
    }
}

/// A stream with its context. Cheap to share through `Arc`.
#[derive(Debug)]
pub(crate) struct Stream {
    id: DeviceId,
    context: Arc<CudaContext>,
    stream: Arc<DriverStream>,
    /// Captures what the recording thread does.
    recorder: Arc<DriverStream>,
    /// The mark of the thread that records; 0 for none.
    recording: AtomicUsize,
    properties: Properties,
    /// Where each kernel runs alone and is timed.
    profiler: Option<Profiler>,
}

/// A number of this thread that no other living thread has, above 0.
fn thread_mark() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

impl Stream {
    /// The stream of device number `index`, where `profiler` times each kernel if there is one.
    ///
    /// # Errors
    /// When the driver has no such device, or cannot open it.
    pub(crate) fn open(index: u32, profiler: Option<Profiler>) -> Result<Arc<Self>> {
        let id = DeviceId { kind: "cuda", index };
        let opening = |what: &'static str| move || what.to_owned();
        let context =
            CudaContext::new(index as usize).doing(id, "open", opening("the primary context"))?;
        let stream = context.new_stream().doing(id, "open", opening("a stream"))?;
        let recorder = context.new_stream().doing(id, "open", opening("a stream"))?;
        let attribute = |attribute: Attribute| {
            let value = context.attribute(attribute).doing(id, "open", opening("an attribute"))?;
            Ok::<u32, metallic::Error>(u32::try_from(value).unwrap_or(0))
        };
        let (major, minor) =
            context.compute_capability().doing(id, "open", opening("the capability"))?;
        let properties = Properties {
            name: context.name().doing(id, "open", opening("the name"))?,
            capability: (major.unsigned_abs(), minor.unsigned_abs()),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            memory_bytes: context.total_mem().doing(id, "open", opening("the memory size"))?,
        };
        let recording = AtomicUsize::new(0);
        Ok(Arc::new(Self { id, context, stream, recorder, recording, properties, profiler }))
    }

    /// The device.
    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    /// The chip.
    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The driver's handle: that of the capturing stream for the thread that records. Call
    /// [`Stream::bind`] before handing it to the driver.
    pub(crate) fn raw(&self) -> CUstream {
        if self.is_recording() { self.recorder.cu_stream() } else { self.stream.cu_stream() }
    }

    /// The stream whose work runs now, also while this thread records: for what is to be in memory
    /// before the first replay. The context is this thread's from here on.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn immediate(&self) -> Result<CUstream> {
        self.bind()?;
        Ok(self.stream.cu_stream())
    }

    /// Whether this thread records.
    pub(crate) fn is_recording(&self) -> bool {
        let recording = self.recording.load(Ordering::Acquire);
        recording != 0 && recording == thread_mark()
    }

    /// From now on this thread's work goes to the capturing stream, which is given.
    ///
    /// # Errors
    /// When some thread records already.
    pub(crate) fn begin_recording(&self) -> Result<CUstream> {
        let (order, mark) = (Ordering::AcqRel, thread_mark());
        match self.recording.compare_exchange(0, mark, order, Ordering::Acquire) {
            Ok(_) => Ok(self.recorder.cu_stream()),
            Err(_) => {
                let reason = "another recording is under way".to_owned();
                Err(device_error(self.id, "record", reason))
            }
        }
    }

    /// Ends what [`Stream::begin_recording`] began; gives the capturing stream.
    pub(crate) fn end_recording(&self) -> CUstream {
        self.recording.store(0, Ordering::Release);
        self.recorder.cu_stream()
    }

    /// Whether each kernel runs alone and is timed.
    pub(crate) fn is_profiled(&self) -> bool {
        self.profiler.is_some()
    }

    /// Calls `launch`, which puts kernel `kernel` of `op` on the stream; times it where that was asked
    /// for.
    ///
    /// # Errors
    /// What `launch` reports; what timing reports.
    pub(crate) fn timed(
        &self,
        op: &str,
        kernel: &str,
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        match &self.profiler {
            Some(profiler) if !self.is_recording() => profiler.time(self, (op, kernel), launch),
            _ => launch(),
        }
    }

    /// Makes the context this thread's. Every call into the driver needs it; it costs nothing when
    /// it already is.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().doing(self.id, "bind a thread", String::new)
    }

    /// Waits for all work of the stream.
    ///
    /// # Errors
    /// The first failure of that work; or this thread records, which knows no waiting.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.bind()?;
        if self.is_recording() {
            let reason = "a recorded step cannot wait for its own work".to_owned();
            return Err(device_error(self.id, "wait for the stream", reason));
        }
        self.stream.synchronize().doing(self.id, "wait for the stream", String::new)
    }

    /// An event, for timing when `timed`, else for ordering alone.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn event(&self, timed: bool) -> Result<CudaEvent> {
        self.bind()?;
        let flags = match timed {
            true => CUevent_flags_enum::CU_EVENT_DEFAULT,
            false => CUevent_flags_enum::CU_EVENT_DISABLE_TIMING,
        };
        self.context.new_event(Some(flags)).doing(self.id, "make an event", String::new)
    }

    /// Marks this place of the stream with `event`.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(crate) fn record(&self, event: &CudaEvent) -> Result<()> {
        self.bind()?;
        event.record(&self.stream).doing(self.id, "record an event", String::new)
    }
}
