//! The events. Field names are public: dashboards and scripts read them.

use serde::Serialize;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event")]
#[non_exhaustive]
pub enum MetricEvent {
    /// A cache was asked for a resource.
    ResourceCacheAccess {
        /// Cache type and resource parameters.
        cache_key: String,
        /// Whether it was there.
        hit: bool,
        /// Size of the resource.
        bytes: u64,
    },
    /// Every 100 operations of a cache.
    ResourceCacheSummary {
        /// The cache's name, as `graph_executables` or `mask_arena`.
        cache: String,
        /// Hits so far.
        hits: u64,
        /// Misses so far.
        misses: u64,
        /// Hits per access, 0 to 100.
        hit_rate: f64,
        /// Entries now.
        size: u64,
        /// Bytes now.
        bytes: u64,
        /// Entries evicted so far.
        evictions: u64,
        /// Age of the oldest entry in µs.
        oldest_age_us: u64,
        /// Age of the newest entry in µs.
        newest_age_us: u64,
        /// Longest time an entry has not been used, in µs.
        longest_idle_us: u64,
        /// Uses of present entries after their first.
        reuse_count: u64,
    },
    /// A cache gave up an entry.
    ResourceCacheEviction {
        /// The cache's name.
        cache: String,
        /// The entry.
        cache_key: String,
        /// Its size.
        bytes: u64,
        /// Its age in µs.
        age_us: u64,
        /// Its uses after the first.
        reuse_count: u64,
    },
    /// A backend was chosen: at the first call of each spec, and whenever the choice changes.
    KernelBackendSelected {
        /// The op, as `sdpa`.
        op: String,
        /// `legacy` or `graph`.
        backend: String,
        /// The kernel's name among that backend's.
        variant: String,
        /// Why.
        reason: String,
        /// What the call depends on.
        spec: String,
    },
    /// No graph takes a segment, so the ops it is made of run one by one, each with a choice of its
    /// own: at the first call of each spec, and whenever this changes.
    SegmentDeclined {
        /// The segment, as `attention_block`.
        op: String,
        /// Why.
        reason: String,
        /// What the call depends on.
        spec: String,
    },
    /// A request fell on one side of a rollout.
    RolloutDecided {
        /// The op, as `sdpa`.
        op: String,
        /// Requests that may run on graph, as `25 %`.
        share: String,
        /// Where this one falls, from 0.00 to 99.99.
        draw: String,
        /// Whether it may run on graph.
        graph: bool,
    },
    /// A step inside an op, as `sdpa_compile` or `sdpa_encode`; a command buffer of a GPU.
    InternalKernelCompleted {
        /// The op.
        parent_op: String,
        /// The step.
        internal_kernel: String,
        /// Its duration.
        duration_us: u64,
    },
    /// A kernel ran alone and was timed (`--profile latency`).
    KernelTimed {
        /// The op, or the file of the kernel where the device times each kernel of an op.
        op: String,
        /// The kernel's name.
        kernel: String,
        /// Its duration, on the device where that tells the time.
        duration_ns: u64,
    },
    /// A tensor could not be given to a graph as it lies, and was copied on the device.
    GraphOperandCopied {
        /// The tensor's name in the graph, as `q`; `out` for results.
        binding: String,
        /// Bytes of the copy.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// A prompt was read.
    PromptProcessed {
        /// Tokens in it.
        tokens: u64,
        /// Duration.
        duration_us: u64,
    },
    /// A token was generated.
    TokenGenerated {
        /// Its place in the answer, from 0.
        index: u64,
        /// Time since the token before, or since the start.
        duration_us: u64,
    },
    /// Memory at a moment.
    MemoryUsage {
        /// The device.
        device: String,
        /// Bytes handed out.
        in_use: u64,
        /// Highest so far.
        peak: u64,
    },
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// Microseconds since the recorder was made.
    pub time_us: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: MetricEvent,
}
