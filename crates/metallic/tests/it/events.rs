//! What a listener is told while calls run.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use metallic::Context;
use metallic::cache::BandRequest;
use metallic::dispatch::{Backend, Policy};
use metallic::op::Sdpa;
use metallic::tensor::DType;
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Record, Recorder};
use metallic_testkit::null_device::{Failure, NullControls, NullOptions, null_context};

use crate::support::{SMALL, Shapes, sdpa_policy};

fn listen(options: NullOptions) -> (Context, Receiver<Record>) {
    let (exporter, events) = ChannelExporter::new();
    let recorder = Recorder::new(vec![Box::new(exporter)]);
    (null_context(NullOptions { recorder, ..options }), events)
}

fn graph() -> NullOptions {
    NullOptions {
        policies: sdpa_policy(Policy::Force(Backend::Graph)),
        executable_bytes: 4321,
        ..NullOptions::default()
    }
}

fn drain(events: &Receiver<Record>) -> Vec<MetricEvent> {
    events.try_iter().map(|record| record.event).collect()
}

/// (hit, bytes) of every access.
fn accesses(events: &[MetricEvent]) -> Vec<(bool, u64)> {
    events
        .iter()
        .filter_map(|event| match event {
            MetricEvent::ResourceCacheAccess { hit, bytes, .. } => Some((*hit, *bytes)),
            _ => None,
        })
        .collect()
}

#[test]
fn accesses_carry_keys_and_real_sizes() {
    let (ctx, events) = listen(graph());
    let call = SMALL.call(&ctx);
    ctx.run::<Sdpa>(&call).unwrap();
    ctx.run::<Sdpa>(&call).unwrap();
    let events = drain(&events);
    assert_eq!(accesses(&events), [(false, 4321), (true, 4321)]);
    let key = events.iter().find_map(|event| match event {
        MetricEvent::ResourceCacheAccess { cache_key, .. } => Some(cache_key.as_str()),
        _ => None,
    });
    assert_eq!(
        key,
        Some(
            "graph_executables: sdpa prefill f32/f32/f32 heads=4/2 dim=8/8 mask=causal \
             scale=0.35355338 on null:0 (null-1)"
        )
    );
}

#[test]
fn masks_are_accounted_too() {
    let (ctx, events) = listen(graph());
    let request = BandRequest {
        left: None,
        right: Some(0),
        rows: 1,
        kv_len: 9,
        offset: 8,
        dtype: DType::F16,
    };
    for _ in 0..2 {
        ctx.cache().masks.band(request, ctx.device(), ctx.recorder()).unwrap();
    }
    assert_eq!(accesses(&drain(&events)), [(false, 1026), (true, 1026)]);
}

#[test]
fn a_miss_that_made_nothing_is_told_as_well() {
    let controls = Arc::new(NullControls::default());
    controls.fail(Failure::Error("no".to_owned()));
    let (ctx, events) = listen(NullOptions { controls, ..graph() });
    ctx.run::<Sdpa>(&SMALL.call(&ctx)).unwrap_err();
    assert_eq!(accesses(&drain(&events)), [(false, 0)]);
    ctx.cache().executables.freeze(true);
    ctx.run::<Sdpa>(&Shapes { head_dim: 16, ..SMALL }.call(&ctx)).unwrap_err();
    assert_eq!(accesses(&drain(&events)), [(false, 0)]);
}

