//! A case of attention on a device, timed per kernel until its result is there.

use std::hint::black_box;

use criterion::{BenchmarkGroup, BenchmarkId, Throughput, measurement::WallTime};
use metallic::Context;
use metallic::dispatch::{ExecCx, Support};
use metallic::op::{Op, Sdpa};
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, flops};
use metallic_testkit::problem::{self, PlacedSdpa};

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
