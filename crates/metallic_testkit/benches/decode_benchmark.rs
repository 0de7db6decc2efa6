//! One new token against a growing cache, at Qwen2.5 shapes, in every cache type.

mod common;
#[path = "common/kernels.rs"]
mod kernels;

use criterion::{criterion_group, criterion_main};
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes};

fn decode(criterion: &mut criterion::Criterion) {
    let ctx = common::context();
    let mut group = criterion.benchmark_group("sdpa_decode");
    for (heads, dim) in [((14, 2), 64), ((28, 4), 128)] {
        for kv_len in [512, 4096, 32768] {
            for types in SdpaTypes::ALL {
                let case = SdpaCase::new(1, heads, (1, kv_len), dim).causal();
                kernels::time_kernels(&mut group, &ctx, &case, types);
            }
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = decode }
criterion_main!(benches);
