//! The composed halves of a block over kernels that refuse or fail, on this device's memory.

use std::sync::Arc;

use metallic::cache::ResourceCache;
use metallic::dispatch::{
    Backend, ExecCx, KernelBackendRegistry, KernelInvocable, Policies, Reason, Support,
};
use metallic::op::{Linear, Op, Precision, RmsNorm, SwiGlu};
use metallic::segment::{MlpBlock, MlpBlockArgs, Norm, Projection};
use metallic::tensor::DType;
use metallic::{Context, Error, Result};
use metallic_instrumentation::Recorder;

use super::{CPU, CpuDevice, CpuOptions};
use crate::composed::register;

/// Takes every call and does nothing, or fails to compile.
struct Sham {
    compiles: bool,
}

impl<O: Op> KernelInvocable<O> for Sham {
    fn supports(&self, _: &O::Spec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, _: &O::Spec, _: &O::Args) -> Result<()> {
        let (key, reason) = (O::ID.to_owned(), "it is a sham".to_owned());
        if self.compiles { Ok(()) } else { Err(Error::Compile { key, reason }) }
    }
}

/// Refuses every call.
struct Refusing;

impl<O: Op> KernelInvocable<O> for Refusing {
    fn supports(&self, _: &O::Spec) -> Support {
        Support::No(Reason::Missing { feature: "anything" })
    }

    fn run(&self, _: &ExecCx<'_>, _: &O::Spec, _: &O::Args) -> Result<()> {
        Err(Error::NoBackend { op: O::ID, device: CPU, reasons: "it refuses".to_owned() })
    }
}

/// What a half of a block gives where `kernels` are registered before it, and a graph after it.
fn run(kernels: impl FnOnce(&mut KernelBackendRegistry)) -> Result<Backend> {
    let mut registry = KernelBackendRegistry::new(CPU, Policies::default());
    kernels(&mut registry);
    register(&mut registry);
    registry.register::<MlpBlock>(Backend::Graph, "sham", Sham { compiles: true });
    let device = Arc::new(CpuDevice::new(CpuOptions::default()));
    let ctx = Context::new(device, registry, ResourceCache::default(), Recorder::disabled());
    let zeros = |shape: &[usize]| ctx.zeros(DType::F32, shape);
    let projection =
        |shape: &[usize]| Ok::<_, Error>(Projection { weight: zeros(shape)?, bias: None });
    let args = MlpBlockArgs {
        x: zeros(&[1, 8])?,
        pending: None,
        norm: Norm { weight: zeros(&[8])?, eps: 1e-6 },
        gate: projection(&[16, 8])?,
        up: projection(&[16, 8])?,
        down: projection(&[8, 16])?,
        precision: Precision::Exact,
        out: zeros(&[1, 8])?,
    };
    ctx.run::<MlpBlock>(&args).map(|selection| selection.backend)
}

#[test]
fn the_first_kernel_that_takes_a_call_runs() {
    let backend = run(|registry| {
        registry.register::<RmsNorm>(Backend::Legacy, "sham", Sham { compiles: true });
        registry.register::<SwiGlu>(Backend::Legacy, "sham", Sham { compiles: true });
        registry.register::<Linear>(Backend::Graph, "broken", Sham { compiles: false });
        registry.register::<Linear>(Backend::Legacy, "refusing", Refusing);
        registry.register::<Linear>(Backend::Legacy, "sham", Sham { compiles: true });
        registry.register::<Linear>(Backend::Legacy, "broken", Sham { compiles: false });
    });
    assert_eq!(backend.unwrap(), Backend::Legacy);
}

#[test]
fn a_half_with_a_component_that_cannot_run_is_refused() {
    let backend = run(|registry| {
        registry.register::<RmsNorm>(Backend::Legacy, "sham", Sham { compiles: true });
        registry.register::<Linear>(Backend::Legacy, "refusing", Refusing);
    });
    assert_eq!(backend.unwrap(), Backend::Graph);
}

#[test]
fn a_component_that_fails_ends_the_call_since_others_wrote_already() {
    let error = run(|registry| {
        registry.register::<RmsNorm>(Backend::Legacy, "sham", Sham { compiles: true });
        registry.register::<Linear>(Backend::Legacy, "broken", Sham { compiles: false });
        registry.register::<SwiGlu>(Backend::Legacy, "sham", Sham { compiles: true });
    })
    .unwrap_err();
    assert!(matches!(error, Error::Part { part: "linear", .. }), "{error}");
    assert!(error.to_string().contains("mlp_block: linear: "), "{error}");
}
