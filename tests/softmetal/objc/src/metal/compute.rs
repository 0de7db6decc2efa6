//! Compute encoders. A dispatch takes what is bound at that moment, checks it as Apple's validation
//! layer does, and becomes a command.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

use super::buffer::Buffer;
use super::command_buffer::{Command, Work};
use super::compute_pass::Borders;
use super::counters::Place;
use super::pipeline::Pipeline;
use super::shader::{Function, Grid};
use super::{Label, device};
use crate::control;
use crate::control::CounterSampling;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::{Range, Size};
use crate::runtime::{Id, Ref};

class!(ENCODER, "SoftMTLComputeCommandEncoder");

/// The buffer table has 31 places; `setBytes` takes at most 4 KiB (Metal feature set tables).
const MAX_BUFFERS: usize = 31;
const MAX_BYTES: usize = 4096;
const MAX_THREADGROUP_MEMORY: usize = 32768;

/// What a place of the buffer table holds.
#[derive(Clone)]
enum Binding {
    /// `keep` only holds the buffer; it is empty in command buffers that retain nothing.
    #[allow(dead_code)]
    Buffer {
        id: Id,
        keep: Option<Ref>,
        offset: usize,
    },
    Bytes(Arc<Vec<u8>>),
}

#[derive(Default)]
struct State {
    pipeline: Option<Ref>,
    bindings: [Option<Binding>; MAX_BUFFERS],
    threadgroup: [usize; MAX_BUFFERS],
    /// Commands up to the last barrier, in order.
    settled: Vec<Command>,
    /// Dispatches since then.
    open: Vec<Command>,
    dispatched: bool,
    ended: bool,
}

/// The value of a compute encoder object.
struct Encoder {
    work: Arc<Work>,
    concurrent: bool,
    borders: Borders,
    state: Mutex<State>,
    label: Label,
}

/// A new encoder; another open one ends the process.
pub(crate) fn new(work: &Arc<Work>, concurrent: bool, borders: Borders) -> Ref {
    work.open("compute");
    let (work, state, label) = (Arc::clone(work), Mutex::default(), Label::default());
    Ref::new(&ENCODER, Encoder { work, concurrent, borders, state, label })
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if !self.state.lock().unwrap().ended {
            abort!(
                "Command encoder released without endEncoding (compute \"{}\")",
                self.label.text()
            );
        }
    }
}

impl Encoder {
    fn open(&self, what: &str) -> MutexGuard<'_, State> {
        let state = self.state.lock().unwrap();
        if state.ended {
            abort!("-[MTLComputeCommandEncoder {what}]: the encoder has ended");
        }
        state
    }

    /// Everything encoded so far comes before what follows.
    fn barrier(&self, state: &mut State) {
        let mut open = std::mem::take(&mut state.open);
        if self.concurrent && control().reverse_concurrent() {
            open.reverse();
        }
        state.settled.append(&mut open);
    }

    fn bind(&self, index: usize, binding: Option<Binding>, what: &str) {
        let mut state = self.open(what);
        match state.bindings.get_mut(index) {
            Some(place) => *place = binding,
            None => {
                abort!("-[MTLComputeCommandEncoder {what}]: index({index}) must be < {MAX_BUFFERS}")
            }
        }
    }

    fn buffer(&self, id: Id, offset: usize) -> Option<Binding> {
        if id.is_nil() {
            return None;
        }
        let buffer = id.value::<Buffer>();
        if offset >= buffer.len() {
            abort!(
                "setBuffer: offset({offset}) must be < [buffer length]({}) of \"{}\"",
                buffer.len(),
                buffer.label.text()
            );
        }
        buffer.check_tracked("setBuffer");
        let keep = self.work.retains.then(|| id.required("the buffer"));
        Some(Binding::Buffer { id, keep, offset })
    }
}

/// A dispatch with all that it needs.
struct Dispatch {
    function: Function,
    bindings: Vec<(u32, Binding)>,
    threadgroup: Vec<(u32, usize)>,
    grid: Grid,
    threads: [u32; 3],
    name: String,
}

