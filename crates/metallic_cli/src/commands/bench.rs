//! `metallic bench`: prompt and generation speed of a model, in llama-bench's words.
//!
//! Prompts are fixed. Then each step is fed with what the one before it gave, as in `run --temp 0`, and the
//! device may make several in one call as there; tokenisation is not measured.

mod floor;
mod table;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use metallic::Context;
use metallic_models::generate::Generator;
use serde_json::{Value, json};

use super::bench_limits::{self, DeviceLimits};
use crate::args::{BackendArgs, BenchArgs, BenchLists, ContextArgs};
use crate::error::{Error, Result};
use crate::model::{self, Loaded};
use crate::output::note;
use crate::{device, interrupt, memory, summary};
use table::{Extra, Table};

/// One test: `pp512 @ d128`, `tg128` or `pp512+tg128`.
#[derive(Clone, Copy)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
}

impl Test {
    fn name(self) -> String {
        let name = match (self.n_prompt, self.n_gen) {
            (0, n_gen) => format!("tg{n_gen}"),
            (n_prompt, 0) => format!("pp{n_prompt}"),
            (n_prompt, n_gen) => format!("pp{n_prompt}+tg{n_gen}"),
        };
        if self.n_depth > 0 { format!("{name} @ d{}", self.n_depth) } else { name }
    }

    fn tokens(self) -> usize {
        self.n_prompt + self.n_gen
    }

    /// Positions of the cache at its end.
    fn positions(self) -> usize {
        self.n_depth + self.tokens()
    }
}

/// Runs all tests and prints a row for each as it is there.
///
/// # Errors
/// Whatever is wrong with flags, model or device; a test that does not fit the context;
/// [`Error::Interrupted`] after Ctrl-C, without a row for the test it came in.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let tests = tests(args);
    let Some(longest) = tests.iter().copied().max_by_key(|test| test.positions()) else {
        return Err(Error::NothingToMeasure);
    };
    let extra = Extra::of(&args.lists);
    let mut tables = vec![Table::new(args.output, extra, Box::new(io::stdout()))];
    if let Some(format) = args.output_err {
        tables.push(Table::new(format, extra, Box::new(io::stderr())));
    }
    let ran = threads(args).into_iter().try_for_each(|threads| {
        let backend = BackendArgs { threads, ..args.backend.clone() };
        let limits = args.limits.then(|| bench_limits::of(&backend)).transpose()?;
        let ctx = device::open_for_model(&backend, args.context.exact)?;
        let loaded = model::load(&ctx, &args.model, args.context.exact, backend.verbose)?;
        check_length(args, &loaded, longest)?;
        interrupt::install();
        for context in contexts(args) {
            let setting = Setting { args, context: &context, threads, ctx: &ctx, loaded: &loaded };
            for &test in &tests {
                let row = setting.row(test, limits.as_ref())?;
                tables.iter_mut().try_for_each(|table| table.row(&row))?;
            }
        }
        let generated: usize = tests.iter().map(|test| test.n_gen).sum();
        let runs = contexts(args).len() * (args.repetitions + 1);
        summary::note_single_steps(&ctx, args.steps_at_once, generated.saturating_mul(runs));
        device::finish(&ctx)
    });
    // What was measured before a failure or Ctrl-C is whole all the same.
    tables.into_iter().try_for_each(Table::finish)?;
    ran
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth.0 {
        let test = |n_prompt, n_gen| Test { n_prompt, n_gen, n_depth };
        tests.extend(args.n_prompt.0.iter().map(|&n_prompt| test(n_prompt, 0)));
        tests.extend(args.n_gen.0.iter().map(|&n_gen| test(0, n_gen)));
        tests.extend(args.pg.iter().map(|&(n_prompt, n_gen)| test(n_prompt, n_gen)));
    }
    tests.retain(|test| test.tokens() > 0);
    tests
}

