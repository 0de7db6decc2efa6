//! The embedded model end to end with attention, and then whole blocks, as MPSGraph graphs: the
//! text of the CPU, and one compilation a class of lengths.

use std::ops::ControlFlow;

use metallic::Context;
use metallic::dispatch::{PolicySource, Segments, SegmentsChoice};
use metallic::op::Precision;
use metallic::tensor::DType;
use metallic_devices::{GraphOptions, Terms};
use metallic_instrumentation::Recorder;
use metallic_models::generate::{GenerateOptions, Generator};
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::tiny;
use metallic_models::transformer::{Model, ModelOptions};

use crate::support::{cpu, graph_with, macos_15};

/// Twenty greedy tokens over a cache of `dtype`.
fn ids(ctx: &Context, dtype: DType) -> Vec<u32> {
    let source = tiny::model().unwrap();
    let model = Model::load(ctx, &source, ModelOptions { precision: Precision::Exact }).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let cache = KvCacheOptions { k_dtype: dtype, v_dtype: dtype, ..KvCacheOptions::new(512) };
    let mut generator = Generator::new(ctx, &model, cache, 512).unwrap();
    let options =
        GenerateOptions { max_tokens: Some(20), ignore_eos: true, ..GenerateOptions::default() };
    let mut likeliest = |logits: &[f32]| {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        Ok(best.0 as u32)
    };
    let mut go_on = |_: &str| ControlFlow::Continue(());
    let prompt = tokenizer.encode("Once upon a time there was a little dog", false, false).unwrap();
    let made = generator.generate(&prompt, &tokenizer, &options, &mut likeliest, &mut go_on);
    made.unwrap().ids
}

fn graphs(exact: bool) -> Context {
    let options = GraphOptions { terms: Terms::of_models(exact), ..GraphOptions::default() };
    graph_with(options, Recorder::disabled())
}

#[test]
fn greedy_text_with_attention_as_a_graph_is_the_same_as_on_the_cpu() {
    // In f32 exactly; with an f16 cache the native op takes queries in f16.
    for (dtype, exact) in [(DType::F32, true), (DType::F16, true), (DType::F16, false)] {
        let ctx = graphs(exact);
        assert_eq!(ids(&ctx, dtype), ids(&cpu(), dtype), "{dtype} {exact}");
        // One class for the prompt, one for each token after it, in every layer.
        let stats = ctx.cache().executables.stats();
        assert_eq!(stats.misses, 2, "{dtype} {exact}");
        assert!(stats.hits > 60, "{}", stats.hits);
    }
}

#[test]
fn greedy_text_with_blocks_as_graphs_is_the_same_as_on_the_cpu() {
    if !macos_15() {
        return; // `segments` sees to it that these are refused there.
    }
    let mut ctx = graphs(true);
    let mut policies = ctx.registry().policies().clone();
    let source = PolicySource::Flag("--test");
    policies.segments = SegmentsChoice { segments: Segments::On, source };
    ctx.registry_mut().set_policies(policies);
    assert_eq!(ids(&ctx, DType::F32), ids(&cpu(), DType::F32));
    assert!(ctx.runs("sdpa").is_empty(), "attention ran inside blocks");
    assert!(!ctx.runs("attention_block").is_empty());
}