impl Dispatch {
    fn run(self) {
        let buffers: Vec<(u32, *mut u8, usize)> = self
            .bindings
            .iter()
            .map(|(index, binding)| match binding {
                Binding::Buffer { id, offset, .. } => {
                    let buffer = id.value::<Buffer>();
                    let length = buffer.len() - offset;
                    (*index, buffer.range(*offset, length, "a dispatch"), length)
                }
                Binding::Bytes(bytes) => (*index, bytes.as_ptr().cast_mut(), bytes.len()),
            })
            .collect();
        // SAFETY: every pointer has its length, and the bindings keep the memory alive.
        let result =
            unsafe { self.function.dispatch(&buffers, &self.threadgroup, self.grid, self.threads) };
        if let Err(text) = result {
            abort!("dispatch of {}: {text}", self.name);
        }
        for (_, binding) in &self.bindings {
            if let Binding::Buffer { id, .. } = binding {
                id.value::<Buffer>().check_guard(&self.name);
            }
        }
    }
}

fn axes(size: Size) -> [u32; 3] {
    [size.width, size.height, size.depth].map(|n| {
        u32::try_from(n)
            .unwrap_or_else(|_| abort!("a dispatch with {n} threads or groups along an axis"))
    })
}

fn dispatch(this: Id, grid: Grid, threads: Size) {
    let encoder = this.value::<Encoder>();
    let mut state = encoder.open("dispatch");
    let Some(pipeline) = state.pipeline.clone() else {
        abort!("a dispatch without a compute pipeline state");
    };
    let pipeline = pipeline.value::<Pipeline>();
    let function = pipeline.function.clone();
    let threads = axes(threads);
    let total: u64 = threads.iter().map(|n| u64::from(*n)).product();
    if total == 0 || total > u64::from(function.max_total_threads()) {
        abort!(
            "dispatch of {}: {threads:?} threads a threadgroup, at most {}",
            pipeline.name,
            function.max_total_threads()
        );
    }
    let (Grid::Threads(extent) | Grid::Threadgroups(extent)) = grid;
    if extent.contains(&0) {
        abort!("dispatch of {}: an empty grid {extent:?}", pipeline.name);
    }
    let threadgroup: Vec<(u32, usize)> =
        (0..).zip(state.threadgroup).filter(|(_, length)| *length != 0).collect();
    let memory =
        function.static_threadgroup_bytes() + threadgroup.iter().map(|(_, n)| n).sum::<usize>();
    if memory > MAX_THREADGROUP_MEMORY {
        abort!(
            "dispatch of {}: {memory} bytes of threadgroup memory, at most {MAX_THREADGROUP_MEMORY}",
            pipeline.name
        );
    }
    let bindings = (0..).zip(&state.bindings).filter_map(|(i, b)| Some((i, b.clone()?))).collect();
    let name = pipeline.name.clone();
    let work = Dispatch { function, bindings, threadgroup, grid, threads, name };
    state.open.push(Box::new(move || work.run()));
    state.dispatched = true;
    control().count("dispatches", 1);
    if !encoder.concurrent {
        encoder.barrier(&mut state);
    }
}

