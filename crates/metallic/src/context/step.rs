//! Steps that are run again and again with other numbers in the same buffers, as the decode of one
//! token: a device that can record does so once, then replays the whole step as one executable.
//!
//! The first step of its kind runs plainly, so that everything it needs is compiled. The second is
//! recorded, and from then on it is replayed. A device that cannot record runs every step plainly.

use std::any::Any;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::tally::Kernel;
use super::{Context, Explanation};
use crate::cache::GraphKey;
use crate::dispatch::{Backend, Policy, Selection};
use crate::error::{Error, Result};
use crate::graph::Executable;
use crate::op::OpSpec;

/// The name of a step in events, tables and keys.
pub const STEP: &str = "step";

/// A number that is given once: for what a recorded step is tied to.
pub fn unique_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a recorded step is tied to. Everything else that changes lies in feeds: device memory that
/// is written before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepSpec {
    /// The weights, as a [`unique_id`].
    pub model: u64,
    /// The buffers the step reads and updates, as a [`unique_id`] that changes with any of them.
    pub buffers: u64,
    /// Rows of activations.
    pub rows: usize,
    /// Key positions that layers look at.
    pub kv_len: usize,
    /// Whether logits are computed.
    pub logits: bool,
}

/// A spec with what was asked of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct KeyedStep {
    spec: StepSpec,
    policies: u64,
}

impl OpSpec for KeyedStep {}

impl fmt::Display for KeyedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StepSpec { model, buffers, rows, kv_len, logits } = self.spec;
        write!(f, "rows={rows} kv<={kv_len} model#{model} buffers#{buffers}")?;
        write!(f, " policies#{}{}", self.policies, if logits { " logits" } else { "" })
    }
}

/// A recorded step with what it needs to stay alive, and what it counts for.
struct RecordedStep {
    work: Arc<dyn Executable>,
    /// Executables whose memory the recorded work uses.
    _parts: Vec<Arc<dyn Executable>>,
    /// Calls of kernels in it, as the tally has them.
    runs: Vec<(usize, u64)>,
}

impl Executable for RecordedStep {
    fn bytes(&self) -> usize {
        self.work.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Context {
    /// Whether [`Context::step`] records steps here.
    pub fn records_steps(&self) -> bool {
        let policy = self.registry.policies().all.policy;
        self.device.records() && policy != Policy::Force(Backend::Legacy)
    }

    /// Runs `work`, or replays what it put on the device before. `work` reads nothing back and
    /// writes nothing from the host; whatever differs between two steps of one spec was written to
    /// its feeds before the call.
    ///
    /// # Errors
    /// What `work` reports; [`Error::Compile`] when a step cannot be recorded and `graph` is
    /// demanded of all ops; [`Error::Device`] when the device fails.
    pub fn step<E: From<Error> + fmt::Display>(
        &self,
        spec: StepSpec,
        work: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.records_steps() {
            return work();
        }
        let keyed = KeyedStep { spec, policies: self.registry.policies_id() };
        let recorded = || {
            let reason = "auto: recorded when it comes again".into();
            let (backend, variant) = (Backend::Graph, "recorded");
            Explanation::of(Selection { op: STEP, backend, variant, reason }, &keyed)
        };
        if self.add_explanation(recorded) {
            return work();
        }
        if self.tally().is_first_step(&keyed) {
            self.note_step(&keyed, Backend::Legacy, "auto: the first step of its kind");
            return work();
        }
        let build: Arc<str> = Arc::from("");
        let key = GraphKey::named(STEP, self.device.id(), build, keyed.clone());
        let recorded =
            self.cache.executables.get_or_compile(key, &self.recorder, || self.record(work));
        let forced = self.registry.policies().all.policy == Policy::Force(Backend::Graph);
        match recorded {
            Ok(recorded) => {
                let step: &RecordedStep = recorded.as_any().downcast_ref().ok_or_else(|| {
                    let (device, what) = (self.device.id(), "replay a step");
                    Error::Device { device, what, reason: "it is no recorded step".to_owned() }
                })?;
                self.device.replay(&*step.work)?;
                self.tally().add(&step.runs);
                let reason = if forced { "demanded of all ops" } else { "auto: recorded" };
                self.note_step(&keyed, Backend::Graph, reason);
                Ok(())
            }
            Err(error) if forced => Err(error.into()),
            Err(error) => {
                self.note_step(&keyed, Backend::Legacy, &format!("auto: {error}"));
                work()
            }
        }
    }

    fn record<E: fmt::Display>(
        &self,
        work: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Arc<dyn Executable>> {
        let _alone = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.tally().calls();
        self.cache.executables.watch(true);
        let recorded = self.device.record(&mut || {
            work().map_err(|error| {
                let (device, what) = (self.device.id(), "record a step");
                Error::Device { device, what, reason: error.to_string() }
            })
        });
        let parts = self.cache.executables.watch(false);
        let mut tally = self.tally();
        let runs = tally.since(&before);
        // What was only recorded did not run yet; each replay counts it.
        tally.take_back(&runs);
        Ok(Arc::new(RecordedStep { work: recorded?, _parts: parts, runs }))
    }

    fn note_step(&self, keyed: &KeyedStep, backend: Backend, reason: &str) {
        let variant = if backend == Backend::Graph { "recorded" } else { "plain" };
        self.note(keyed, Kernel { op: STEP, backend, variant }, &reason);
    }
}
