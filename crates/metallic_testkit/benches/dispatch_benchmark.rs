//! What a call costs beside the work of its kernel: checks, the choice, the cache's look-up, the counts.
//! On the null device, whose kernels do nothing.

use criterion::{criterion_group, criterion_main};
use metallic::dispatch::{Backend, Preference};
use metallic::op::{Mask, Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::DType;
use metallic_testkit::null_device::{Compute, NullOptions, null_context};

fn graph_first(_: &SdpaSpec) -> Preference {
    Preference { backend: Backend::Graph, reason: "decode, kv <= 512: as on a device" }
}

fn dispatch(criterion: &mut criterion::Criterion) {
    let mut group = criterion.benchmark_group("dispatch");
    for (name, prefer) in [("legacy", None), ("graph", Some(graph_first as fn(&_) -> _))] {
        let ctx =
            null_context(NullOptions { prefer, compute: Compute::Zeros, ..Default::default() });
        let zeros = |shape: [usize; 4]| ctx.zeros(DType::F16, shape).expect("memory");
        let args = SdpaArgs {
            q: zeros([1, 2, 1, 8]),
            k: zeros([1, 1, 256, 8]),
            v: zeros([1, 1, 256, 8]),
            mask: Mask::causal(),
            kv_lens: None,
            scale: None,
            softcap: None,
            out: zeros([1, 2, 1, 8]),
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| ctx.run::<Sdpa>(&args).expect("the call runs"));
        });
    }
    group.finish();
}

criterion_group!(benches, dispatch);
criterion_main!(benches);
