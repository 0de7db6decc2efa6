//! Counters: the one set with timestamps, sample buffers, and both clocks.
//!
//! Hostile where Apple promises nothing: the GPU's clock ticks at 24 MHz and began long before the
//! host's; a sample that nobody wrote keeps what lay in its place, at first `MTLCounterErrorValue`; an
//! encoder without a dispatch writes zeros (wgpu-native#625). Strict where Metal ends the process.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::Instant;

use super::command_buffer::Command;
use super::{Label, device};
use crate::control;
use crate::control::CounterSampling;
use crate::foundation::{array, data, error, string};
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Range;
use crate::runtime::{Id, Ref};

class!(COUNTER, "SoftMTLCounter");
class!(SET, "SoftMTLCounterSet");
class!(DESCRIPTOR, "MTLCounterSampleBufferDescriptor");
class!(SAMPLES, "SoftMTLCounterSampleBuffer");

/// `MTLCounterErrorValue`.
const ERROR_VALUE: u64 = u64::MAX;
/// Samples of 8 bytes in the 32 KiB that Metal gives (gpuweb#3648).
const MAX_SAMPLES: usize = 4096;
/// Sample buffers at a time (gpuweb#3652).
const MAX_BUFFERS: usize = 32;
const SHARED: usize = 0;

