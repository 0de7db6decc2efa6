//! The halves of a block as hand-written kernels one after another: against the oracle, and bit by
//! bit against the ops they are made of.

use metallic::Context;
use metallic::dispatch::{
    Backend, Policies, Policy, PolicyChoice, PolicySource, Segments, SegmentsChoice,
};
use metallic::op::{Op, Precision, Sdpa};
use metallic::segment::{AttentionBlock, MlpBlock};
use metallic::tensor::DType;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use metallic_models::kv_cache::{KvCache, KvCacheOptions};
use metallic_models::tiny;
use metallic_models::transformer::{Batch, Logits, Model, ModelOptions};
use metallic_testkit::cases::block::blocks;
use metallic_testkit::parity::{Target, run_blocks};

/// The GPU with hand-written kernels for `ops`, and segments on or off.
fn legacy(ops: &[&'static str], segments: Segments) -> Context {
    let mut policies = Policies::default();
    let source = || PolicySource::Flag("--test");
    for &op in ops {
        let choice = PolicyChoice { policy: Policy::Force(Backend::Legacy), source: source() };
        policies.ops.insert(op, choice);
    }
    policies.segments = SegmentsChoice { segments, source: source() };
    MetalDevice::context(MetalOptions::default(), policies, Recorder::disabled()).unwrap()
}

#[test]
fn halves_of_blocks_agree_with_the_oracle() {
    let ctx = legacy(&[AttentionBlock::ID, MlpBlock::ID], Segments::Auto);
    let target = Target { label: "legacy", ctx: &ctx, backend: Some(Backend::Legacy) };
    let report = run_blocks(&[target], &blocks(), &mut |_| {});
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.op, row.case, row.types, row.failure))
        .collect();
    let (count, all) = (failures.len(), report.rows.len());
    assert!(failures.is_empty(), "{count} of {all}:\n{}", failures[..count.min(8)].join("\n"));
    assert!(report.not_run.is_empty(), "{:?}", report.not_run);
    assert_eq!(all, 2 * blocks().len());
    assert!(report.rows.iter().all(|row| row.variant == "composed"));
}

/// Logits after a prompt and after two more steps.
fn logits(ctx: &Context, precision: Precision, dtype: DType) -> Vec<Vec<f32>> {
    let model = Model::load(ctx, &tiny::model().unwrap(), ModelOptions { precision }).unwrap();
    let options = KvCacheOptions { k_dtype: dtype, v_dtype: dtype, ..KvCacheOptions::new(512) };
    let mut cache = KvCache::new(ctx, model.config(), options).unwrap();
    let prompt: Vec<u32> = (0..19).map(|id| 17 * id % 4096).collect();
    let mut step = |tokens: &[u32]| {
        let mut out = Vec::new();
        let batch = Batch { tokens, sequences: 1 };
        model.forward(ctx, &mut cache, batch, Logits::Last(&mut out)).unwrap();
        out
    };
    vec![step(&prompt), step(&[5]), step(&[7])]
}

#[test]
fn the_tiny_model_gives_the_same_bits_in_segments_and_op_by_op() {
    for (precision, dtype) in [
        (Precision::Exact, DType::F32),
        (Precision::Quantized, DType::F16),
        (Precision::Quantized, DType::Q8_0),
    ] {
        let run = |segments| {
            let ctx = legacy(&[Sdpa::ID], segments);
            let logits = logits(&ctx, precision, dtype);
            // Which of the two ran is no matter of luck.
            let on = segments == Segments::On;
            for (op, ran) in [(AttentionBlock::ID, on), (MlpBlock::ID, on), (Sdpa::ID, !on)] {
                assert_eq!(!ctx.runs(op).is_empty(), ran, "{op} with {segments}");
            }
            let all = [AttentionBlock::ID, MlpBlock::ID, Sdpa::ID].map(|op| ctx.runs(op));
            let mut backends = all.iter().flatten().map(|run| run.selection.backend);
            assert!(backends.all(|backend| backend == Backend::Legacy));
            logits
        };
        let (whole, apart) = (run(Segments::On), run(Segments::Off));
        assert!(whole.iter().flatten().all(|logit| logit.is_finite()));
        assert!(whole == apart, "{precision:?} {dtype}");
    }
}

#[test]
fn the_tiny_model_runs_hand_written_halves_without_a_certificate() {
    let ctx = legacy(&[], Segments::On);
    logits(&ctx, Precision::Exact, DType::F32);
    for op in [AttentionBlock::ID, MlpBlock::ID] {
        let runs = ctx.runs(op);
        let backends: Vec<_> = runs.iter().map(|run| run.selection.backend).collect();
        assert_eq!(backends, [Backend::Legacy], "{op}");
        assert!(runs[0].selection.reason.contains("no certificate"), "{:?}", runs[0]);
    }
}
