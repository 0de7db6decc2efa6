//! The work of one op, as it is appended to the command buffer in flight.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use metallic::Result;
use metallic::tensor::{Buffer, Tensor};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{MTLBlitCommandEncoder, MTLCommandBuffer, MTLComputeCommandEncoder, MTLSize};

use super::buffer::{Bound, MetalBuffer, Storage};
use super::failure;
use super::fault::{FaultKind, Faults};
use super::pipeline::{Kernel, Pipeline, Pipelines};
use super::pool::Pool;
use super::submission::Submission;
use super::timestamps::{Place, Timestamps};

/// Bytes that params may have: what Metal copies into the command buffer at most.
const MAX_PARAMS: usize = 4096;

/// What is bound to one buffer index of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    /// A tensor that the kernel reads, from its first element on.
    In(&'a Tensor),
    /// A tensor that the kernel writes, or reads and writes.
    Out(&'a Tensor),
    /// A buffer of the op's own, from this byte on.
    Scratch(&'a MetalBuffer, usize),
    /// Where the kernel reports bad data: `device Fault &`.
    Fault(FaultKind),
}

/// How many threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    /// Whole threadgroups, by axis.
    Groups([usize; 3]),
    /// Threads, by axis; the last threadgroup of an axis may be smaller.
    Threads([usize; 3]),
}

/// One kernel to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch<'a> {
    /// Which one.
    pub(crate) kernel: Kernel<'a>,
    /// Bound at buffer index 0 and up.
    pub(crate) args: &'a [Arg<'a>],
    /// The bytes of its params struct, bound after the last argument; none when empty.
    pub(crate) params: &'a [u8],
    /// Bytes of threadgroup memory at index 0 and up, rounded up to 16 each.
    pub(crate) threadgroup: &'a [usize],
    /// The whole grid. Nothing runs when an axis is 0.
    pub(crate) grid: Grid,
    /// Threads of a threadgroup, by axis.
    pub(crate) threads: [usize; 3],
}

/// The command buffer in flight, during one op.
pub(crate) struct Encoder<'a> {
    pub(super) pool: &'a Arc<Pool>,
    pub(super) pipelines: &'a Pipelines,
    /// Where kernels are timed one by one.
    pub(super) timestamps: Option<&'a Timestamps>,
    pub(super) open: &'a mut Submission,
}

