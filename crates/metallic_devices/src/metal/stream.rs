//! The device's one queue: which command buffer is in flight, what was submitted, what failed.
//!
//! Ops append to one open command buffer. It is committed when it holds enough work, or when the
//! host wants a result. Two may be on the way at once; a third waits for the first. A command
//! buffer is kept until its status was read, so that no failure is lost: one that MPSGraph
//! committed on its own, too.
//!
//! Times are those of whole command buffers, except where each op runs alone on a GPU that has
//! timestamps: then those of its kernels (`timestamps`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metallic::{Error, Result};
use metallic_instrumentation::{MetricEvent, Recorder};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandQueue, MTLDevice};

use super::command_buffer::CommandBuffer;
use super::encoder::Encoder;
use super::failure;
use super::pipeline::Pipelines;
use super::pool::{Pool, Timeline};
use super::submission::Submission;
use super::timestamps::{Clocks, Timestamps};
use crate::Profile;

/// Submissions on the way at once: one runs while the next waits behind it.
const DEPTH: usize = 2;

/// How the stream works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamOptions {
    /// When work is handed over.
    pub(crate) profile: Profile,
    /// Kernels in one command buffer at most (an op is not split).
    pub(crate) max_kernels: usize,
}

/// What every kernel of the device holds.
#[derive(Clone)]
pub(crate) struct Metal {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    options: StreamOptions,
    pool: Arc<Pool>,
    pipelines: Pipelines,
    timeline: Arc<Timeline>,
    /// Where each op runs alone, if the device has any.
    timestamps: Option<Timestamps>,
    recorder: Recorder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Submissions so far, the open one included.
    sequence: u64,
    open: Option<Submission>,
    /// Committed and not yet checked, oldest first.
    submitted: VecDeque<Submission>,
    /// The first failure nobody was told of yet.
    failure: Option<Error>,
}

