//! From a lowered graph to an executable: on a thread of its own, and knowing which feed is which.

use std::thread;

use metallic::Result;
use metallic::graph::Graph;
use metallic_instrumentation::{MetricEvent, Recorder};
use objc2::AnyThread;
use objc2::available;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSArray, NSDictionary};
use objc2_metal::MTLDevice;
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::{
    MPSGraphCompilationDescriptor, MPSGraphDevice, MPSGraphExecutable, MPSGraphOptimization,
    MPSGraphReducedPrecisionFastMath, MPSGraphShapedType, MPSGraphTensor,
};

use super::lower::{Lowered, Made, Slot, Target, lower};
use super::package::{Order, Packages};
use super::value::{Value, bad, shape};

/// The compiler recurses over the graph; threads have 2 MiB unless they ask for more.
const STACK_BYTES: usize = 64 << 20;

/// One placeholder of an executable, in the order in which the executable wants its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    /// Where its value comes from.
    pub(super) slot: Slot,
    /// Its shape; −1 for a length of the call.
    pub(super) dims: Vec<isize>,
    /// Its element type.
    pub(super) dtype: MPSDataType,
}

impl Input {
    fn of((slot, value): &(Slot, Value)) -> Self {
        Self { slot: *slot, dims: value.dims.clone(), dtype: value.dtype }
    }
}

/// An executable, what it is to be fed with, and what it gives.
pub(super) struct Compiled {
    pub(super) executable: Retained<MPSGraphExecutable>,
    /// In the executable's order.
    pub(super) inputs: Vec<Input>,
    /// In the executable's order.
    pub(super) outputs: Vec<Output>,
}

/// One result of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    /// Where it goes.
    pub(super) made: Made,
    /// Its shape; −1 for a length of the call.
    pub(super) dims: Vec<isize>,
    /// Its element type.
    pub(super) dtype: MPSDataType,
}

/// What a graph is compiled for.
pub(super) struct Job<'a> {
    pub(super) device: &'a Retained<ProtocolObject<dyn MTLDevice>>,
    pub(super) graph: &'a Graph,
    pub(super) target: Target,
    /// Where executables are kept, and the key of this one.
    pub(super) kept: Option<(&'a Packages, &'a str)>,
    pub(super) recorder: &'a Recorder,
}

/// Lowers a graph and compiles it, or loads what was compiled before; waits for it.
///
/// # Errors
/// [`metallic::Error::Compile`] for what cannot be lowered, and when MPSGraph gives nothing or
/// panics.
pub(super) fn compile(job: &Job<'_>) -> Result<Compiled> {
    on_big_stack(|| {
        let lowered = lower(job.graph, job.target)?;
        let Some((packages, key)) = job.kept else {
            return executable(job.device, &lowered).map(|(compiled, _)| compiled);
        };
        let found = packages
            .load(key)
            .and_then(|(executable, order)| ordered(&lowered, executable, &order));
        job.recorder.record(|| MetricEvent::ResourceCacheAccess {
            cache_key: format!("mpsgraph_package {key}"),
            hit: found.is_some(),
            bytes: 0,
        });
        if let Some(compiled) = found {
            return Ok(compiled);
        }
        let (compiled, order) = executable(job.device, &lowered)?;
        packages.save(key, &compiled.executable, &order);
        Ok(compiled)
    })
}

/// `executable` with the feeds and results of `lowered` in its order; `None` when the order is
/// none of theirs.
fn ordered(
    lowered: &Lowered,
    executable: Retained<MPSGraphExecutable>,
    order: &Order,
) -> Option<Compiled> {
    let Lowered { feeds, outputs, .. } = lowered;
    let permutes = |places: &[usize], len: usize| {
        let mut sorted = places.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..len)
    };
    if !permutes(&order.inputs, feeds.len()) || !permutes(&order.outputs, outputs.len()) {
        return None;
    }
    let inputs = order.inputs.iter().map(|place| Input::of(&feeds[*place])).collect();
    let outputs = order.outputs.iter().map(|place| {
        let (made, value) = &outputs[*place];
        Output { made: *made, dims: value.dims.clone(), dtype: value.dtype }
    });
    Some(Compiled { executable, inputs, outputs: outputs.collect() })
}

