//! Compiled graphs, compiled once however many ask.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use metallic_instrumentation::{MetricEvent, Recorder};

use super::lru::{Limits, Lru, Shared};
use super::stats::{CacheStats, EntryInfo};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::graph::Executable;
use crate::op::{Op, OpSpec};

/// Everything an executable depends on: op, spec, device, and the executor's build and flags.
#[derive(Clone)]
pub struct GraphKey {
    op: &'static str,
    device: DeviceId,
    build: Arc<str>,
    spec: Arc<dyn SpecKey>,
}

impl GraphKey {
    /// The key of `spec`; lengths enter it only if `spec` still has them.
    pub fn new<O: Op>(device: DeviceId, build: Arc<str>, spec: impl Into<Arc<O::Spec>>) -> Self {
        Self { op: O::ID, device, build, spec: spec.into() }
    }

    /// The key of `spec` under a name of its own.
    pub fn named(op: &'static str, device: DeviceId, build: Arc<str>, spec: impl OpSpec) -> Self {
        Self { op, device, build, spec: Arc::new(spec) }
    }
}

/// A spec of any op, comparable with others.
trait SpecKey: fmt::Display + Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn same(&self, other: &dyn SpecKey) -> bool;
    fn feed(&self, hasher: &mut dyn Hasher);
}

impl<S: OpSpec> SpecKey for S {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn same(&self, other: &dyn SpecKey) -> bool {
        other.as_any().downcast_ref::<S>() == Some(self)
    }

    fn feed(&self, mut hasher: &mut dyn Hasher) {
        self.hash(&mut hasher);
    }
}

impl PartialEq for GraphKey {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op
            && self.device == other.device
            && self.build == other.build
            && self.spec.same(&*other.spec)
    }
}

impl Eq for GraphKey {}

impl Hash for GraphKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.op.hash(state);
        self.device.hash(state);
        self.spec.feed(state);
    }
}

impl fmt::Display for GraphKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {} ({})", self.op, self.spec, self.device, self.build)
    }
}

impl fmt::Debug for GraphKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Shared for Arc<dyn Executable> {
    fn in_use(&self) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// The cache of compiled graphs of one context.
pub struct GraphExecutableCache {
    state: Mutex<State>,
    compiled: Condvar,
}

/// Failures remembered; beyond this they are forgotten together, and may be tried again.
const MAX_FAILURES: usize = 256;

struct State {
    ready: Lru<GraphKey, Arc<dyn Executable>>,
    compiling: HashSet<GraphKey>,
    /// Why a key did not compile; asked again, it fails at once.
    failed: HashMap<GraphKey, String>,
    frozen: bool,
    /// What was asked for since watching began.
    watched: Option<Vec<Arc<dyn Executable>>>,
}

impl GraphExecutableCache {
    /// The name in events and tables.
    pub const NAME: &'static str = "graph_executables";

    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        let ready = Lru::new(Self::NAME, limits);
        let state = State {
            ready,
            compiling: HashSet::new(),
            failed: HashMap::new(),
            frozen: false,
            watched: None,
        };
        Self { state: Mutex::new(state), compiled: Condvar::new() }
    }

    /// The executable of `key`, compiled by `compile` if it is not there. When several threads
    /// ask for one key, one compiles and the others wait for it.
    ///
    /// # Errors
    /// [`Error::Compile`] when it does not compile, now or before; [`Error::CacheFrozen`] for a
    /// miss in a frozen cache.
    pub fn get_or_compile(
        &self,
        key: GraphKey,
        recorder: &Recorder,
        compile: impl FnOnce() -> Result<Arc<dyn Executable>>,
    ) -> Result<Arc<dyn Executable>> {
        let mut state = self.lock();
        loop {
            if state.compiling.contains(&key) {
                state = self.compiled.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if let Some(reason) = state.failed.get(&key) {
                return Err(Error::Compile { key: key.to_string(), reason: reason.clone() });
            }
            if let Some(executable) = state.ready.get(&key, recorder) {
                state.watch(&executable);
                return Ok(executable);
            }
            if state.frozen {
                state.ready.missed(&key, recorder);
                return Err(Error::CacheFrozen { key: key.to_string() });
            }
            break;
        }
        state.compiling.insert(key.clone());
        drop(state);
        // If `compile` panics, the flight still ends: the others then try for themselves.
        let flight = Flight { cache: self, key: &key };
        let start = Instant::now();
        let result = compile();
        let duration_us = start.elapsed().as_micros() as u64;
        recorder.record(|| MetricEvent::InternalKernelCompleted {
            parent_op: key.op.to_owned(),
            internal_kernel: format!("{}_compile", key.op),
            duration_us,
        });
        let mut state = self.lock();
        let outcome = match result {
            Ok(executable) => {
                let bytes = executable.bytes();
                state.ready.insert(key.clone(), Arc::clone(&executable), bytes, recorder);
                state.watch(&executable);
                Ok(executable)
            }
            Err(error) => {
                let reason = error.to_string();
                state.ready.missed(&key, recorder);
                // Memory may be there the next time; what else goes wrong lies in the key.
                if !matches!(error, Error::OutOfMemory { .. }) {
                    if state.failed.len() >= MAX_FAILURES {
                        state.failed.clear();
                    }
                    state.failed.insert(key.clone(), reason.clone());
                }
                Err(Error::Compile { key: key.to_string(), reason })
            }
        };
        drop(state);
        drop(flight);
        outcome
    }

    /// Begins (or ends) noting which executables are asked for; gives those noted so far.
    pub(crate) fn watch(&self, begin: bool) -> Vec<Arc<dyn Executable>> {
        let mut state = self.lock();
        std::mem::replace(&mut state.watched, begin.then(Vec::new)).unwrap_or_default()
    }

    /// Exempts `key` from eviction, or ends the exemption; false when it is not there.
    pub fn pin(&self, key: &GraphKey, pinned: bool) -> bool {
        self.lock().ready.pin(key, pinned)
    }

    /// Refuses misses from now on, or accepts them again.
    pub fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
    }

    /// Removes every executable that is neither in use nor pinned, and forgets failures; returns
    /// how many executables went.
    pub fn clear(&self) -> usize {
        let mut state = self.lock();
        state.failed.clear();
        state.ready.clear()
    }

    /// The entries, most recently used first.
    pub fn list(&self) -> Vec<EntryInfo> {
        self.lock().ready.list()
    }

    /// Counters and ages.
    pub fn stats(&self) -> CacheStats {
        let state = self.lock();
        CacheStats { frozen: state.frozen, ..state.ready.stats() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn watch(&mut self, executable: &Arc<dyn Executable>) {
        if let Some(watched) = &mut self.watched
            && !watched.iter().any(|known| Arc::ptr_eq(known, executable))
        {
            watched.push(Arc::clone(executable));
        }
    }
}

impl fmt::Debug for GraphExecutableCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphExecutableCache").field("stats", &self.stats()).finish()
    }
}

/// A running compilation; dropping it wakes the waiting.
struct Flight<'a> {
    cache: &'a GraphExecutableCache,
    key: &'a GraphKey,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.cache.lock().compiling.remove(self.key);
        self.cache.compiled.notify_all();
    }
}
