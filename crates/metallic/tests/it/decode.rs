//! A growing sequence: after the first step nothing is compiled again, and results stay right.

use std::sync::Arc;

use metallic::Context;
use metallic::dispatch::{Backend, Policy};
use metallic::graph::LengthPolicy;
use metallic::op::{KV_BUCKET, Mask, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_testkit::cases::sdpa::{CaseLayout, SdpaCase, SdpaTypes};
use metallic_testkit::null_device::{NullControls, NullOptions, null_context};
use metallic_testkit::parity::{Target, run};

use crate::support::sdpa_policy;

const STEPS: usize = 512;

fn context(lengths: LengthPolicy, controls: &Arc<NullControls>) -> Context {
    null_context(NullOptions {
        lengths,
        controls: Arc::clone(controls),
        policies: sdpa_policy(Policy::Force(Backend::Graph)),
        ..NullOptions::default()
    })
}

/// One sequence of one head pair in a cache of `capacity` positions.
struct Sequence {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
}

impl Sequence {
    fn new(ctx: &Context, capacity: usize) -> Self {
        let zeros = |heads, len| ctx.zeros(DType::F32, [1, heads, len, 4]).unwrap();
        Self { q: zeros(2, 1), k: zeros(2, capacity), v: zeros(2, capacity), out: zeros(2, 1) }
    }

    fn call(&self, k: Tensor, v: Tensor, kv_lens: Option<Tensor>) -> SdpaArgs {
        let (q, out) = (self.q.clone(), self.out.clone());
        SdpaArgs { q, k, v, mask: Mask::causal(), kv_lens, scale: None, softcap: None, out }
    }
}

#[test]
fn a_dynamic_executor_compiles_once_for_512_tokens() {
    let controls = Arc::default();
    let ctx = context(LengthPolicy::Dynamic, &controls);
    // Room beyond the last step: a view of the whole cache would be dense, which is another
    // class of layout.
    let sequence = Sequence::new(&ctx, STEPS + 1);
    for live in 1..=STEPS {
        let k = sequence.k.narrow(2, 0, live).unwrap();
        let v = sequence.v.narrow(2, 0, live).unwrap();
        ctx.run::<Sdpa>(&sequence.call(k, v, None)).unwrap();
    }
    let stats = ctx.cache().executables.stats();
    assert_eq!((stats.misses, stats.hits, stats.entries), (1, STEPS as u64 - 1, 1));
    assert_eq!((controls.compiles(), controls.graph_runs()), (1, STEPS as u64));
}

#[test]
fn a_bucketed_executor_compiles_once_when_the_cache_is_fed_whole_with_its_live_length() {
    let controls = Arc::default();
    let ctx = context(LengthPolicy::Bucketed, &controls);
    let sequence = Sequence::new(&ctx, STEPS);
    for live in 1..=STEPS {
        let lens = ctx.upload_i32([1], &[live as i32]).unwrap();
        let (k, v) = (sequence.k.clone(), sequence.v.clone());
        ctx.run::<Sdpa>(&sequence.call(k, v, Some(lens))).unwrap();
    }
    let stats = ctx.cache().executables.stats();
    assert_eq!((stats.misses, stats.hits), (1, STEPS as u64 - 1));
    assert_eq!(controls.compiles(), 1);
}

#[test]
fn a_cache_that_grows_by_buckets_compiles_once_per_bucket() {
    let controls = Arc::default();
    let ctx = context(LengthPolicy::Bucketed, &controls);
    for live in 1..=STEPS {
        let sequence = Sequence::new(&ctx, live.next_multiple_of(KV_BUCKET));
        let lens = ctx.upload_i32([1], &[live as i32]).unwrap();
        let (k, v) = (sequence.k.clone(), sequence.v.clone());
        ctx.run::<Sdpa>(&sequence.call(k, v, Some(lens))).unwrap();
    }
    assert_eq!(controls.compiles(), (STEPS / KV_BUCKET) as u64);
    assert_eq!(ctx.cache().executables.stats().misses, controls.compiles());
}

#[test]
fn a_frozen_cache_decodes_what_it_was_warmed_for() {
    let controls = Arc::default();
    let ctx = context(LengthPolicy::Dynamic, &controls);
    let sequence = Sequence::new(&ctx, 10);
    let step = |live| {
        let k = sequence.k.narrow(2, 0, live).unwrap();
        let v = sequence.v.narrow(2, 0, live).unwrap();
        ctx.run::<Sdpa>(&sequence.call(k, v, None))
    };
    step(1).unwrap();
    ctx.cache().executables.freeze(true);
    for live in 2..9 {
        step(live).unwrap();
    }
    let whole = step(10).unwrap_err();
    assert!(matches!(whole, metallic::Error::CacheFrozen { .. }), "a dense view: {whole}");
}

#[test]
fn one_executable_gives_right_results_for_every_length() {
    for lengths in [LengthPolicy::Dynamic, LengthPolicy::Bucketed] {
        let controls = Arc::default();
        let ctx = context(lengths, &controls);
        let cases: Vec<_> = [5, 6, 7, 255, 256, 300]
            .into_iter()
            .map(|kv_len| {
                SdpaCase::new(1, (4, 2), (1, kv_len), 32).causal().layout(CaseLayout::Cache)
            })
            .collect();
        let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
        let types = [SdpaTypes::same(DType::F16)];
        let report = run(&[target], &cases, &types, &mut |_| {});
        assert!(report.passed(), "{:#?}", report.failures().collect::<Vec<_>>());
        let buckets = if lengths == LengthPolicy::Dynamic { 1 } else { 2 };
        assert_eq!(controls.compiles(), buckets, "{lengths:?}");
    }
}
