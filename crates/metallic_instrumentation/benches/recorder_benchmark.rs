//! What recording costs: with nobody listening (a load and a branch), and with a listener.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use metallic_instrumentation::exporter::JsonlExporter;
use metallic_instrumentation::{MetricEvent, Recorder};

fn record(recorder: &Recorder, bytes: u64) {
    recorder.record(|| MetricEvent::ResourceCacheAccess {
        cache_key: format!("graph_executables: {bytes}"),
        hit: true,
        bytes,
    });
}

fn recording(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recorder");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let off = Recorder::disabled();
    group.bench_function("off", |bencher| bencher.iter(|| record(black_box(&off), black_box(7))));
    let on = Recorder::new(vec![Box::new(JsonlExporter::new(std::io::sink()))]);
    group.bench_function("jsonl", |bencher| bencher.iter(|| record(black_box(&on), black_box(7))));
    group.finish();
}

criterion_group!(benches, recording);
criterion_main!(benches);