#[test]
fn every_hundred_accesses_are_summed_up() {
    let (ctx, events) = listen(graph());
    let calls = [SMALL.call(&ctx), Shapes { head_dim: 16, ..SMALL }.call(&ctx)];
    for call in calls.iter().cycle().take(250) {
        ctx.run::<Sdpa>(call).unwrap();
    }
    let summaries: Vec<_> = drain(&events)
        .into_iter()
        .filter(|event| matches!(event, MetricEvent::ResourceCacheSummary { .. }))
        .collect();
    assert_eq!(summaries.len(), 2);
    for (index, summary) in summaries.into_iter().enumerate() {
        let accesses = 100 * (index as u64 + 1);
        let MetricEvent::ResourceCacheSummary {
            cache,
            hits,
            misses,
            hit_rate,
            size,
            bytes,
            evictions,
            oldest_age_us,
            newest_age_us,
            longest_idle_us,
            reuse_count,
        } = summary
        else {
            unreachable!()
        };
        assert_eq!(cache, "graph_executables");
        assert_eq!((hits, misses, size, bytes, evictions), (accesses - 2, 2, 2, 8642, 0));
        assert!((hit_rate - 100.0 * (accesses - 2) as f64 / accesses as f64).abs() < 1e-9);
        assert_eq!(reuse_count, accesses - 2);
        assert!(oldest_age_us >= newest_age_us && oldest_age_us >= longest_idle_us);
    }
}

#[test]
fn a_summary_is_not_lost_when_the_hundredth_access_makes_nothing() {
    let (ctx, events) = listen(graph());
    let call = SMALL.call(&ctx);
    for _ in 0..99 {
        ctx.run::<Sdpa>(&call).unwrap();
    }
    ctx.cache().executables.freeze(true);
    ctx.run::<Sdpa>(&Shapes { head_dim: 16, ..SMALL }.call(&ctx)).unwrap_err();
    let summaries = drain(&events)
        .into_iter()
        .filter(|event| matches!(event, MetricEvent::ResourceCacheSummary { .. }));
    assert_eq!(summaries.count(), 1);
}

#[test]
fn a_choice_is_told_once_per_spec_and_whenever_it_changes() {
    let (mut ctx, events) = listen(NullOptions::default());
    let selected = |events: &Receiver<Record>| -> Vec<(String, String, String)> {
        drain(events)
            .into_iter()
            .filter_map(|event| match event {
                MetricEvent::KernelBackendSelected { op, backend, reason, .. } => {
                    Some((op, backend, reason))
                }
                _ => None,
            })
            .collect()
    };
    let told =
        |backend: &str, reason: &str| [("sdpa".to_owned(), backend.to_owned(), reason.to_owned())];
    // Lengths do not make a new choice.
    for kv_len in [5, 6, 300] {
        ctx.run::<Sdpa>(&Shapes { kv_len, ..SMALL }.call(&ctx)).unwrap();
    }
    let first = "auto: first registered kernel that can run";
    assert_eq!(selected(&events), told("legacy", first));
    ctx.registry_mut().set_policies(sdpa_policy(Policy::Force(Backend::Graph)));
    ctx.run::<Sdpa>(&SMALL.call(&ctx)).unwrap();
    ctx.run::<Sdpa>(&SMALL.call(&ctx)).unwrap();
    assert_eq!(selected(&events), told("graph", "forced by --sdpa-backend"));
    // Another spec is told even with the same choice.
    ctx.run::<Sdpa>(&Shapes { head_dim: 16, ..SMALL }.call(&ctx)).unwrap();
    assert_eq!(selected(&events), told("graph", "forced by --sdpa-backend"));
}

#[test]
fn compiling_and_encoding_are_timed() {
    let compile_time = Duration::from_millis(20);
    let (ctx, events) = listen(NullOptions { compile_time, ..graph() });
    let call = SMALL.call(&ctx);
    ctx.run::<Sdpa>(&call).unwrap();
    ctx.run::<Sdpa>(&call).unwrap();
    let steps: Vec<_> = drain(&events)
        .into_iter()
        .filter_map(|event| match event {
            MetricEvent::InternalKernelCompleted { parent_op, internal_kernel, duration_us } => {
                assert_eq!(parent_op, "sdpa");
                Some((internal_kernel, duration_us))
            }
            _ => None,
        })
        .collect();
    let names: Vec<_> = steps.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sdpa_compile", "sdpa_encode", "sdpa_encode"]);
    assert!(steps[0].1 >= 20_000, "{} µs", steps[0].1);
}
