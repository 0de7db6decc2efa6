//! Halves of blocks on every device: its hand-written kernels on a segment's calls, one after
//! another, as if each op had been called.
//!
//! What runs for each op is what the registry would run for it under `--backend legacy`: the first
//! of the device's kernels that takes the call. They are fixed when the device is opened, and
//! nothing is dispatched here.

use std::sync::Arc;

use metallic::dispatch::{
    Backend, ExecCx, KernelBackendRegistry, KernelInvocable, Reason, Support,
};
use metallic::op::{KvAppend, Linear, Op, RmsNorm, Rope, Sdpa, SwiGlu};
use metallic::segment::{
    AttentionBlock, AttentionBlockArgs, AttentionBlockSpec, MlpBlock, MlpBlockArgs, MlpBlockSpec,
};
use metallic::tensor::{DType, Layout, Shape, Tensor};
use metallic::{Error, Result};

/// Registers both halves over the hand-written kernels that `registry` holds by now.
pub(crate) fn register(registry: &mut KernelBackendRegistry) {
    let (attention, mlp) = (ComposedAttentionBlock::of(registry), ComposedMlpBlock::of(registry));
    registry.register(Backend::Legacy, "composed", attention);
    registry.register(Backend::Legacy, "composed", mlp);
}

/// `AttentionBlock` as its component kernels.
struct ComposedAttentionBlock {
    norm: Kernels<RmsNorm>,
    linear: Kernels<Linear>,
    rope: Kernels<Rope>,
    append: Kernels<KvAppend>,
    sdpa: Kernels<Sdpa>,
}

impl ComposedAttentionBlock {
    fn of(registry: &KernelBackendRegistry) -> Self {
        Self {
            norm: Kernels::of(registry),
            linear: Kernels::of(registry),
            rope: Kernels::of(registry),
            append: Kernels::of(registry),
            sdpa: Kernels::of(registry),
        }
    }
}

impl KernelInvocable<AttentionBlock> for ComposedAttentionBlock {
    fn supports(&self, spec: &AttentionBlockSpec) -> Support {
        let AttentionBlockSpec { norm, qkv, qk_norm, rope, append, sdpa, o } = spec;
        let norms = [norm].into_iter().chain(qk_norm.iter().flatten());
        let answers = norms
            .map(|spec| self.norm.supports(spec))
            .chain(qkv.iter().chain([o]).map(|spec| self.linear.supports(spec)))
            .chain(rope.iter().map(|spec| self.rope.supports(spec)))
            .chain(append.iter().map(|spec| self.append.supports(spec)))
            .chain([self.sdpa.supports(sdpa)]);
        all(answers)
    }

    fn run(
        &self,
        cx: &ExecCx<'_>,
        spec: &AttentionBlockSpec,
        args: &AttentionBlockArgs,
    ) -> Result<()> {
        let calls = args.calls(&|shape| empty(cx, shape))?;
        let half = Half { op: AttentionBlock::ID, cx };
        half.run(&self.norm, &spec.norm, &calls.norm)?;
        for (spec, call) in spec.qkv.iter().zip(&calls.qkv) {
            half.run(&self.linear, spec, call)?;
        }
        let norms = spec.qk_norm.iter().flatten().zip(calls.qk_norm.iter().flatten());
        for (spec, call) in norms {
            half.run(&self.norm, spec, call)?;
        }
        for (spec, call) in spec.rope.iter().zip(&calls.rope) {
            half.run(&self.rope, spec, call)?;
        }
        for (spec, call) in spec.append.iter().zip(&calls.append) {
            half.run(&self.append, spec, call)?;
        }
        half.run(&self.sdpa, &spec.sdpa, &calls.sdpa)?;
        half.run(&self.linear, &spec.o, &calls.o)
    }
}

/// `MlpBlock` as its component kernels.
struct ComposedMlpBlock {
    norm: Kernels<RmsNorm>,
    linear: Kernels<Linear>,
    swiglu: Kernels<SwiGlu>,
}