impl Metal {
    /// The stream of `device`.
    ///
    /// # Errors
    /// [`Error::Device`] when the device gives no queue.
    pub(crate) fn new(
        device: &Retained<ProtocolObject<dyn MTLDevice>>,
        options: StreamOptions,
        recorder: Recorder,
    ) -> Result<Self> {
        let queue = autoreleasepool(|_| device.newCommandQueue());
        let queue = queue.ok_or_else(|| failure("open", "the device gave no command queue"))?;
        let timeline = Arc::<Timeline>::default();
        let pool = Arc::new(Pool::new(device.clone(), Arc::clone(&timeline)));
        let pipelines = Pipelines::new(device.clone());
        let alone = options.profile == Profile::Latency && recorder.is_enabled();
        let timestamps = if alone { Timestamps::of(device) } else { None };
        let state = Mutex::default();
        let inner =
            Inner { queue, options, pool, pipelines, timeline, timestamps, recorder, state };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Memory.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// Pipeline states.
    pub(crate) fn pipelines(&self) -> &Pipelines {
        &self.inner.pipelines
    }

    /// Appends the work of one op. The work runs later, in the order of these calls; its failure
    /// is the error of a later call that waits, or of the next op.
    ///
    /// `work` must not wait for the device: it holds the stream.
    ///
    /// # Errors
    /// What `work` reports, or an earlier failure of the GPU.
    pub(crate) fn encode<R>(
        &self,
        op: &'static str,
        work: impl FnOnce(&mut Encoder<'_>) -> Result<R>,
    ) -> Result<R> {
        let inner = &*self.inner;
        autoreleasepool(|_| {
            let mut state = self.lock();
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            let open = inner.open(&mut state)?;
            open.begin(op);
            let Inner { pool, pipelines, .. } = inner;
            let timestamps = inner.timestamps.as_ref();
            let result = work(&mut Encoder { pool, pipelines, timestamps, open });
            let full = open.kernel_count >= inner.options.max_kernels;
            match inner.options.profile {
                Profile::Latency => {
                    inner.run_alone(&mut state, op);
                    let failure = state.failure.take();
                    return result.and_then(|result| failure.map_or(Ok(result), Err));
                }
                Profile::Throughput if full => inner.submit(&mut state),
                Profile::Throughput => {}
            }
            result
        })
    }

    /// Waits until submission `sequence` and everything before it is done; commits it if need be.
    ///
    /// # Errors
    /// The first failure that was not reported before.
    pub(crate) fn wait(&self, sequence: u64) -> Result<()> {
        autoreleasepool(|_| {
            let mut state = self.lock();
            self.inner.wait(&mut state, sequence);
            state.failure.take().map_or(Ok(()), Err)
        })
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// As [`Metal::wait`].
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.wait(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The open submission, opened if need be.
    fn open<'a>(&self, state: &'a mut State) -> Result<&'a mut Submission> {
        if state.open.is_none() {
            let sequence = state.sequence + 1;
            let buffer = CommandBuffer::new(&self.queue, &format!("metallic {sequence}"))?;
            state.sequence = sequence;
            state.open = Some(Submission::new(sequence, buffer));
        }
        Ok(state.open.as_mut().expect("it was opened above"))
    }

    /// Commits the open submission, after the oldest one if too many are on the way.
    fn submit(&self, state: &mut State) {
        let Some(mut submission) = state.open.take() else { return };
        while state.submitted.len() >= DEPTH {
            self.retire_oldest(state);
        }
        submission.commit();
        state.submitted.push_back(submission);
    }

    /// Waits for the oldest submission and keeps its failure, if it is the first.
    fn retire_oldest(&self, state: &mut State) -> Option<Submission> {
        let submission = state.submitted.pop_front()?;
        let outcome = submission.wait();
        self.timeline.complete(submission.sequence);
        if self.options.profile == Profile::Throughput {
            self.recorder.record(|| MetricEvent::InternalKernelCompleted {
                parent_op: "command_buffer".to_owned(),
                internal_kernel: "gpu".to_owned(),
                duration_us: submission.gpu_us().round() as u64,
            });
        }
        if let Err(error) = outcome {
            state.failure.get_or_insert(error);
        }
        Some(submission)
    }

    fn wait(&self, state: &mut State, sequence: u64) {
        if state.open.as_ref().is_some_and(|open| open.sequence <= sequence) {
            self.submit(state);
        }
        while state.submitted.front().is_some_and(|oldest| oldest.sequence <= sequence) {
            self.retire_oldest(state);
        }
    }

    /// Runs the open submission, which holds one op, and records the times of its kernels; its own
    /// where one of them is not known.
    fn run_alone(&self, state: &mut State, op: &'static str) {
        let before = self.timestamps.as_ref().map(Timestamps::clocks);
        self.submit(state);
        while let Some(done) = self.retire_oldest(state) {
            match self.kernel_times(&done, before) {
                _ if done.kernels.is_empty() => {}
                Some(times) => {
                    for (kernel, us) in done.timed.iter().zip(times) {
                        self.record(op, kernel, us);
                    }
                }
                None => self.record(op, &done.kernels.join("+"), done.gpu_us()),
            }
        }
    }

    /// Microseconds of each kernel of `done`, which was handed over after `before`. `None` for work
    /// that is not all of kernels of ours.
    fn kernel_times(&self, done: &Submission, before: Option<Clocks>) -> Option<Vec<f64>> {
        let all = done.kernel_count > 0 && done.timed.len() == done.kernel_count;
        let timestamps = self.timestamps.as_ref().filter(|_| all)?;
        timestamps.durations(done.timed.len(), before?)
    }

    /// Records a kernel's time on the GPU, in microseconds.
    fn record(&self, op: &str, kernel: &str, us: f64) {
        self.recorder.record(|| MetricEvent::KernelTimed {
            op: op.to_owned(),
            kernel: kernel.to_owned(),
            duration_ns: (us * 1e3).round() as u64,
        });
    }
}

impl fmt::Debug for Metal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.inner.options;
        f.debug_struct("Metal").field("options", options).finish_non_exhaustive()
    }
}