/// The numbers of threads; one entry without a number for the default.
fn threads(args: &BenchArgs) -> Vec<Option<usize>> {
    match &args.lists.threads[..] {
        [] => vec![None],
        several => several.iter().copied().map(Some).collect(),
    }
}

/// The settings of the context, one for each combination of the lists.
fn contexts(args: &BenchArgs) -> Vec<ContextArgs> {
    fn each<T: Copy>(list: &[T]) -> Vec<Option<T>> {
        if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
    }
    let BenchLists { ubatch_sizes, cache_types_k, cache_types_v, .. } = &args.lists;
    let mut contexts = Vec::new();
    for ubatch_size in each(ubatch_sizes) {
        for cache_type_k in each(cache_types_k) {
            for cache_type_v in each(cache_types_v) {
                let ubatch_size = ubatch_size.or(args.context.ubatch_size);
                let context = args.context.clone();
                contexts.push(ContextArgs { ubatch_size, cache_type_k, cache_type_v, ..context });
            }
        }
    }
    contexts
}

/// # Errors
/// [`Error::BenchTooLong`] where a context was asked for and `longest` is beyond it.
fn check_length(args: &BenchArgs, loaded: &Loaded, longest: Test) -> Result<()> {
    let (model, needed) = (loaded.model.config().context_length, longest.positions());
    match args.context.ctx_size {
        Some(context) if context > 0 && needed > context => {
            let (depth, tokens) = (longest.n_depth, longest.tokens());
            Err(Error::BenchTooLong { depth, tokens, context })
        }
        _ => {
            if needed > model {
                let name = longest.name();
                note!("warning: {name} is more than the {model} tokens the model was made for");
            }
            Ok(())
        }
    }
}

/// Durations in ns: the first, cold one apart from the rest.
struct Samples {
    cold_ns: f64,
    warm_ns: Vec<f64>,
    backends: String,
    /// Whether halves of blocks, or whole steps, ran as one op each.
    segments: bool,
}

/// What a test runs with.
struct Setting<'a> {
    args: &'a BenchArgs,
    context: &'a ContextArgs,
    threads: Option<usize>,
    ctx: &'a Context,
    loaded: &'a Loaded,
}