impl Encoder<'_> {
    /// Private memory with unspecified contents. It may be dropped once everything that uses it
    /// is encoded: what reuses it runs later.
    ///
    /// # Errors
    /// [`metallic::Error::OutOfMemory`].
    pub(crate) fn scratch(&self, bytes: usize) -> Result<MetalBuffer> {
        self.pool.allocate(bytes, Storage::Private)
    }

    /// Appends a kernel. It runs after everything that was encoded before.
    ///
    /// # Errors
    /// [`metallic::Error::Compile`], or [`metallic::Error::Device`] when the kernel's limits say
    /// no or a tensor cannot be bound; nothing was encoded then.
    pub(crate) fn dispatch(&mut self, dispatch: &Dispatch<'_>) -> Result<()> {
        let (Grid::Groups(axes) | Grid::Threads(axes)) = dispatch.grid;
        if axes.contains(&0) {
            return Ok(());
        }
        let pipeline = self.pipelines.get(&dispatch.kernel)?;
        check_limits(dispatch, &pipeline)?;
        let faulty = dispatch.args.iter().any(|arg| matches!(arg, Arg::Fault(_)));
        if faulty && self.open.faults.is_none() {
            self.open.faults = Some(Faults::new(self.pool)?);
        }
        self.open.note_kernel(dispatch.kernel.function);
        let Submission { sequence, active, buffer, faults, timed, .. } = &mut *self.open;
        let mut bound = [None; MAX_ARGS];
        for (slot, arg) in bound.iter_mut().zip(dispatch.args) {
            *slot = Some(bind(arg, faults.as_ref())?);
        }
        let place = self.timestamps.and_then(|timestamps| timestamps.place(timed.len()));
        let pass = place.and_then(Place::pass);
        let encoder = active.compute(buffer, pass.as_deref())?.raw();
        if let Some(place) = place {
            timed.push(dispatch.kernel.function.to_owned());
            place.begin(encoder);
        }
        encoder.setComputePipelineState(pipeline.state());
        for (index, Bound { buffer, offset }) in bound.into_iter().flatten().enumerate() {
            buffer.touch(*sequence);
            // SAFETY: the offset lies in the buffer, since `Tensor::new` checked the tensor's
            // view and scratch is addressed by the op that made it. The command buffer keeps the
            // object alive, and hazards are tracked.
            unsafe { encoder.setBuffer_offset_atIndex(Some(buffer.raw()), offset, index) };
        }
        if let Some(first) = dispatch.params.first() {
            let (start, index) = (NonNull::from(first).cast::<c_void>(), dispatch.args.len());
            // SAFETY: the bytes are copied before the call returns.
            unsafe { encoder.setBytes_length_atIndex(start, dispatch.params.len(), index) };
        }
        for (index, bytes) in dispatch.threadgroup.iter().enumerate() {
            let bytes = bytes.next_multiple_of(16);
            // SAFETY: the index is one the kernel declares; the sum was checked above.
            unsafe { encoder.setThreadgroupMemoryLength_atIndex(bytes, index) };
        }
        let threads = size(dispatch.threads);
        match dispatch.grid {
            Grid::Groups(groups) => {
                encoder.dispatchThreadgroups_threadsPerThreadgroup(size(groups), threads);
            }
            Grid::Threads(grid) => {
                encoder.dispatchThreads_threadsPerThreadgroup(size(grid), threads);
            }
        }
        if let Some(place) = place {
            place.end(encoder);
        }
        Ok(())
    }

    /// Ends the open encoder and hands the command buffer to `encode`, which returns the one to
    /// go on with: the same, or, when it committed that, a newer one of the same queue. `touched`
    /// are the buffers that the work reads or writes; `label` names it in events and errors.
    ///
    /// # Errors
    /// What `encode` reports.
    pub(crate) fn with_command_buffer(
        &mut self,
        label: &str,
        touched: &[&MetalBuffer],
        encode: impl FnOnce(
            &ProtocolObject<dyn MTLCommandBuffer>,
        ) -> Result<Retained<ProtocolObject<dyn MTLCommandBuffer>>>,
    ) -> Result<()> {
        self.note(label, touched);
        self.open.active.end();
        let next = encode(self.open.buffer.raw())?;
        self.open.go_on_with(next);
        Ok(())
    }

    /// Appends zeroing of the whole of `buffer`.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when Metal gives no encoder.
    pub(crate) fn zero(&mut self, buffer: &MetalBuffer) -> Result<()> {
        let range = NSRange::new(buffer.base(), buffer.bytes());
        self.blit("zero", &[buffer])?.fillBuffer_range_value(buffer.raw(), range, 0);
        Ok(())
    }

    fn note(&mut self, label: &str, touched: &[&MetalBuffer]) {
        for buffer in touched {
            buffer.touch(self.open.sequence);
        }
        self.open.note_kernel(label);
    }

    /// The encoder of copies, for work named `label` on `touched`.
    pub(super) fn blit(
        &mut self,
        label: &str,
        touched: &[&MetalBuffer],
    ) -> Result<&ProtocolObject<dyn MTLBlitCommandEncoder>> {
        self.note(label, touched);
        let Submission { active, buffer, .. } = &mut *self.open;
        Ok(active.blit(buffer)?.raw())
    }
}

fn bind<'a>(arg: &Arg<'a>, faults: Option<&'a Faults>) -> Result<Bound<'a>> {
    match *arg {
        Arg::In(tensor) => Bound::of(tensor),
        Arg::Out(tensor) => Bound::writable(tensor),
        Arg::Scratch(buffer, offset) => Ok(Bound { buffer, offset: buffer.base() + offset }),
        Arg::Fault(kind) => {
            let (buffer, offset) = faults.expect("made before it is bound").slot(kind);
            Ok(Bound { buffer, offset })
        }
    }
}

/// Metal's limit on buffer indices, less one for the params.
const MAX_ARGS: usize = 30;

fn size([width, height, depth]: [usize; 3]) -> MTLSize {
    MTLSize { width, height, depth }
}

/// What Metal would end the process for.
fn check_limits(dispatch: &Dispatch<'_>, pipeline: &Pipeline) -> Result<()> {
    let refuse = |what: &str, got: usize, max: usize| {
        let function = dispatch.kernel.function;
        Err(failure("dispatch", format!("{function}: {got} {what}, at most {max}")))
    };
    let threads: usize = dispatch.threads.iter().product();
    if threads == 0 || threads > pipeline.max_threads {
        return refuse("threads in a threadgroup", threads, pipeline.max_threads);
    }
    if dispatch.args.len() > MAX_ARGS {
        return refuse("buffers", dispatch.args.len(), MAX_ARGS);
    }
    if dispatch.params.len() > MAX_PARAMS {
        return refuse("bytes of params", dispatch.params.len(), MAX_PARAMS);
    }
    let own: usize = dispatch.threadgroup.iter().map(|bytes| bytes.next_multiple_of(16)).sum();
    let bytes = own + pipeline.threadgroup_bytes;
    if bytes > pipeline.max_threadgroup_bytes {
        return refuse("bytes of threadgroup memory", bytes, pipeline.max_threadgroup_bytes);
    }
    Ok(())
}