impl ComposedMlpBlock {
    fn of(registry: &KernelBackendRegistry) -> Self {
        let (norm, linear) = (Kernels::of(registry), Kernels::of(registry));
        Self { norm, linear, swiglu: Kernels::of(registry) }
    }
}

impl KernelInvocable<MlpBlock> for ComposedMlpBlock {
    fn supports(&self, spec: &MlpBlockSpec) -> Support {
        let linears = [&spec.gate, &spec.up, &spec.down].map(|spec| self.linear.supports(spec));
        let others = [self.norm.supports(&spec.norm), self.swiglu.supports(&spec.swiglu)];
        all(linears.into_iter().chain(others))
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &MlpBlockSpec, args: &MlpBlockArgs) -> Result<()> {
        let calls = args.calls(&|shape| empty(cx, shape))?;
        let half = Half { op: MlpBlock::ID, cx };
        half.run(&self.norm, &spec.norm, &calls.norm)?;
        half.run(&self.linear, &spec.gate, &calls.gate)?;
        half.run(&self.linear, &spec.up, &calls.up)?;
        half.run(&self.swiglu, &spec.swiglu, &calls.swiglu)?;
        half.run(&self.linear, &spec.down, &calls.down)
    }
}

/// The device's hand-written kernels of one op, in the order of their registration.
struct Kernels<O: Op>(Vec<Arc<dyn KernelInvocable<O>>>);

impl<O: Op> Kernels<O> {
    fn of(registry: &KernelBackendRegistry) -> Self {
        let entries = registry.entries::<O>().iter();
        let legacy = entries.filter(|entry| entry.backend == Backend::Legacy);
        Self(legacy.map(|entry| Arc::clone(&entry.kernel)).collect())
    }

    /// The first kernel that takes calls of `spec`, or why the last one does not.
    fn first(&self, spec: &O::Spec) -> Result<&dyn KernelInvocable<O>, Reason> {
        let mut why_not = Reason::NotRegistered;
        for kernel in &self.0 {
            match kernel.supports(spec) {
                Support::Yes => return Ok(&**kernel),
                Support::No(reason) => why_not = reason,
            }
        }
        Err(why_not)
    }

    fn supports(&self, spec: &O::Spec) -> Support {
        self.first(spec).map_or_else(Support::No, |_| Support::Yes)
    }
}

/// One half at work.
struct Half<'a> {
    op: &'static str,
    cx: &'a ExecCx<'a>,
}

impl Half<'_> {
    /// Runs one component. Its failure is the half's: what components before it wrote cannot be
    /// undone, so no error of theirs may let another kernel try the whole again.
    fn run<O: Op>(&self, kernels: &Kernels<O>, spec: &O::Spec, args: &O::Args) -> Result<()> {
        let Self { op, cx } = *self;
        let kernel = kernels.first(spec).map_err(|reason| Error::NoBackend {
            op: O::ID,
            device: cx.device.id(),
            reasons: reason.to_string(),
        });
        let done = kernel.and_then(|kernel| kernel.run(cx, spec, args));
        done.map_err(|error| Error::Part { op, part: O::ID, error: Box::new(error) })
    }
}

/// Yes when all say yes, else the first reason.
fn all(mut answers: impl Iterator<Item = Support>) -> Support {
    answers.find(|answer| *answer != Support::Yes).unwrap_or(Support::Yes)
}

/// A dense f32 tensor for what is kept between components.
pub(crate) fn empty(cx: &ExecCx<'_>, shape: Shape) -> Result<Tensor> {
    let bytes = shape.checked_elements().and_then(|elements| DType::F32.row_bytes(elements));
    let no_memory = || Error::OutOfMemory { device: cx.device.id(), bytes: usize::MAX };
    let buffer = cx.device.allocate(bytes.ok_or_else(no_memory)?)?;
    Tensor::new(buffer, DType::F32, Layout::contiguous(shape))
}
