//! A device of no hardware: buffers in host memory, a graph executor and a legacy kernel that
//! ask the oracle. It shows that a new device finds its place behind the four traits, and lets
//! dispatch and caches be tested anywhere, with failures on demand.

mod buffer;
mod device;
mod executor;
mod kernel;

pub use buffer::NullBuffer;
pub use device::{NULL, NullDevice};
pub use executor::{NullExecutable, NullExecutor};
pub use kernel::NullSdpa;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metallic::Context;
use metallic::cache::ResourceCache;
use metallic::dispatch::{Backend, KernelBackendRegistry, Policies, Preference, Reason};
use metallic::graph::kernels::SdpaGraphKernel;
use metallic::graph::{Cached, LengthPolicy};
use metallic::op::{Sdpa, SdpaSpec};
use metallic_instrumentation::Recorder;

/// The legacy kernel's registered name.
pub const NULL_LEGACY: &str = "null";
/// The graph kernel's registered name.
pub const NULL_GRAPH: &str = "null_graph";

/// What kernels write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compute {
    /// The oracle's result.
    #[default]
    Reference,
    /// Zeros: for tests of everything around a kernel.
    Zeros,
}

/// Counts what happened on a null device, and tells it to fail.
#[derive(Debug, Default)]
pub struct NullControls {
    compiles: AtomicU64,
    graph_runs: AtomicU64,
    legacy_runs: AtomicU64,
    failure: Mutex<Failure>,
}

/// How the next compilations go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Failure {
    /// Well.
    #[default]
    None,
    /// With this error.
    Error(String),
    /// With a panic.
    Panic,
}

impl NullControls {
    /// Compilations begun, failed ones too.
    pub fn compiles(&self) -> u64 {
        self.compiles.load(Ordering::SeqCst)
    }

    /// Runs of compiled graphs.
    pub fn graph_runs(&self) -> u64 {
        self.graph_runs.load(Ordering::SeqCst)
    }

    /// Runs of the legacy kernel.
    pub fn legacy_runs(&self) -> u64 {
        self.legacy_runs.load(Ordering::SeqCst)
    }

    /// Sets how compilations go from now on.
    pub fn fail(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn failure(&self) -> Failure {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a null context is made. The default registers a legacy and a graph kernel, in that order,
/// which both give the oracle's results.
#[derive(Debug)]
pub struct NullOptions {
    /// Register a legacy kernel.
    pub legacy: bool,
    /// Register a graph kernel.
    pub graph: bool,
    /// Why the legacy kernel refuses every call; `None` for none.
    pub legacy_refuses: Option<Reason>,
    /// Why the executor refuses every graph; `None` for none.
    pub graph_refuses: Option<Reason>,
    /// Whether executables are tied to lengths.
    pub lengths: LengthPolicy,
    /// How long a compilation takes.
    pub compile_time: Duration,
    /// The size of each executable.
    pub executable_bytes: usize,
    /// What kernels write.
    pub compute: Compute,
    /// What `auto` prefers.
    pub prefer: Option<fn(&SdpaSpec) -> Preference>,
    /// What is asked for.
    pub policies: Policies,
    /// The caches.
    pub cache: ResourceCache,
    /// The notebook.
    pub recorder: Recorder,
    /// Bytes the device has.
    pub memory: usize,
    /// Counters and failures, shared with the test.
    pub controls: Arc<NullControls>,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self {
            legacy: true,
            graph: true,
            legacy_refuses: None,
            graph_refuses: None,
            lengths: LengthPolicy::Dynamic,
            compile_time: Duration::ZERO,
            executable_bytes: 1000,
            compute: Compute::Reference,
            prefer: None,
            policies: Policies::default(),
            cache: ResourceCache::default(),
            recorder: Recorder::disabled(),
            memory: usize::MAX,
            controls: Arc::default(),
        }
    }
}

/// A context on a null device.
pub fn null_context(options: NullOptions) -> Context {
    let device = NullDevice::new(options.memory);
    let mut registry = KernelBackendRegistry::new(NULL, options.policies);
    if options.legacy {
        let kernel = NullSdpa {
            refuses: options.legacy_refuses,
            compute: options.compute,
            controls: Arc::clone(&options.controls),
        };
        registry.register::<Sdpa>(Backend::Legacy, NULL_LEGACY, kernel);
    }
    if options.graph {
        let executor = NullExecutor {
            refuses: options.graph_refuses,
            lengths: options.lengths,
            compile_time: options.compile_time,
            executable_bytes: options.executable_bytes,
            compute: options.compute,
            controls: options.controls,
        };
        let kernel = Cached::new(SdpaGraphKernel, Arc::new(executor));
        registry.register::<Sdpa>(Backend::Graph, NULL_GRAPH, kernel);
    }
    if let Some(prefer) = options.prefer {
        registry.prefer::<Sdpa>(prefer);
    }
    Context::new(Arc::new(device), registry, options.cache, options.recorder)
}
