//! Blocks as two ops against blocks op by op, on the embedded model.

use metallic::dispatch::{Backend, Policy, PolicyChoice, PolicySource, Segments};
use metallic::op::Precision;
use metallic::tensor::DType;
use metallic::{Context, Error};
use metallic_models::kv_cache::{KvCache, KvCacheOptions};
use metallic_models::tiny;
use metallic_models::transformer::{Batch, Logits, Model, ModelOptions};

use crate::support::segmented;

/// Logits after a prompt of two sequences and after each of three more steps.
fn logits(ctx: &Context, precision: Precision, dtype: DType) -> Vec<Vec<f32>> {
    let model = Model::load(ctx, &tiny::model().unwrap(), ModelOptions { precision }).unwrap();
    let options =
        KvCacheOptions { k_dtype: dtype, v_dtype: dtype, sequences: 2, ..KvCacheOptions::new(512) };
    let mut cache = KvCache::new(ctx, model.config(), options).unwrap();
    let prompt: Vec<u32> = (0..2 * 37).map(|id| 17 * id % 4096).collect();
    [&prompt[..], &[5, 6], &[7, 8], &[9, 9]]
        .map(|tokens| {
            let mut out = Vec::new();
            let batch = Batch { tokens, sequences: 2 };
            model.forward(ctx, &mut cache, batch, Logits::Last(&mut out)).unwrap();
            out
        })
        .to_vec()
}

/// The composed kernels are the ops' own; the fused plans take the same products and the same
/// attention, so that on this device they too give the same bits.
#[test]
fn segments_give_the_bits_of_the_ops_they_are_made_of() {
    for backend in Backend::ALL {
        for precision in [Precision::Exact, Precision::Quantized] {
            for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
                let run = |segments| logits(&segmented(backend, segments), precision, dtype);
                let (whole, apart) = (run(Segments::On), run(Segments::Off));
                assert!(whole.iter().flatten().all(|logit| logit.is_finite()));
                assert!(whole == apart, "{backend} {precision:?} {dtype}");
            }
        }
    }
}

#[test]
fn a_decode_of_64_tokens_compiles_nothing_after_its_first_step() {
    let ctx = segmented(Backend::Graph, Segments::On);
    let options = ModelOptions::default();
    let model = Model::load(&ctx, &tiny::model().unwrap(), options).unwrap();
    let mut cache = KvCache::new(&ctx, model.config(), KvCacheOptions::new(512)).unwrap();
    let mut step = |token: u32| {
        let batch = Batch { tokens: &[token], sequences: 1 };
        model.forward(&ctx, &mut cache, batch, Logits::None).unwrap();
    };
    step(540);
    // The first layer has nothing pending; all others share two executables.
    let first = ctx.cache().executables.stats();
    assert_eq!(first.misses, 3);
    for token in 0..63 {
        step(token);
    }
    let stats = ctx.cache().executables.stats();
    assert_eq!(stats.misses, first.misses);
    assert_eq!(stats.hits, 2 * 64 * model.config().n_layers as u64 - first.misses);
    // Nothing else ran any part of a block.
    for op in ["sdpa", "rope", "kv_append", "swiglu", "linear", "rms_norm"] {
        assert!(ctx.runs(op).is_empty(), "{op}");
    }
}

#[test]
fn what_was_said_of_attention_holds_within_a_segment() {
    let mut ctx = segmented(Backend::Legacy, Segments::On);
    let mut policies = ctx.registry().policies().clone();
    policies.required.insert("sdpa", Backend::Graph);
    ctx.registry_mut().set_policies(policies.clone());
    let options = ModelOptions::default();
    let model = Model::load(&ctx, &tiny::model().unwrap(), options).unwrap();
    let mut cache = KvCache::new(&ctx, model.config(), KvCacheOptions::new(512)).unwrap();
    let batch = Batch { tokens: &[1], sequences: 1 };
    let error = model.forward(&ctx, &mut cache, batch, Logits::None).unwrap_err();
    let metallic_models::Error::Run(error) = error else { panic!("{error}") };
    assert!(matches!(error, Error::RequiredBackend { op: "attention_block", .. }), "{error}");
    // A policy of the segment's own is above that of attention.
    let source = PolicySource::Flag("test");
    let choice = PolicyChoice { policy: Policy::Force(Backend::Graph), source };
    policies.ops.insert("attention_block", choice);
    ctx.registry_mut().set_policies(policies);
    model.forward(&ctx, &mut cache, batch, Logits::None).unwrap();
    assert_eq!(ctx.runs("attention_block")[0].selection.backend, Backend::Graph);
}

#[test]
fn a_whole_step_that_nothing_runs_is_an_error_and_prompts_go_on() {
    let ctx = segmented(Backend::Legacy, Segments::Step);
    let model = Model::load(&ctx, &tiny::model().unwrap(), ModelOptions::default()).unwrap();
    let mut cache = KvCache::new(&ctx, model.config(), KvCacheOptions::new(512)).unwrap();
    let mut forward = |tokens: &[u32]| {
        let mut out = Vec::new();
        let batch = Batch { tokens, sequences: 1 };
        model.forward(&ctx, &mut cache, batch, Logits::Last(&mut out))
    };
    forward(&[5, 6, 7]).unwrap();
    let error = forward(&[8]).unwrap_err().to_string();
    assert!(error.starts_with("decoder_step: "), "{error}");
}
