//! The embedded model end to end, on the CPU, under both backends: the numbers of `golden.json`.

use std::ops::ControlFlow;

use metallic::Context;
use metallic::dispatch::{Backend, Segments};
use metallic::op::Precision;
use metallic::tensor::DType;
use metallic_models::Error;
use metallic_models::generate::{GenerateOptions, Generator, StopReason};
use metallic_models::kv_cache::{KvCache, KvCacheOptions};
use metallic_models::tiny;
use metallic_models::transformer::{Batch, Logits, Model, ModelOptions};
use serde_json::Value;

use crate::support::{SETUPS, segmented};

fn context(backend: Backend) -> Context {
    segmented(backend, Segments::Off)
}

fn load(ctx: &Context, precision: Precision) -> Model {
    Model::load(ctx, &tiny::model().unwrap(), ModelOptions { precision }).unwrap()
}

fn golden() -> Vec<Value> {
    let text = include_str!("../../tiny/golden.json");
    let golden: Value = serde_json::from_str(text).unwrap();
    golden["q8_0"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn f32_cache(max_len: usize) -> KvCacheOptions {
    let (k_dtype, v_dtype) = (DType::F32, DType::F32);
    KvCacheOptions { k_dtype, v_dtype, ..KvCacheOptions::new(max_len) }
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    best.0 as u32
}

#[test]
fn exact_logits_are_the_golden_ones_under_both_backends() {
    for (backend, segments) in SETUPS {
        let ctx = segmented(backend, segments);
        let model = load(&ctx, Precision::Exact);
        for case in golden() {
            let prompt = ids(&case["ids"]);
            let mut cache = KvCache::new(&ctx, model.config(), f32_cache(512)).unwrap();
            let mut checked = 0;
            let mut check = |row: usize, logits: &[f32]| {
                for pair in case["top5"][row].as_array().unwrap() {
                    let (id, want) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
                    let got = f64::from(logits[id as usize]);
                    assert!(
                        (got - want).abs() < 1e-3,
                        "{backend} {segments} {row} {id}: {got} {want}"
                    );
                    checked += 1;
                }
                Ok(())
            };
            let batch = Batch { tokens: &prompt, sequences: 1 };
            model.forward(&ctx, &mut cache, batch, Logits::Each(&mut check)).unwrap();
            assert_eq!(checked, 5 * prompt.len());
        }
        let runs = [ctx.runs("sdpa"), ctx.runs("attention_block")];
        assert_eq!(
            runs.each_ref().map(Vec::is_empty),
            [segments == Segments::On, segments == Segments::Off]
        );
        let mut runs = runs.iter().flatten();
        assert!(runs.all(|run| run.selection.backend == backend), "{:?}", ctx.runs("sdpa"));
    }
}

#[test]
fn greedy_text_follows_the_golden_one_to_its_first_close_call() {
    for (backend, segments) in SETUPS {
        let ctx = segmented(backend, segments);
        let model = load(&ctx, Precision::Quantized);
        let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
        for case in golden() {
            let prompt = ids(&case["ids"]);
            let want = ids(&case["greedy_ids"]);
            let gaps = case["gaps"].as_array().unwrap();
            let sure = gaps.iter().take_while(|gap| gap.as_f64().unwrap() > 0.25).count();
            let mut generator =
                Generator::new(&ctx, &model, KvCacheOptions::new(512), 512).unwrap();
            let options = GenerateOptions {
                max_tokens: Some(want.len()),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            let mut text = String::new();
            let generation = generator
                .generate(
                    &prompt,
                    &tokenizer,
                    &options,
                    &mut |logits| Ok(argmax(logits)),
                    &mut |t| {
                        text.push_str(t);
                        ControlFlow::Continue(())
                    },
                )
                .unwrap();
            assert_eq!(
                generation.ids[..sure],
                want[..sure],
                "{backend} {segments} {}",
                case["prompt"]
            );
            assert_eq!(generation.stop, StopReason::Length);
            assert_eq!(text, tokenizer.decode(&generation.ids, true));
        }
    }
}

#[test]
fn chunks_cache_types_and_growth_change_nothing_that_matters() {
    let ctx = context(Backend::Graph);
    let model = load(&ctx, Precision::Exact);
    let text = include_str!("../../tiny/sample.txt");
    let tokens = tiny::model().unwrap().tokenizer().unwrap().encode(text, false, false).unwrap();
    let tokens = &tokens[..300];
    let logits = |options: KvCacheOptions, ubatch: usize| {
        let mut generator = Generator::new(&ctx, &model, options, ubatch).unwrap();
        let logits = generator.feed(tokens).unwrap();
        assert_eq!(generator.cache().capacity(), 512);
        logits
    };
    let want = logits(f32_cache(512), 512);
    let furthest =
        |got: Vec<f32>| got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(furthest(logits(f32_cache(512), 1)) < 2e-4, "one token at a time, growing once");
    assert!(furthest(logits(f32_cache(512), 37)) < 2e-4, "ragged chunks");
    // A rounded key or value is off by half a unit in its last place (for q8_0, of the largest of
    // its 32). Keys and values of every layer are rounded independently, so their errors add in
    // quadrature.
    let roundings = (2.0 * model.config().n_layers as f64).sqrt();
    let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    for (dtype, step) in
        [(DType::F16, 2f64.powi(-11)), (DType::Bf16, 2f64.powi(-8)), (DType::Q8_0, 1.0 / 127.0)]
    {
        let options = KvCacheOptions { k_dtype: dtype, v_dtype: dtype, ..f32_cache(512) };
        let got = logits(options, 64);
        let pairs = got.iter().zip(&want);
        let distance = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt() / norm;
        assert!(distance > 0.0 && distance < step * roundings, "{dtype}: {distance} of {step}");
    }
}

#[test]
fn sequences_in_one_batch_are_independent() {
    for (backend, segments) in SETUPS {
        let ctx = segmented(backend, segments);
        let model = load(&ctx, Precision::Exact);
        let vocab = model.config().vocab;
        let prompts: [&[u32]; 3] = [&[540, 600, 258, 455], &[100, 200, 300, 400], &[7, 7, 7, 7]];
        let alone: Vec<Vec<f32>> = prompts
            .iter()
            .map(|prompt| {
                let mut generator = Generator::new(&ctx, &model, f32_cache(512), 512).unwrap();
                generator.feed(prompt).unwrap();
                generator.feed(&[9]).unwrap()
            })
            .collect();
        let options = KvCacheOptions { sequences: 3, ..f32_cache(512) };
        let mut cache = KvCache::new(&ctx, model.config(), options).unwrap();
        let mut together = Vec::new();
        for tokens in [prompts.concat(), vec![9, 9, 9]] {
            let batch = Batch { tokens: &tokens, sequences: 3 };
            model.forward(&ctx, &mut cache, batch, Logits::Last(&mut together)).unwrap();
        }
        for (alone, together) in alone.iter().zip(together.chunks_exact(vocab)) {
            for (a, b) in alone.iter().zip(together) {
                assert!((a - b).abs() < 1e-4, "{backend} {segments}: {a} {b}");
            }
        }
    }
}

#[test]
fn a_decode_of_512_tokens_compiles_nothing_after_its_first_step() {
    let ctx = context(Backend::Graph);
    let model = load(&ctx, Precision::Quantized);
    let mut cache = KvCache::new(&ctx, model.config(), KvCacheOptions::new(1024)).unwrap();
    let mut step = |token: u32| {
        let batch = Batch { tokens: &[token], sequences: 1 };
        model.forward(&ctx, &mut cache, batch, Logits::None).unwrap();
    };
    step(540);
    let first = ctx.cache().executables.stats();
    assert_eq!(first.misses, 1, "all layers share one executable");
    for token in 0..511 {
        step(token);
    }
    let stats = ctx.cache().executables.stats();
    assert_eq!(stats.misses - first.misses, 0);
    assert_eq!(stats.hits, 512 * model.config().n_layers as u64 - 1);
}

#[test]
fn what_does_not_fit_is_refused_before_work_starts() {
    let ctx = context(Backend::Graph);
    let model = load(&ctx, Precision::Exact);
    let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
    let mut generator = Generator::new(&ctx, &model, KvCacheOptions::new(8), 4).unwrap();
    let mut generate = |prompt: &[u32], max_tokens| {
        let options = GenerateOptions { max_tokens, ..GenerateOptions::default() };
        generator.generate(prompt, &tokenizer, &options, &mut |_| Ok(1), &mut |_| {
            ControlFlow::Continue(())
        })
    };
    assert!(matches!(generate(&[1; 9], None), Err(Error::PromptTooLong { prompt: 9, .. })));
    assert!(matches!(generate(&[1; 5], Some(4)), Err(Error::PromptTooLong { generate: 4, .. })));
    assert!(matches!(generate(&[], None), Err(Error::EmptyPrompt)));
    assert!(ctx.runs("sdpa").is_empty(), "nothing ran");
    assert_eq!(generate(&[1; 5], None).unwrap().stop, StopReason::ContextFull);
    let batch = Batch { tokens: &[4096], sequences: 1 };
    let mut cache = KvCache::new(&ctx, model.config(), KvCacheOptions::new(8)).unwrap();
    let refused = model.forward(&ctx, &mut cache, batch, Logits::None);
    assert!(matches!(refused, Err(Error::BadToken { id: 4096, vocab: 4096 })));
}

#[test]
fn an_interrupted_prompt_counts_the_tokens_it_processed() {
    let ctx = context(Backend::Graph);
    let model = load(&ctx, Precision::Exact);
    let tokenizer = tiny::model().unwrap().tokenizer().unwrap();
    let mut generator = Generator::new(&ctx, &model, KvCacheOptions::new(64), 4).unwrap();
    let mut asked = 0;
    let generation = generator
        .generate(&[1; 10], &tokenizer, &GenerateOptions::default(), &mut |_| Ok(1), &mut |_| {
            asked += 1;
            if asked > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(generation.stop, StopReason::Interrupted);
    assert_eq!((generation.prompt_tokens, generator.tokens().len()), (8, 8));
}

#[test]
fn loading_tells_of_every_matrix() {
    let (ctx, files) = (context(Backend::Graph), tiny::model().unwrap());
    let loaded = std::cell::Cell::new(0);
    let add = |bytes| loaded.set(loaded.get() + bytes as u64);
    Model::load_with(&ctx, &files, ModelOptions::default(), &add).unwrap();
    let vectors = files.tensors().iter().filter(|tensor| tensor.shape.len() < 2);
    let vectors: u64 = vectors.map(|tensor| tensor.byte_len()).sum();
    assert_eq!(loaded.get(), files.tensors().bytes() - vectors);
}
