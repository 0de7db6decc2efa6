//! The switchboard: which macOS is played, how hostile the stand-ins are, faults on demand, and counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use softmetal_emulator::CompileOptions;

use crate::environment;
pub use crate::gates::Version;
use crate::runtime::{block, class, pool};

/// Where the GPU samples its counters, as `MTLCounterSamplingPoint` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterSampling {
    /// At the borders of encoders, as GPUs of Apple do.
    AtStageBoundary = 0,
    /// Between dispatches.
    AtDispatchBoundary = 2,
    /// Nowhere; the device has no counter sets either.
    Never = 99,
}

/// Objects of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassCount {
    /// Alive now.
    pub live: usize,
    /// Made since the process began.
    pub made: usize,
}

/// Live and made objects by class name; heap blocks are `__NSMallocBlock__`.
pub fn counts() -> BTreeMap<&'static str, ClassCount> {
    let mut all: BTreeMap<_, _> = class::registered()
        .into_iter()
        .map(|class| {
            let (live, made) = class.counts();
            (class.name(), ClassCount { live, made })
        })
        .collect();
    all.insert("__NSMallocBlock__", ClassCount { live: block::live(), made: 0 });
    all
}

/// Switches that are on unless a test turns them off.
macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident / $setter:ident: $default:literal;)*) => {
        /// The switchboard; one for the process, from [`control`].
        pub struct Control {
            os: AtomicU64,
            $($name: AtomicBool,)*
            commit_delay_us: AtomicU64,
            fail_library: Mutex<Option<String>>,
            fail_graph_compile: AtomicBool,
            fail_command_buffer: AtomicUsize,
            fail_allocation: AtomicUsize,
            counter_sampling: Mutex<CounterSampling>,
            kernels: Mutex<CompileOptions>,
            counters: Mutex<BTreeMap<&'static str, u64>>,
        }

        impl Control {
            fn new() -> Control {
                let environment = environment::read();
                let control = Control {
                    os: AtomicU64::new(pack(environment.os)),
                    $($name: AtomicBool::new($default),)*
                    commit_delay_us: AtomicU64::new(2000),
                    fail_library: Mutex::new(None),
                    fail_graph_compile: AtomicBool::new(false),
                    fail_command_buffer: AtomicUsize::new(0),
                    fail_allocation: AtomicUsize::new(0),
                    counter_sampling: Mutex::new(CounterSampling::AtStageBoundary),
                    kernels: Mutex::new(environment.kernels),
                    counters: Mutex::default(),
                };
                control.set_backtrace_on_abort(environment.backtrace);
                control
            }

            $(
                $(#[$doc])*
                pub fn $name(&self) -> bool {
                    self.$name.load(Ordering::Relaxed)
                }

                /// Sets the switch of the same name.
                pub fn $setter(&self, on: bool) {
                    self.$name.store(on, Ordering::Relaxed);
                }
            )*
        }
    };
}

switches! {
    /// New buffers are filled with 0xff bytes (NaN in every float type) instead of zeros.
    poison_buffers / set_poison_buffers: true;
    /// Committed work waits for `waitUntilCompleted` or a short time before it runs.
    late_execution / set_late_execution: true;
    /// Dispatches of a concurrent encoder run in reverse order between barriers.
    reverse_concurrent / set_reverse_concurrent: true;
    /// `feedTensors` come in the reverse of the order in which they were given.
    reverse_feeds / set_reverse_feeds: true;
    /// Encoding a graph commits the caller's command buffer and goes on in another.
    commit_and_continue / set_commit_and_continue: true;
    /// Results of a graph are filled with NaN before they are computed.
    poison_results / set_poison_results: true;
    /// The decomposed softmax of f16 and bf16 tensors rounds after every addition.
    narrow_accumulation / set_narrow_accumulation: true;
    /// An abort prints a backtrace.
    backtrace_on_abort / set_backtrace_on_abort: false;
    /// Encoders write the samples that they were told to take.
    counters_written / set_counters_written: true;
    /// The device says that its memory is shared with the CPU.
    unified_memory / set_unified_memory: true;
}

fn pack(version: Version) -> u64 {
    u64::from(version.0) << 16 | u64::from(version.1)
}