/// The constant `@"timestamp"`, set when the classes are.
#[unsafe(no_mangle)]
static MTLCommonCounterSetTimestamp: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// The value of the counter and of the set.
struct Named(&'static str);

/// The value of a descriptor.
#[derive(Default)]
struct Descriptor {
    /// Sample count and storage mode.
    numbers: Mutex<(usize, usize)>,
    set: Mutex<Option<Ref>>,
    label: Label,
}

/// The value of a sample buffer object.
struct Samples {
    ticks: Mutex<Vec<u64>>,
    label: Label,
}

impl Drop for Samples {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nanoseconds of the host's clock.
fn nanoseconds() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    1_000_000_000 + START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// The GPU's clock, in ticks of 125 / 3 ns.
fn ticks(nanoseconds: u64) -> u64 {
    (1 << 40) + nanoseconds * 3 / 125
}

/// Writes both clocks.
pub(crate) fn both_clocks(cpu: *mut u64, gpu: *mut u64) {
    let now = nanoseconds();
    // SAFETY: the caller passes places of a number each.
    unsafe {
        cpu.write(now);
        gpu.write(ticks(now));
    }
}

/// The device's counter sets: nil where it has none.
pub(crate) fn sets() -> Id {
    match control().counter_sampling() {
        CounterSampling::Never => Id::NIL,
        // Others before it, as on a Mac.
        _ => {
            let set = |name| Ref::new(&SET, Named(name));
            array::make(vec![set("statistic"), set("timestamp")]).autorelease()
        }
    }
}

/// A new sample buffer object.
pub(crate) fn new(descriptor: Id) -> Result<Ref, Ref> {
    let descriptor = descriptor.value::<Descriptor>();
    let refuse = |text: &str| Err(error::make("MTLCounterErrorDomain", 0, text));
    let (count, storage) = *descriptor.numbers.lock().unwrap();
    match &*descriptor.set.lock().unwrap() {
        Some(set) if set.value::<Named>().0 == "timestamp" => {}
        Some(set) => abort!("counter set {} is not modelled", set.value::<Named>().0),
        None => abort!("newCounterSampleBufferWithDescriptor: the counter set must not be nil"),
    }
    if storage != SHARED {
        abort!("newCounterSampleBufferWithDescriptor: only shared storage is modelled");
    }
    if count == 0 || count > MAX_SAMPLES {
        let bytes = 8 * count;
        return refuse(&format!(
            "Invalid sample buffer length: {bytes} B. Expected range: 8 -> 32768"
        ));
    }
    if control().take_allocation_failure() || ALIVE.load(Ordering::Relaxed) >= MAX_BUFFERS {
        return refuse("Cannot allocate sample buffer");
    }
    ALIVE.fetch_add(1, Ordering::Relaxed);
    let ticks = Mutex::new(vec![ERROR_VALUE; count]);
    Ok(Ref::new(&SAMPLES, Samples { ticks, label: Label::default() }))
}

/// Where an encoder samples the clock.
#[derive(Clone)]
pub(crate) struct Place {
    samples: Ref,
    index: usize,
}

impl Place {
    /// Sample `index` of a sample buffer object; ends the process for one outside it, and where the
    /// device does not sample at such a `point`.
    pub(crate) fn new(samples: Id, index: usize, point: CounterSampling) -> Place {
        if control().counter_sampling() != point {
            abort!("counters cannot be sampled {point:?} on this device");
        }
        let samples = samples.required("the sample buffer");
        let count = samples.value::<Samples>().ticks.lock().unwrap().len();
        if index >= count {
            abort!("sample index {index} must be < {count}, the sample count");
        }
        Place { samples, index }
    }

    fn write(&self, tick: u64) {
        if control().counters_written() {
            self.samples.value::<Samples>().ticks.lock().unwrap()[self.index] = tick;
        }
    }

    /// The command that samples the clock.
    pub(crate) fn command(&self) -> Command {
        let place = self.clone();
        Box::new(move || place.write(ticks(nanoseconds())))
    }

    /// The command of an encoder that does nothing.
    pub(crate) fn empty(&self) -> Command {
        let place = self.clone();
        Box::new(move || place.write(0))
    }
}

methods! { install_named for COUNTER;
    - "name" (this) -> Id { string::make(this.value::<Named>().0).autorelease() }
}

methods! { install_set for SET;
    - "name" (this) -> Id { string::make(this.value::<Named>().0).autorelease() }
    - "counters" (_this) -> Id {
        array::make(vec![Ref::new(&COUNTER, Named("GPUTimestamp"))]).autorelease()
    }
}

methods! { install_descriptor for DESCRIPTOR;
    - "init" (this) -> Id { this.init(Descriptor::default()) }
    - "counterSet" (this) -> Id {
        this.value::<Descriptor>().set.lock().unwrap().clone().map_or(Id::NIL, Ref::autorelease)
    }
    - "setCounterSet:" (this, set: Id) { *this.value::<Descriptor>().set.lock().unwrap() = set.retained() }
    - "sampleCount" (this) -> usize { this.value::<Descriptor>().numbers.lock().unwrap().0 }
    - "setSampleCount:" (this, count: usize) { this.value::<Descriptor>().numbers.lock().unwrap().0 = count }
    - "storageMode" (this) -> usize { this.value::<Descriptor>().numbers.lock().unwrap().1 }
    - "setStorageMode:" (this, mode: usize) { this.value::<Descriptor>().numbers.lock().unwrap().1 = mode }
    - "label" (this) -> Id { this.value::<Descriptor>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Descriptor>().label.set(text) }
}

methods! { install_samples for SAMPLES;
    - "sampleCount" (this) -> usize { this.value::<Samples>().ticks.lock().unwrap().len() }
    - "resolveCounterRange:" (this, range: Range) -> Id {
        let ticks = this.value::<Samples>().ticks.lock().unwrap();
        let end = range.location.checked_add(range.length).filter(|end| *end <= ticks.len());
        let Some(end) = end.filter(|_| range.length > 0) else {
            abort!("resolveCounterRange: {range:?} must lie in {} samples", ticks.len());
        };
        let bytes = ticks[range.location..end].iter().flat_map(|tick| tick.to_le_bytes());
        data::make(bytes.collect()).autorelease()
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Samples>().label.object() }
}

pub(crate) fn install() {
    install_named();
    install_set();
    install_descriptor();
    install_samples();
    let name = string::make("timestamp").into_id();
    MTLCommonCounterSetTimestamp.store(name.as_ptr(), Ordering::Relaxed);
}
