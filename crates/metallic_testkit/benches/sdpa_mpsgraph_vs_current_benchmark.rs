//! Graph against legacy attention at Qwen2.5 shapes, f16, causal: MPSGraph on an Apple GPU, and the
//! device's own graphs elsewhere. `METALLIC_BENCH_DEVICE` says where: `cpu`, `cuda` or `metal`.

mod common;
#[path = "common/kernels.rs"]
mod kernels;

use criterion::{criterion_group, criterion_main};
use metallic::tensor::DType;
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes};

fn graph_against_legacy(criterion: &mut criterion::Criterion) {
    let ctx = common::context();
    let mut group = criterion.benchmark_group("sdpa_mpsgraph_vs_current");
    for (heads, dim) in [((14, 2), 64), ((12, 2), 128), ((28, 4), 128)] {
        for len in [128, 256, 512, 1024] {
            let case = SdpaCase::new(1, heads, (len, len), dim).causal();
            kernels::time_kernels(&mut group, &ctx, &case, SdpaTypes::same(DType::F16));
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = graph_against_legacy }
criterion_main!(benches);
