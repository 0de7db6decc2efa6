//! Times of single kernels, for [`crate::Profile::Latency`]: an event before each and one after it.
//!
//! The stream is held back until both events and the kernel between them were handed over, so that
//! the time the host takes for that is none of the kernel's. What remains is about 2 µs that events
//! cost around any kernel.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::result::stream::launch_host_function;
use metallic::Result;
use metallic_instrumentation::{MetricEvent, Recorder};

use super::error::Doing;
use super::stream::Stream;

/// How long the stream is held back at most: a library that waits for the device while it is being
/// called (for code to be loaded, say) gets on after that.
const PATIENCE: Duration = Duration::from_millis(20);

/// Times what is launched through it.
pub(crate) struct Profiler {
    recorder: Recorder,
}

impl Profiler {
    /// A profiler that tells `recorder`.
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { recorder }
    }

    /// Runs `launch`, waits for what it put on the stream, and records how long that ran there, under
    /// `op` and `kernel`.
    ///
    /// # Errors
    /// What `launch` reports; the driver's failures.
    pub(super) fn time(
        &self,
        stream: &Stream,
        (op, kernel): (&str, &str),
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let [start, end] = [stream.event(true)?, stream.event(true)?];
        let gate = Gate::before(stream)?;
        stream.record(&start)?;
        launch()?;
        stream.record(&end)?;
        drop(gate);
        let ms = start.elapsed_ms(&end).doing(stream.id(), "time", || kernel.to_owned())?;
        self.recorder.record(|| MetricEvent::KernelTimed {
            op: op.to_owned(),
            kernel: kernel.to_owned(),
            duration_ns: (f64::from(ms) * 1e6).round() as u64,
        });
        Ok(())
    }
}

impl fmt::Debug for Profiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Profiler")
    }
}

/// Holds back all later work of a stream while it lives, and no longer than [`PATIENCE`].
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn before(stream: &Stream) -> Result<Self> {
        let open = Arc::new(AtomicBool::new(false));
        let waiting = Arc::into_raw(Arc::clone(&open)).cast_mut().cast::<c_void>();
        let raw = stream.immediate()?;
        // SAFETY: the stream is the device's own; `wait` takes the reference that `waiting` holds.
        let launched = unsafe { launch_host_function(raw, wait, waiting) };
        if launched.is_err() {
            // SAFETY: the driver took nothing, so the reference is still ours.
            drop(unsafe { Arc::from_raw(waiting.cast::<AtomicBool>()) });
        }
        launched.doing(stream.id(), "time", || "hold the stream back".to_owned())?;
        Ok(Self(open))
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Returns when the gate is open, or patience is at its end.
unsafe extern "C" fn wait(gate: *mut c_void) {
    // SAFETY: made by `Arc::into_raw` for this one call.
    let open = unsafe { Arc::from_raw(gate.cast::<AtomicBool>()) };
    let start = Instant::now();
    while !open.load(Ordering::Acquire) && start.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
}