methods! { install for ENCODER;
    - "setComputePipelineState:" (this, pipeline: Id) {
        let pipeline = pipeline.required("the pipeline state");
        pipeline.value::<Pipeline>();
        this.value::<Encoder>().open("setComputePipelineState:").pipeline = Some(pipeline);
    }
    - "setBuffer:offset:atIndex:" (this, buffer: Id, offset: usize, index: usize) {
        let encoder = this.value::<Encoder>();
        encoder.bind(index, encoder.buffer(buffer, offset), "setBuffer:offset:atIndex:");
    }
    - "setBufferOffset:atIndex:" (this, offset: usize, index: usize) {
        let encoder = this.value::<Encoder>();
        let id = match encoder.open("setBufferOffset:atIndex:").bindings.get(index) {
            Some(Some(Binding::Buffer { id, .. })) => *id,
            _ => abort!("setBufferOffset:atIndex:{index}: there is no buffer"),
        };
        encoder.bind(index, encoder.buffer(id, offset), "setBufferOffset:atIndex:");
    }
    - "setBuffers:offsets:withRange:" (this, buffers: *const Id, offsets: *const usize, range: Range) {
        let encoder = this.value::<Encoder>();
        for i in 0..range.length {
            // SAFETY: the caller passes `range.length` buffers and offsets.
            let (buffer, offset) = unsafe { (*buffers.add(i), *offsets.add(i)) };
            encoder.bind(range.location + i, encoder.buffer(buffer, offset), "setBuffers:offsets:withRange:");
        }
    }
    - "setBytes:length:atIndex:" (this, bytes: *const c_void, length: usize, index: usize) {
        if length == 0 || length > MAX_BYTES {
            abort!("setBytes:length:atIndex:: length({length}) must be between 1 and {MAX_BYTES}");
        }
        // SAFETY: the caller passes `length` bytes.
        let copy = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) }.to_vec();
        this.value::<Encoder>().bind(index, Some(Binding::Bytes(Arc::new(copy))), "setBytes:length:atIndex:");
    }
    - "setThreadgroupMemoryLength:atIndex:" (this, length: usize, index: usize) {
        if !length.is_multiple_of(16) {
            abort!("setThreadgroupMemoryLength: length({length}) must be a multiple of 16 bytes");
        }
        let mut state = this.value::<Encoder>().open("setThreadgroupMemoryLength:atIndex:");
        match state.threadgroup.get_mut(index) {
            Some(place) => *place = length,
            None => abort!("setThreadgroupMemoryLength: index({index}) must be < {MAX_BUFFERS}"),
        }
    }
    - "dispatchThreads:threadsPerThreadgroup:" (this, grid: Size, threads: Size) {
        dispatch(this, Grid::Threads(axes(grid)), threads);
    }
    - "dispatchThreadgroups:threadsPerThreadgroup:" (this, grid: Size, threads: Size) {
        dispatch(this, Grid::Threadgroups(axes(grid)), threads);
    }
    - "memoryBarrierWithScope:" (this, _scope: usize) {
        let encoder = this.value::<Encoder>();
        encoder.barrier(&mut encoder.open("memoryBarrierWithScope:"));
    }
    - "memoryBarrierWithResources:count:" (this, _resources: *const Id, _count: usize) {
        let encoder = this.value::<Encoder>();
        encoder.barrier(&mut encoder.open("memoryBarrierWithResources:count:"));
    }
    - "sampleCountersInBuffer:atSampleIndex:withBarrier:" (this, samples: Id, index: usize, _barrier: u8) {
        let encoder = this.value::<Encoder>();
        let place = Place::new(samples, index, CounterSampling::AtDispatchBoundary);
        let mut state = encoder.open("sampleCountersInBuffer:atSampleIndex:withBarrier:");
        // What comes before and after stays there, as with the barrier.
        encoder.barrier(&mut state);
        state.settled.push(place.command());
    }
    - "useResource:usage:" (_this, _resource: Id, _usage: usize) {}
    - "useResources:count:usage:" (_this, _resources: *const Id, _count: usize, _usage: usize) {}
    - "useHeap:" (_this, _heap: Id) {}
    - "updateFence:" (_this, _fence: Id) {}
    - "waitForFence:" (_this, _fence: Id) {}
    - "dispatchType" (this) -> usize { usize::from(this.value::<Encoder>().concurrent) }
    - "endEncoding" (this) {
        let encoder = this.value::<Encoder>();
        let mut state = encoder.open("endEncoding");
        encoder.barrier(&mut state);
        state.ended = true;
        let sample = if state.dispatched { Place::command } else { Place::empty };
        let Borders { start, end } = &encoder.borders;
        let mut commands: Vec<Command> = start.iter().map(sample).collect();
        commands.append(&mut state.settled);
        commands.extend(end.iter().map(sample));
        encoder.work.close(commands);
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Encoder>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Encoder>().label.set(text) }
    - "insertDebugSignpost:" (_this, _text: Id) {}
    - "pushDebugGroup:" (_this, _text: Id) {}
    - "popDebugGroup" (_this) {}
}
