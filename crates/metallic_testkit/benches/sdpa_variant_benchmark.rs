//! Every kernel of attention, in every element type, over the status document's matrix.

mod common;
#[path = "common/kernels.rs"]
mod kernels;

use criterion::{criterion_group, criterion_main};
use metallic_testkit::cases::sdpa::seed;

fn variants(criterion: &mut criterion::Criterion) {
    let ctx = common::context();
    let mut group = criterion.benchmark_group("sdpa_variants");
    for case in seed() {
        for &types in &case.types {
            kernels::time_kernels(&mut group, &ctx, &case, types);
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = variants }
criterion_main!(benches);
