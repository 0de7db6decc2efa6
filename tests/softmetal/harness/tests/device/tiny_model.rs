//! The embedded model end to end with hand-written kernels alone: the logits and the text of the CPU.

use std::ops::ControlFlow;

use metallic::Context;
use metallic::dispatch::{
    Backend, Policies, Policy, PolicyChoice, PolicySource, Segments, SegmentsChoice,
};
use metallic::op::Precision;
use metallic::tensor::DType;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use metallic_models::generate::{GenerateOptions, Generator};
use metallic_models::kv_cache::{KvCache, KvCacheOptions};
use metallic_models::tiny;
use metallic_models::transformer::{Batch, Logits, Model, ModelOptions};

fn legacy() -> Policies {
    let mut policies = Policies::default();
    let choice =
        PolicyChoice { policy: Policy::Force(Backend::Legacy), source: PolicySource::Flag("test") };
    policies.ops.insert("sdpa", choice);
    policies
}

fn cpu() -> Context {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    CpuDevice::context(options, legacy(), Recorder::disabled())
}

fn metal() -> Context {
    MetalDevice::context(MetalOptions::default(), legacy(), Recorder::disabled()).unwrap()
}

fn load(ctx: &Context) -> Model {
    let options = ModelOptions { precision: Precision::Exact };
    Model::load(ctx, &tiny::model().unwrap(), options).unwrap()
}

fn cache(dtype: DType) -> KvCacheOptions {
    KvCacheOptions { k_dtype: dtype, v_dtype: dtype, ..KvCacheOptions::new(512) }
}

fn prompt(text: &str) -> Vec<u32> {
    tiny::model().unwrap().tokenizer().unwrap().encode(text, false, false).unwrap()
}

#[test]
fn logits_after_every_token_agree() {
    let logits = |ctx: Context, dtype: DType, chunk: usize| {
        let model = load(&ctx);
        let mut cache = KvCache::new(&ctx, model.config(), cache(dtype)).unwrap();
        let mut all: Vec<f32> = Vec::new();
        for tokens in prompt("Once upon a time there was a little dog").chunks(chunk) {
            let mut each = |_: usize, logits: &[f32]| {
                all.extend(logits);
                Ok(())
            };
            let batch = Batch { tokens, sequences: 1 };
            model.forward(&ctx, &mut cache, batch, Logits::Each(&mut each)).unwrap();
        }
        all
    };
    // At once, in parts, and token by token.
    for (dtype, chunk) in [(DType::F32, 64), (DType::F16, 3), (DType::Q8_0, 1)] {
        let (want, got) = (logits(cpu(), dtype, chunk), logits(metal(), dtype, chunk));
        assert_eq!(want.len(), got.len());
        // Rounding to the cache's type may fall the other way where a sum differs in its last bit.
        let tolerance = if dtype == DType::F32 { 1e-4 } else { 2e-2 };
        let worst = want.iter().zip(&got).map(|(want, got)| (want - got).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{dtype} in parts of {chunk}: {worst}");
    }
}

/// `ctx` with halves of blocks as one op each.
fn segmented(mut ctx: Context) -> Context {
    let mut policies = legacy();
    let source = PolicySource::Flag("test");
    policies.segments = SegmentsChoice { segments: Segments::On, source };
    ctx.registry_mut().set_policies(policies);
    ctx
}

#[test]
fn greedy_text_is_the_same_as_on_the_cpu() {
    let generate = |ctx: Context| {
        let model = load(&ctx);
        let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
        let mut generator = Generator::new(&ctx, &model, cache(DType::F32), 512).unwrap();
        let options = GenerateOptions {
            max_tokens: Some(48),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        let mut likeliest = |logits: &[f32]| {
            let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
            Ok(best.0 as u32)
        };
        let mut text = String::new();
        let mut keep = |piece: &str| {
            text.push_str(piece);
            ControlFlow::Continue(())
        };
        let prompt =
            prompt("Once upon a time there was a little dog who liked to run in the park.");
        let generation =
            generator.generate(&prompt, &tokenizer, &options, &mut likeliest, &mut keep).unwrap();
        let variants =
            |op| -> Vec<_> { ctx.runs(op).into_iter().map(|run| run.selection.variant).collect() };
        (generation.ids, text, [variants("sdpa"), variants("attention_block")])
    };
    let (want, text, _) = generate(cpu());
    let (got, metal_text, variants) = generate(metal());
    assert_eq!(got, want, "{text:?} against {metal_text:?}");
    assert_eq!(metal_text, text);
    assert_eq!(variants, [vec!["flash_decode", "flash_prefill"], vec![]]);
    let (got, metal_text, variants) = generate(segmented(metal()));
    assert_eq!(got, want, "{text:?} against {metal_text:?}");
    assert_eq!(variants, [vec![], vec!["composed"]]);
}
