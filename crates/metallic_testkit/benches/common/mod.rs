//! What the benches share: a case on a device, timed per kernel until its result is there.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, measurement::WallTime};
use metallic::Context;
use metallic::dispatch::{ExecCx, Policies, Support};
use metallic::op::{Op, Sdpa};
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, flops};
use metallic_testkit::problem::{self, PlacedSdpa};

/// A context on this machine's CPU.
pub(crate) fn context() -> Context {
    CpuDevice::context(CpuOptions::default(), Policies::default(), Recorder::disabled())
}

/// Short samples: there are many cells, and machines are noisy enough for medians anyway.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args()
}

/// Times every registered kernel of attention that takes `case`, as `legacy:composed/<case>`.
/// Compilation falls into the warm-up; the throughput is in floating-point operations.
pub(crate) fn time_kernels(
    group: &mut BenchmarkGroup<'_, WallTime>,
    ctx: &Context,
    case: &SdpaCase,
    types: SdpaTypes,
) {
    let numbers = problem::sdpa(case, types);
    let placed = PlacedSdpa::new(ctx, case, types, &numbers).expect("memory for the case");
    let spec = Sdpa::check(&placed.args).expect("a case of the list is valid");
    let cx = ExecCx { device: ctx.device(), cache: ctx.cache(), recorder: ctx.recorder() };
    group.throughput(Throughput::Elements(flops(case) as u64));
    for entry in ctx.registry().entries::<Sdpa>() {
        if entry.kernel.supports(&spec) != Support::Yes {
            continue;
        }
        let id = BenchmarkId::new(
            format!("{}:{}", entry.backend, entry.variant),
            format!("{case} {types}"),
        );
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                entry.kernel.run(&cx, &spec, black_box(&placed.args)).expect("the kernel runs");
                ctx.device().synchronize().expect("the device finishes");
            });
        });
    }
}
