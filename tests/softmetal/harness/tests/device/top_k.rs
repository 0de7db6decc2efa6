//! The largest of rows, exactly, and tokens that are chosen from them.

use std::ops::ControlFlow;

use metallic::Context;
use metallic_models::generate::{GenerateOptions, Generator};
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::sampler::{Sampler, SamplerConfig};
use metallic_models::tiny;
use metallic_models::transformer::{Model, ModelOptions};
use metallic_testkit::ops::run_top_k;

use crate::support::metal;

#[test]
fn the_largest_agree_with_the_oracle() {
    let rows = run_top_k(&metal(), &mut |_| {});
    assert!(rows.len() >= 60, "{} cases", rows.len());
    for row in rows {
        assert_eq!(row.failure, None, "{}", row.case);
        assert_eq!(row.kernel, "legacy:chunks");
    }
}

/// Eight tokens of a sampler that sees all logits, or asks for what it needs.
fn generated(ctx: &Context, model: &Model, config: &SamplerConfig, all: bool) -> Vec<u32> {
    let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
    let mut generator = Generator::new(ctx, model, KvCacheOptions::new(64), 64).unwrap();
    let mut sampler = Sampler::new(config.clone()).unwrap();
    let prompt = tokenizer.encode("Once upon a time there", false, false).unwrap();
    let options =
        GenerateOptions { max_tokens: Some(8), ignore_eos: true, ..GenerateOptions::default() };
    let mut go_on = |_: &str| ControlFlow::Continue(());
    let made = if all {
        let mut sample = |logits: &[f32]| {
            let token = sampler.sample(logits)?;
            sampler.accept(token);
            Ok(token)
        };
        generator.generate(&prompt, &tokenizer, &options, &mut sample, &mut go_on)
    } else {
        generator.generate_with(&prompt, &tokenizer, &options, &mut sampler, &mut go_on)
    };
    made.unwrap().ids
}

#[test]
fn the_tiny_model_says_the_same_from_the_likeliest_alone() {
    let ctx = metal();
    let model = Model::load(&ctx, &tiny::model().unwrap(), ModelOptions::default()).unwrap();
    let drawn = |seed| SamplerConfig {
        seed: Some(seed),
        temperature: 1.3,
        repeat_penalty: 1.2,
        ..SamplerConfig::default()
    };
    for (index, config) in [SamplerConfig::greedy(), drawn(1), drawn(2)].iter().enumerate() {
        let want = generated(&ctx, &model, config, true);
        assert_eq!(generated(&ctx, &model, config, false), want, "{config:?}");
        assert_eq!(ctx.runs("top_k")[0].calls, 8 * (index as u64 + 1));
    }
}