/// The switchboard of this process.
pub fn control() -> &'static Control {
    static CONTROL: OnceLock<Control> = OnceLock::new();
    CONTROL.get_or_init(Control::new)
}

impl Control {
    /// The macOS version that is played.
    pub fn os_version(&self) -> Version {
        let packed = self.os.load(Ordering::Relaxed);
        ((packed >> 16) as u16, packed as u16)
    }

    /// Plays another macOS version: methods newer than it are missing from now on.
    pub fn set_os_version(&self, version: Version) {
        self.os.store(pack(version), Ordering::Relaxed);
    }

    /// How long committed work may wait for somebody to wait for it, in microseconds.
    pub fn commit_delay_us(&self) -> u64 {
        self.commit_delay_us.load(Ordering::Relaxed)
    }

    /// Sets [`Control::commit_delay_us`].
    pub fn set_commit_delay_us(&self, delay: u64) {
        self.commit_delay_us.store(delay, Ordering::Relaxed);
    }

    /// Where the GPU samples its counters.
    pub fn counter_sampling(&self) -> CounterSampling {
        *self.counter_sampling.lock().unwrap()
    }

    /// Sets [`Control::counter_sampling`].
    pub fn set_counter_sampling(&self, point: CounterSampling) {
        *self.counter_sampling.lock().unwrap() = point;
    }

    /// How kernels are compiled and run; fast math follows the program's own choice unless it is on here.
    pub fn kernel_options(&self) -> CompileOptions {
        self.kernels.lock().unwrap().clone()
    }

    /// Sets [`Control::kernel_options`] for the libraries that are compiled from now on.
    pub fn set_kernel_options(&self, options: CompileOptions) {
        *self.kernels.lock().unwrap() = options;
    }

    /// The next library fails to compile with this text.
    pub fn fail_next_library(&self, text: &str) {
        *self.fail_library.lock().unwrap() = Some(text.to_owned());
    }

    pub(crate) fn take_library_failure(&self) -> Option<String> {
        self.fail_library.lock().unwrap().take()
    }

    /// The next compilation of a graph gives nil.
    pub fn fail_next_graph_compile(&self) {
        self.fail_graph_compile.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_graph_failure(&self) -> bool {
        self.fail_graph_compile.swap(false, Ordering::Relaxed)
    }

    /// The `nth` command buffer from now (1 is the next one committed) ends with the error of a lost
    /// device; 0 takes the order back.
    pub fn fail_command_buffer(&self, nth: usize) {
        self.fail_command_buffer.store(nth, Ordering::Relaxed);
    }

    pub(crate) fn take_command_buffer_failure(&self) -> bool {
        count_down(&self.fail_command_buffer)
    }

    /// The `nth` buffer from now (1 is the next one) is nil; 0 takes the order back.
    pub fn fail_allocation(&self, nth: usize) {
        self.fail_allocation.store(nth, Ordering::Relaxed);
    }

    pub(crate) fn take_allocation_failure(&self) -> bool {
        count_down(&self.fail_allocation)
    }

    /// Adds to a named counter; see [`Control::counter`].
    pub(crate) fn count(&self, name: &'static str, amount: u64) {
        *self.counters.lock().unwrap().entry(name).or_default() += amount;
    }

    /// How often something happened since the process began or [`Control::reset_counters`]:
    /// `commits`, `dispatches`, `blits`, `copied_bytes`, `graph_compiles`, `graph_encodes`,
    /// `graph_compiles_above_level_0`, `graph_compiles_without_wait`, `graph_specialisations`,
    /// `graph_splits`, `graph_saves`, `graph_loads`, `library_compiles`, `fast_math_compiles`, `buffers`,
    /// `buffer_bytes`, `heaps`, `heap_buffers`.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Sets every counter to zero.
    pub fn reset_counters(&self) {
        self.counters.lock().unwrap().clear();
    }

    /// Objects that were autoreleased on threads with no pool.
    pub fn unpooled(&self) -> usize {
        pool::unpooled()
    }
}

/// Whether this is the event that `left` counted down to.
fn count_down(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)) == Ok(1)
}