impl Setting<'_> {
    fn measure(&self, test: Test) -> Result<Samples> {
        let Setting { args, context, ctx, loaded, .. } = *self;
        let vocab = loaded.model.config().vocab;
        // Any tokens will do; these are all different and the same every time.
        let token = |index: usize| (index * 7919 % vocab) as u32;
        let total = test.positions();
        let cache = context.cache(total, total);
        let step = context.step(ctx.device().id().kind);
        memory::check_context(ctx, &loaded.files, &cache, (total, step))?;
        let mut generator = Generator::new(ctx, &loaded.model, cache, step)?;
        generator.fix_steps_at_once(args.steps_at_once);
        let depth: Vec<u32> = (0..test.n_depth).map(token).collect();
        let tokens: Vec<u32> = (test.n_depth..total).map(token).collect();
        let (prompt, generated) = tokens.split_at(test.n_prompt);
        let before = [summary::attention_runs(ctx), summary::segment_runs(ctx)];
        let mut once = || -> Result<f64> {
            let feed =
                |generator: &mut Generator<'_>, tokens: &[u32], more| -> Result<Option<u32>> {
                    let next = generator.feed_greedy(tokens, more, &mut go_on)?;
                    interrupt::check()?;
                    Ok(next.and_then(|next| next.likeliest()))
                };
            generator.truncate(test.n_depth);
            if generator.tokens().len() < test.n_depth {
                feed(&mut generator, &depth, 0)?;
            }
            let start = Instant::now();
            if !prompt.is_empty() {
                feed(&mut generator, prompt, 0)?;
            }
            let mut token = generated.first().copied();
            for left in (0..generated.len()).rev() {
                let fed = token.ok_or(metallic_models::Error::EmptyPrompt)?;
                token = feed(&mut generator, &[fed], left)?;
            }
            Ok(start.elapsed().as_nanos() as f64)
        };
        let cold_ns = once()?;
        let warm_ns = (0..args.repetitions).map(|_| once()).collect::<Result<Vec<_>>>()?;
        let [attention, segments] = &before;
        let ran = summary::attention_runs(ctx).into_iter().filter(|run| !attention.contains(run));
        let mut backends: Vec<_> = ran.map(|run| run.selection.backend.name()).collect();
        backends.sort_unstable();
        backends.dedup();
        let segments = summary::segment_runs(ctx).iter().any(|run| !segments.contains(run));
        Ok(Samples { cold_ns, warm_ns, backends: backends.join("+"), segments })
    }

    /// Measures `test` and writes down what came out.
    fn row(&self, test: Test, limits: Option<&DeviceLimits>) -> Result<Value> {
        let samples = self.measure(test)?;
        let Setting { args, context, ctx, loaded: Loaded { files, .. }, .. } = *self;
        let rate = |ns: f64| test.tokens() as f64 * 1e9 / ns.max(1.0);
        let rates: Vec<f64> = samples.warm_ns.iter().map(|&ns| rate(ns)).collect();
        let (avg_ns, stddev_ns) = mean_and_deviation(&samples.warm_ns);
        let (avg_ts, stddev_ts) = mean_and_deviation(&rates);
        let all = || std::thread::available_parallelism().map_or(1, |threads| threads.get());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let filename = args.model.model.as_deref().unwrap_or(Path::new("(embedded)"));
        let mut row = json!({
            // llama-bench's word for a build that does not know its commit.
            "build_commit": "unknown",
            "build_version": env!("CARGO_PKG_VERSION"),
            "cpu_info": ctx.device().description(),
            "backends": ctx.device().id().kind.to_uppercase(),
            "model_filename": filename.to_string_lossy(),
            "model_type": format!("{} {}", files.config().architecture, files.quantization()),
            "model_size": files.tensors().bytes(),
            "model_n_params": files.parameters(),
            "n_batch": context.batch_size,
            "n_ubatch": context.step(ctx.device().id().kind),
            "n_threads": self.threads.unwrap_or_else(all),
            "type_k": context.cache_types().0.name(),
            "type_v": context.cache_types().1.name(),
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "n_depth": test.n_depth,
            "test": test.name(),
            "test_time": now,
            "avg_ns": avg_ns,
            "stddev_ns": stddev_ns,
            "avg_ts": avg_ts,
            "stddev_ts": stddev_ts,
            "samples_ns": samples.warm_ns,
            "samples_ts": rates,
            "device": ctx.device().id().to_string(),
            "sdpa_backend": samples.backends,
            "segments": samples.segments,
            "cold_ns": samples.cold_ns,
            "cold_ts": rate(samples.cold_ns),
            "warm_ts": avg_ts,
        });
        if let Some(limits) = limits {
            let (floor_s, bound) = floor::of(self, test, limits)?;
            row["share_of_limit"] = json!(floor_s * 1e9 / avg_ns);
            row["bound_by"] = json!(bound);
            row["floor_ns"] = json!(floor_s * 1e9);
            row["limits"] = limits.to_json();
        }
        Ok(row)
    }
}

/// Goes on until Ctrl-C.
fn go_on() -> ControlFlow<()> {
    if interrupt::is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Mean and the deviation of a sample, 0 for less than two values.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
    (mean, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_deviations() {
        let test = |n_prompt, n_gen, n_depth| Test { n_prompt, n_gen, n_depth }.name();
        assert_eq!(test(512, 0, 0), "pp512");
        assert_eq!(test(0, 128, 64), "tg128 @ d64");
        assert_eq!(test(16, 4, 0), "pp16+tg4");
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[4.0]), (4.0, 0.0));
    }
}
