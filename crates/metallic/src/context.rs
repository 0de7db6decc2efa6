//! Where ops are called: validates, dispatches, falls back, records.

mod explain;
mod step;
mod tally;

pub use explain::Explanation;
pub use step::{STEP, StepSpec, unique_id};
pub use tally::RunCount;

use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use metallic_instrumentation::{MetricEvent, Recorder};

use crate::cache::ResourceCache;
use crate::device::{Device, PendingRead};
use crate::dispatch::{Backend, Candidates, Draw, ExecCx, KernelBackendRegistry, Selection};
use crate::error::{Error, Result};
use crate::op::{Op, OpArgs, OpSpec};
use crate::tensor::{DType, HostBytes, Layout, Shape, Tensor};
use tally::{Kernel, Tally};

/// A device with its kernels, caches and notebook.
#[derive(Debug)]
pub struct Context {
    device: Arc<dyn Device>,
    registry: KernelBackendRegistry,
    cache: ResourceCache,
    recorder: Recorder,
    tally: Mutex<Tally>,
    /// Choices so far, while they are explained and not run.
    explaining: Mutex<Option<Vec<Explanation>>>,
    /// Whether each op is waited for and timed.
    timing: bool,
    /// Held while a step is recorded: the caches watch what one recording uses.
    recording: Mutex<()>,
}

impl Context {
    /// A context on `device` with the kernels of `registry`.
    pub fn new(
        device: Arc<dyn Device>,
        registry: KernelBackendRegistry,
        cache: ResourceCache,
        recorder: Recorder,
    ) -> Self {
        let (tally, explaining, recording) = Default::default();
        let timing = false;
        Self { device, registry, cache, recorder, tally, explaining, timing, recording }
    }

    /// The same context, where each op runs alone and its time becomes a `KernelTimed` event: for
    /// devices that do not time their kernels themselves.
    #[must_use]
    pub fn timing_ops(self) -> Self {
        let timing = self.recorder.is_enabled();
        Self { timing, ..self }
    }

    /// Runs one call: checks it, asks the registry, runs the best kernel. A graph that does not
    /// compile, or declines the call, gives way to the next kernel that was not ruled out, with its
    /// reason.
    ///
    /// # Errors
    /// What [`Op::check`], the registry or the kernel reports; [`Error::WrongDevice`] for a tensor
    /// that lies elsewhere.
    pub fn run<O: Op>(&self, args: &O::Args) -> Result<Selection> {
        let _span = tracing::trace_span!("op", id = O::ID).entered();
        let spec = self.check::<O>(args)?;
        let candidates = self.registry.candidates::<O>(&spec)?;
        self.run_first(&spec, args, &candidates)
    }

    fn check<O: Op>(&self, args: &O::Args) -> Result<O::Spec> {
        let spec = O::check(args)?;
        match args.misplaced(self.device.id()) {
            Some((binding, got)) => {
                let expected = self.device.id();
                Err(Error::WrongDevice { op: O::ID, binding, expected, got })
            }
            None => Ok(spec),
        }
    }

