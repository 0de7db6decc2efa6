//! How kernels are compiled and run.

use std::path::PathBuf;
use std::thread;

/// Which instrumentation a library is compiled with. Each needs a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sanitizer {
    /// Accesses out of bounds of buffers and of threadgroup variables.
    Address,
    /// Misaligned accesses, overflowing shifts and conversions.
    Undefined,
    /// Races between threads of a threadgroup, and between threadgroups.
    Thread,
}

/// In which order the threads of a threadgroup run up to their next synchronising call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FiberOrder {
    /// By index.
    Forward,
    /// From the last to the first.
    Reverse,
    /// Shuffled by a seed.
    Random(u64),
}

impl FiberOrder {
    /// The runtime's number of the order, and the seed.
    pub(crate) fn numbers(self) -> (u32, u64) {
        match self {
            Self::Forward => (0, 0),
            Self::Reverse => (1, 0),
            Self::Random(seed) => (2, seed),
        }
    }
}

/// What a [`crate::Library`] is compiled with, and how its kernels run.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// Metal's fast math mode: no promises for NaN and infinity, denormals may be flushed.
    pub fast_math: bool,
    /// The instrumentation; none runs in this process.
    pub sanitizer: Option<Sanitizer>,
    /// Where compiled libraries are kept, named by a hash of all that went into them.
    pub cache_dir: PathBuf,
    /// Whether the rules of address spaces are checked before compiling.
    pub check_rules: bool,
    /// Order of threads and threadgroups.
    pub order: FiberOrder,
    /// Whether a barrier or simdgroup operation in divergent flow is an error.
    pub strict: bool,
    /// Whether threadgroup memory is filled with NaNs before each threadgroup.
    pub poison: bool,
    /// Whether buffers are copied to memory that ends at an unmapped page, for each dispatch.
    pub guard: bool,
    /// How many threads run threadgroups at the same time, at most.
    pub workers: u32,
}

impl CompileOptions {
    /// The strictest settings without a sanitizer: rules checked, forward order, poison, guard pages.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        let workers = thread::available_parallelism().map_or(1, |n| n.get().min(8) as u32);
        Self {
            fast_math: false,
            sanitizer: None,
            cache_dir: cache_dir.into(),
            check_rules: true,
            order: FiberOrder::Forward,
            strict: true,
            poison: true,
            guard: true,
            workers,
        }
    }
}
