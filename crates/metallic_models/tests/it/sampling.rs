//! Tokens chosen from the likeliest alone, picked on the device, against tokens chosen from all
//! logits.

use std::ops::ControlFlow;

use metallic::Context;
use metallic::dispatch::{Backend, Segments};
use metallic_models::generate::{GenerateOptions, Generator};
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::sampler::{Sampler, SamplerConfig};
use metallic_models::tiny;
use metallic_models::transformer::{Model, ModelOptions};

use crate::support::segmented;

/// What is generated after a prompt by a sampler of `config`, which sees all logits or asks for
/// what it needs.
fn generated(ctx: &Context, model: &Model, config: &SamplerConfig, all: bool) -> Vec<u32> {
    let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
    let mut generator = Generator::new(ctx, model, KvCacheOptions::new(64), 64).unwrap();
    let mut sampler = Sampler::new(config.clone()).unwrap();
    let prompt = tokenizer.encode("Once upon a time there was a", false, false).unwrap();
    prompt.iter().for_each(|token| sampler.accept(*token));
    let options =
        GenerateOptions { max_tokens: Some(16), ignore_eos: true, ..GenerateOptions::default() };
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

/// How often the device picked the likeliest.
fn picks(ctx: &Context) -> u64 {
    ctx.runs("top_k").iter().map(|run| run.calls).sum()
}

#[test]
fn the_likeliest_give_the_tokens_that_all_logits_give() {
    let ctx = segmented(Backend::Graph, Segments::Off);
    let model = Model::load(&ctx, &tiny::model().unwrap(), ModelOptions::default()).unwrap();
    let base = SamplerConfig { temperature: 1.2, ..SamplerConfig::default() };
    let penalties =
        SamplerConfig { repeat_penalty: 1.2, presence_penalty: 0.3, ..SamplerConfig::default() };
    let raised = SamplerConfig { logit_bias: vec![(100, 0.5)], ..base.clone() };
    for (config, seeds, picked) in [
        (SamplerConfig::greedy(), 1, true),
        (SamplerConfig { temperature: 0.0, ..penalties.clone() }, 1, true),
        (base.clone(), 24, true),
        (penalties, 24, true),
        (SamplerConfig { logit_bias: vec![(263, -2.0)], ..base.clone() }, 8, true),
        (SamplerConfig { top_k: 0, ..base }, 2, false),
        (raised, 2, false),
    ] {
        for seed in 0..seeds {
            let config = SamplerConfig { seed: Some(seed), ..config.clone() };
            let before = picks(&ctx);
            let want = generated(&ctx, &model, &config, true);
            assert_eq!(picks(&ctx), before, "all logits were asked for");
            assert_eq!(generated(&ctx, &model, &config, false), want, "{config:?}");
            assert_eq!(picks(&ctx) - before, if picked { 16 } else { 0 }, "{config:?}");
        }
    }
}