    /// Runs the first of `candidates` that does not give way.
    fn run_first<O: Op>(
        &self,
        spec: &O::Spec,
        args: &O::Args,
        candidates: &Candidates<'_, O>,
    ) -> Result<Selection> {
        if let Some(selection) = self.explained(spec, candidates) {
            return Ok(selection);
        }
        let required = self.registry.policies().required(O::ID);
        let cx = ExecCx { device: &*self.device, cache: &self.cache, recorder: &self.recorder };
        let last = candidates.entries().len() - 1;
        let mut failures = String::new();
        for (index, entry) in candidates.entries().iter().enumerate() {
            let why = candidates.why(entry).after(&failures);
            if let Some(required) = required.filter(|required| *required != entry.backend) {
                let (selected, reason) = (entry.backend, why.to_string());
                return Err(Error::RequiredBackend { op: O::ID, required, selected, reason });
            }
            let run = || entry.kernel.run(&cx, spec, args);
            match if self.timing { self.timed(O::ID, entry.variant, run) } else { run() } {
                Ok(()) => {
                    let (backend, variant) = (entry.backend, entry.variant);
                    return Ok(self.note(spec, Kernel { op: O::ID, backend, variant }, &why));
                }
                // A demanded backend has none but its own kernels among the candidates.
                Err(
                    error @ (Error::Compile { .. }
                    | Error::CacheFrozen { .. }
                    | Error::Declined { .. }),
                ) if index < last => {
                    failures = format!("{failures}; {entry:?}: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the registry returns at least one candidate, and the last one returns")
    }

    /// Runs `work`, waits for the device, and records how long both took. Nothing is on the device
    /// before: whatever came earlier was waited for.
    fn timed(&self, op: &str, kernel: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        work()?;
        self.device.synchronize()?;
        let duration_ns = start.elapsed().as_nanos() as u64;
        self.recorder.record(|| MetricEvent::KernelTimed {
            op: op.to_owned(),
            kernel: kernel.to_owned(),
            duration_ns,
        });
        Ok(())
    }

    /// Says that the following calls belong to the request `key`: where a backend is rolled out to
    /// a share of requests, all of them run on the same side of it. Recorded where there is such a
    /// rollout. Nothing else holds the context meanwhile, so no other request's calls can fall on this
    /// one's side: requests that run at once have a context each.
    pub fn begin_request(&mut self, key: &str) {
        let draw = Draw::of(key);
        self.registry.set_draw(draw);
        for (op, choice) in &self.registry.policies().rollout {
            self.recorder.record(|| MetricEvent::RolloutDecided {
                op: (*op).to_owned(),
                share: choice.share.to_string(),
                draw: draw.to_string(),
                graph: choice.share.admits(draw),
            });
        }
    }

    /// Runs a segment as one op. Where `auto` chose segments and no graph takes this call, gives
    /// `None`, having written nothing, and records why (`SegmentDeclined`): the caller runs the
    /// component ops, each on the backend that is best for it.
    ///
    /// # Errors
    /// As [`Context::run`].
    pub fn run_segment<O: Op>(&self, args: &O::Args) -> Result<Option<Selection>> {
        let _span = tracing::trace_span!("op", id = O::ID).entered();
        let spec = self.check::<O>(args)?;
        if self.registry.segments_bind(O::ID) {
            let candidates = self.registry.candidates::<O>(&spec)?;
            return self.run_first(&spec, args, &candidates).map(Some);
        }
        let reason = match self.registry.choices::<O>(&spec) {
            Ok(candidates) if candidates.best().backend == Backend::Graph => {
                return self.run_first(&spec, args, &candidates).map(Some);
            }
            Ok(candidates) => {
                let best = candidates.best();
                let why = candidates.why(best);
                format!("only a graph would run it as one; {}: {why}", best.backend)
            }
            Err(error @ (Error::NoBackend { .. } | Error::Unsupported { .. })) => error.to_string(),
            Err(error) => return Err(error),
        };
        let explanation = || Explanation::op_by_op(O::ID, reason.clone(), &spec);
        if !self.add_explanation(explanation) && self.tally().is_new(O::ID, &spec, None) {
            self.recorder.record(|| MetricEvent::SegmentDeclined {
                op: O::ID.to_owned(),
                reason,
                spec: spec.to_string(),
            });
        }
        Ok(None)
    }

    /// Counts the call, and records the choice if it is new for this spec.
    fn note(&self, spec: &impl OpSpec, kernel: Kernel, why: &(impl Hash + Display)) -> Selection {
        let mut tally = self.tally();
        let changed = tally.is_new(kernel.op, spec, Some(kernel));
        let selection = tally.count(kernel, why);
        drop(tally);
        if changed {
            self.recorder.record(|| MetricEvent::KernelBackendSelected {
                op: kernel.op.to_owned(),
                backend: kernel.backend.to_string(),
                variant: kernel.variant.to_owned(),
                reason: selection.reason.to_string(),
                spec: spec.to_string(),
            });
        }
        selection
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explaining(&self) -> MutexGuard<'_, Option<Vec<Explanation>>> {
        self.explaining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ran so far for `op`, by kernel and reason.
    pub fn runs(&self, op: &str) -> Vec<RunCount> {
        self.tally().runs(op)
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The kernels.
    pub fn registry(&self) -> &KernelBackendRegistry {
        &self.registry
    }

    /// The kernels, to change policies between calls.
    pub fn registry_mut(&mut self) -> &mut KernelBackendRegistry {
        &mut self.registry
    }

    /// The caches.
    pub fn cache(&self) -> &ResourceCache {
        &self.cache
    }

    /// The notebook.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// A dense tensor with unspecified contents.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], also when the size overflows.
    pub fn empty(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let bytes = self.dense_bytes(dtype, shape)?;
        Tensor::new(self.device.allocate(bytes)?, dtype, Layout::contiguous(shape))
    }

    /// A dense tensor of zero bytes.
    ///
    /// # Errors
    /// As [`Context::empty`].
    pub fn zeros(&self, dtype: DType, shape: impl Into<Shape>) -> Result<Tensor> {
        let tensor = self.empty(dtype, shape)?;
        self.device.zero(&**tensor.buffer())?;
        Ok(tensor)
    }

    /// A dense tensor with a copy of `bytes`.
    ///
    /// # Errors
    /// As [`Context::empty`]; [`Error::Layout`] when the size does not match.
    pub fn upload(&self, dtype: DType, shape: impl Into<Shape>, bytes: &[u8]) -> Result<Tensor> {
        let shape = shape.into();
        if self.dense_bytes(dtype, shape)? != bytes.len() {
            let layout = Layout::contiguous(shape);
            return Err(Error::Layout { dtype, layout, bytes: bytes.len() });
        }
        let buffer = self.device.allocate_shared(bytes.len())?;
        self.device.write(&*buffer, 0, bytes)?;
        Tensor::new(buffer, dtype, Layout::contiguous(shape))
    }

    /// A dense f32 tensor with a copy of `values`.
    ///
    /// # Errors
    /// As [`Context::upload`].
    pub fn upload_f32(&self, shape: impl Into<Shape>, values: &[f32]) -> Result<Tensor> {
        self.upload(DType::F32, shape, bytemuck::cast_slice(values))
    }

    /// A dense i32 tensor with a copy of `values`.
    ///
    /// # Errors
    /// As [`Context::upload`].
    pub fn upload_i32(&self, shape: impl Into<Shape>, values: &[i32]) -> Result<Tensor> {
        self.upload(DType::I32, shape, bytemuck::cast_slice(values))
    }

    /// Writes `values` over a dense i32 tensor, after all earlier work on it.
    ///
    /// # Errors
    /// [`Error::View`] unless `tensor` is dense i32 with as many elements; [`Error::Device`] when
    /// the device fails.
    pub fn write_i32(&self, tensor: &Tensor, values: &[i32]) -> Result<()> {
        let layout = *tensor.layout();
        let fits = tensor.shape().elements() == values.len() && layout.is_contiguous();
        if !fits || tensor.dtype() != DType::I32 {
            return Err(Error::View { what: "write", layout });
        }
        let offset = layout.offset() * size_of::<i32>();
        self.device.write(&**tensor.buffer(), offset, bytemuck::cast_slice(values))
    }

    /// A dense tensor over `bytes`, shared without a copy where the device can.
    ///
    /// # Errors
    /// As [`Context::upload`].
    pub fn import(
        &self,
        dtype: DType,
        shape: impl Into<Shape>,
        bytes: HostBytes,
    ) -> Result<Tensor> {
        let shape = shape.into();
        if self.dense_bytes(dtype, shape)? != bytes.len() {
            let layout = Layout::contiguous(shape);
            return Err(Error::Layout { dtype, layout, bytes: bytes.len() });
        }
        Tensor::new(self.device.import(bytes)?, dtype, Layout::contiguous(shape))
    }

    /// The bytes of a dense tensor, after all earlier work on it.
    ///
    /// # Errors
    /// [`Error::View`] for a strided tensor; [`Error::Device`] when the device fails.
    pub fn download(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.dense_bytes(tensor.dtype(), tensor.shape())?];
        self.read_into(tensor, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Context::download`], without waiting for that work where the device can.
    ///
    /// # Errors
    /// As there; what the work before fails with comes from [`PendingRead::wait`].
    pub fn download_later(&self, tensor: &Tensor) -> Result<Box<dyn PendingRead>> {
        let bytes = self.dense_bytes(tensor.dtype(), tensor.shape())?;
        self.device.read_later(&**tensor.buffer(), Self::read_offset(tensor)?, bytes)
    }

    /// The values of a dense f32 tensor, after all earlier work on it.
    ///
    /// # Errors
    /// As [`Context::download`]; [`Error::DType`] for another element type.
    pub fn download_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.download_f32_into(tensor, &mut values)?;
        Ok(values)
    }

    /// As [`Context::download_f32`], over what `values` held.
    ///
    /// # Errors
    /// As there.
    pub fn download_f32_into(&self, tensor: &Tensor, values: &mut Vec<f32>) -> Result<()> {
        if tensor.dtype() != DType::F32 {
            let (got, op, binding) = (tensor.dtype(), "download", "the tensor");
            return Err(Error::DType { op, binding, expected: "f32", got });
        }
        values.resize(tensor.shape().elements(), 0.0);
        self.read_into(tensor, bytemuck::cast_slice_mut(values))
    }

    /// Copies the first `len` indices of axis `axis` from one dense tensor to another of the same
    /// element type that differs in that axis alone.
    ///
    /// # Errors
    /// [`Error::View`] when `len` is outside either, or the tensors differ in more or are not
    /// dense; [`Error::Device`] when the device fails.
    pub fn copy_prefix(&self, from: &Tensor, to: &Tensor, axis: usize, len: usize) -> Result<()> {
        let (source, target) = (from.narrow(axis, 0, len)?, to.narrow(axis, 0, len)?);
        let dtype = from.dtype();
        let alike = source.shape() == target.shape() && dtype == to.dtype();
        if !alike || !from.layout().is_contiguous() || !to.layout().is_contiguous() {
            return Err(Error::View { what: "copy a prefix into", layout: *to.layout() });
        }
        let bytes = |elements: usize| elements / dtype.block_len() * dtype.block_bytes();
        let outer: usize = source.shape()[..axis].iter().product();
        // Where the run of outer index `index` starts.
        let start = |tensor: &Tensor, index: usize| {
            let run: usize = tensor.shape()[axis..].iter().product();
            bytes(tensor.layout().offset() + index * run)
        };
        let run = bytes(source.shape()[axis..].iter().product());
        for index in 0..outer {
            let from = (&**source.buffer(), start(from, index));
            self.device.copy(from, (&**target.buffer(), start(to, index)), run)?;
        }
        Ok(())
    }

    fn read_into(&self, tensor: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.device.read(&**tensor.buffer(), Self::read_offset(tensor)?, bytes)
    }

    /// Where the bytes of a dense tensor begin.
    fn read_offset(tensor: &Tensor) -> Result<usize> {
        let layout = *tensor.layout();
        if !layout.is_contiguous() {
            return Err(Error::View { what: "download", layout });
        }
        Ok(layout.offset() / tensor.dtype().block_len() * tensor.dtype().block_bytes())
    }

    fn dense_bytes(&self, dtype: DType, shape: Shape) -> Result<usize> {
        let device = self.device.id();
        shape
            .checked_elements()
            .and_then(|elements| dtype.row_bytes(elements))
            .ok_or(Error::OutOfMemory { device, bytes: usize::MAX })
    }
}