/// Runs `work` on a thread with a large stack, inside an autorelease pool, and turns its panic
/// into an error.
///
/// # Errors
/// What `work` reports; [`metallic::Error::Compile`] when no thread can be had or it panics.
pub(super) fn on_big_stack<R: Send>(work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("mpsgraph".to_owned()).stack_size(STACK_BYTES);
        let started = builder.spawn_scoped(scope, || autoreleasepool(|_| work()));
        let started = started.map_err(|error| bad("compile", format!("no thread: {error}")))?;
        started.join().unwrap_or_else(|panic| Err(bad("compile", panic_text(&*panic))))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a text"))
}

/// How executables are compiled: at level 0, since the default level may place work on the Neural
/// Engine, with other arithmetic; and before the call returns.
pub(super) fn descriptor(
    level: MPSGraphOptimization,
    macos_26: bool,
) -> Retained<MPSGraphCompilationDescriptor> {
    // SAFETY: setters of plain values; the last one exists from macOS 26.
    unsafe {
        let descriptor = MPSGraphCompilationDescriptor::new();
        descriptor.setOptimizationLevel(level);
        descriptor.setWaitForCompilationCompletion(true);
        if macos_26 && available!(macos = 26.0, ..) {
            descriptor.setReducedPrecisionFastMath(MPSGraphReducedPrecisionFastMath::None);
        }
        descriptor
    }
}

pub(super) fn executable(
    device: &Retained<ProtocolObject<dyn MTLDevice>>,
    lowered: &Lowered,
) -> Result<(Compiled, Order)> {
    let Lowered { emitter, feeds, outputs, level, macos_26 } = lowered;
    let keys: Vec<&MPSGraphTensor> = feeds.iter().map(|(_, value)| &*value.tensor).collect();
    let types: Vec<Retained<MPSGraphShapedType>> =
        feeds.iter().map(|(_, value)| shaped_type(value)).collect();
    let targets: Vec<&MPSGraphTensor> = outputs.iter().map(|(_, value)| &*value.tensor).collect();
    // SAFETY: the feeds are the graph's placeholders with their own shapes and types, the
    // targets its tensors.
    let executable = unsafe {
        emitter
            .graph()
            .compileWithDevice_feeds_targetTensors_targetOperations_compilationDescriptor(
                Some(&MPSGraphDevice::deviceWithMTLDevice(device)),
                &NSDictionary::from_retained_objects(&keys, &types),
                &NSArray::from_slice(&targets),
                None,
                Some(&descriptor(*level, *macos_26)),
            )
    };
    // SAFETY: getters.
    let (fed, made) = unsafe { (executable.feedTensors(), executable.targetTensors()) };
    let names_none = || bad("compile", "the executable names no feeds or no targets");
    // Neither dictionaries nor compilers promise an order: objects are told by their identity.
    let (fed, made) = (fed.ok_or_else(names_none)?, made.ok_or_else(names_none)?);
    let order = Order { inputs: in_order(&fed, &keys)?, outputs: in_order(&made, &targets)? };
    let compiled = ordered(lowered, executable, &order);
    let compiled = compiled.ok_or_else(|| bad("compile", "a feed or target comes twice"))?;
    Ok((compiled, order))
}

/// The place of each of `found` among `ours`.
fn in_order(found: &NSArray<MPSGraphTensor>, ours: &[&MPSGraphTensor]) -> Result<Vec<usize>> {
    let places =
        found.iter().map(|tensor| ours.iter().position(|our| std::ptr::eq(*our, &*tensor)));
    let places: Option<Vec<usize>> = places.collect();
    let places = places.filter(|places| places.len() == ours.len());
    places.ok_or_else(|| bad("compile", "the executable has other feeds or targets than ours"))
}

fn shaped_type(value: &Value) -> Retained<MPSGraphShapedType> {
    let dims = shape(&value.dims);
    // SAFETY: the shape and type of a placeholder that exists.
    unsafe {
        MPSGraphShapedType::initWithShape_dataType(
            MPSGraphShapedType::alloc(),
            Some(&dims),
            value.dtype,
        )
    }
}
