//! The likeliest tokens of one row of logits, as wide as real vocabularies, at the counts that
//! samplers ask for; beside it what they replace, the reading of the whole row.

mod common;

use criterion::{BenchmarkId, criterion_group, criterion_main};
use metallic::op::{TopK, TopKArgs};
use metallic::tensor::DType;
use metallic_testkit::random::Random;

fn top_k(criterion: &mut criterion::Criterion) {
    let ctx = common::context();
    let mut group = criterion.benchmark_group("top_k");
    for vocab in [32_000, 151_936] {
        let mut random = Random::named("logits");
        let logits: Vec<f32> = (0..vocab).map(|_| random.normal() as f32 * 3.0).collect();
        let x = ctx.upload_f32([1, vocab], &logits).expect("memory for the logits");
        group.bench_function(BenchmarkId::new("all", vocab), |bencher| {
            bencher.iter(|| ctx.download_f32(&x).expect("the logits come back"));
        });
        for k in [1, 40, TopK::MAX_K] {
            let integers = |shape: &[usize]| ctx.zeros(DType::I32, shape).expect("memory");
            let args = TopKArgs {
                x: x.clone(),
                values: ctx.zeros(DType::F32, [1, k]).expect("memory"),
                ids: integers(&[1, k]),
                not_finite: integers(&[1]),
            };
            group.bench_function(BenchmarkId::new(format!("k{k}"), vocab), |bencher| {
                bencher.iter(|| {
                    ctx.run::<TopK>(&args).expect("the kernel runs");
                    ctx.download(&args.ids).expect("the ids come back")
                });
            });
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = common::criterion(); targets = top_k }
criterion_main!(benches);
