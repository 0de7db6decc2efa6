//! `metallic bench`: prompt and generation speed of a model, in llama-bench's words.
//!
//! Tokenisation and sampling are not measured: tokens are fixed, logits are thrown away.

mod table;

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use metallic::Context;
use metallic::device::Device;
use metallic::tensor::DType;
use metallic_devices::cuda::limits::LayerProducts;
use metallic_models::generate::Generator;
use serde_json::{Value, json};

use super::bench_limits::{self, DeviceLimits};
use crate::args::BenchArgs;
use crate::error::{Error, Result};
use crate::model::{self, Loaded};
use crate::{device, interrupt, memory, summary};
use table::Table;

/// One test: `pp512 @ d128` or `tg128`.
#[derive(Clone, Copy)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
}

impl Test {
    fn name(self) -> String {
        let name = match self.n_prompt {
            0 => format!("tg{}", self.n_gen),
            n_prompt => format!("pp{n_prompt}"),
        };
        if self.n_depth > 0 { format!("{name} @ d{}", self.n_depth) } else { name }
    }

    fn tokens(self) -> usize {
        self.n_prompt + self.n_gen
    }
}

/// Runs all tests and prints a row for each as it is there.
///
/// # Errors
/// Whatever is wrong with flags, model or device; a test that does not fit the context.
pub(super) fn run(args: &BenchArgs) -> Result<()> {
    let tests = tests(args);
    let limits = args.limits.then(|| bench_limits::of(&args.backend)).transpose()?;
    let ctx = device::open_for_model(&args.backend, args.context.exact)?;
    let loaded = model::load(&ctx, &args.model, args.context.exact, args.backend.verbose)?;
    let longest = tests.iter().map(|test| test.n_depth + test.tokens()).max().unwrap_or(0);
    let context = match args.context.ctx_size {
        Some(size) if size > 0 => size,
        _ => loaded.model.config().context_length.max(longest),
    };
    if let Some(test) = tests.iter().find(|test| test.n_depth + test.tokens() > context) {
        let (depth, tokens) = (test.n_depth, test.tokens());
        return Err(Error::BenchTooLong { depth, tokens, context });
    }
    interrupt::install();
    let mut tables = vec![Table::new(args.output, Box::new(io::stdout()))];
    if let Some(format) = args.output_err {
        tables.push(Table::new(format, Box::new(io::stderr())));
    }
    for test in tests {
        let samples = measure(args, &ctx, &loaded, test)?;
        let mut row = row(args, &ctx, &loaded, test, &samples);
        if let Some(limits) = &limits {
            let (floor_s, bound) = floor(args, &loaded, test, limits)?;
            row["share_of_limit"] = json!(floor_s * 1e9 / mean_and_deviation(&samples.warm_ns).0);
            row["bound_by"] = json!(bound);
            row["floor_ns"] = json!(floor_s * 1e9);
            row["limits"] = limits.to_json();
        }
        tables.iter_mut().try_for_each(|table| table.row(&row))?;
        if interrupt::is_set() {
            break;
        }
    }
    tables.into_iter().try_for_each(Table::finish)?;
    device::finish(&ctx)
}

fn tests(args: &BenchArgs) -> Vec<Test> {
    let mut tests = Vec::new();
    for &n_depth in &args.n_depth.0 {
        let prompt = |&n_prompt: &usize| Test { n_prompt, n_gen: 0, n_depth };
        let generation = |&n_gen: &usize| Test { n_prompt: 0, n_gen, n_depth };
        tests.extend(args.n_prompt.0.iter().map(prompt));
        tests.extend(args.n_gen.0.iter().map(generation));
    }
    tests.retain(|test| test.tokens() > 0);
    tests
}

/// Durations in ns: the first, cold one apart from the rest.
struct Samples {
    cold_ns: f64,
    warm_ns: Vec<f64>,
    backends: String,
}

fn measure(args: &BenchArgs, ctx: &Context, loaded: &Loaded, test: Test) -> Result<Samples> {
    let vocab = loaded.model.config().vocab;
    // Any tokens will do; these are all different and the same every time.
    let token = |index: usize| (index * 7919 % vocab) as u32;
    let total = test.n_depth + test.tokens();
    let cache = args.context.cache(total, total);
    let step = args.context.step(ctx.device().id().kind);
    memory::check_context(ctx, &loaded.files, &cache, (total, step))?;
    let mut generator = Generator::new(ctx, &loaded.model, cache, step)?;
    let depth: Vec<u32> = (0..test.n_depth).map(token).collect();
    let prompt: Vec<u32> = (test.n_depth..total).map(token).collect();
    let before = summary::attention_runs(ctx);
    let mut once = || -> Result<f64> {
        generator.truncate(test.n_depth);
        if generator.tokens().len() < test.n_depth {
            generator.feed(&depth)?;
        }
        let start = Instant::now();
        if test.n_prompt > 0 {
            generator.feed(&prompt)?;
        } else {
            for &token in &prompt {
                generator.feed(&[token])?;
            }
        }
        Ok(start.elapsed().as_nanos() as f64)
    };
    let cold_ns = once()?;
    let mut warm_ns = Vec::new();
    while warm_ns.len() < args.repetitions && !interrupt::is_set() {
        warm_ns.push(once()?);
    }
    let ran = summary::attention_runs(ctx).into_iter().filter(|run| !before.contains(run));
    let mut backends: Vec<_> = ran.map(|run| run.selection.backend.name()).collect();
    backends.dedup();
    Ok(Samples { cold_ns, warm_ns, backends: backends.join("+") })
}

fn row(args: &BenchArgs, ctx: &Context, loaded: &Loaded, test: Test, samples: &Samples) -> Value {
    let Loaded { files, .. } = loaded;
    let rate = |ns: f64| test.tokens() as f64 * 1e9 / ns.max(1.0);
    let rates: Vec<f64> = samples.warm_ns.iter().map(|&ns| rate(ns)).collect();
    let (avg_ns, stddev_ns) = mean_and_deviation(&samples.warm_ns);
    let (avg_ts, stddev_ts) = mean_and_deviation(&rates);
    let threads = args
        .backend
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |threads| threads.get()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let filename = args.model.model.as_deref().unwrap_or("(embedded)");
    json!({
        "build_commit": env!("CARGO_PKG_VERSION"),
        "cpu_info": ctx.device().description(),
        "backends": ctx.device().id().kind.to_uppercase(),
        "model_filename": filename,
        "model_type": format!("{} {}", files.config().architecture, files.quantization()),
        "model_size": files.tensors().bytes(),
        "model_n_params": files.parameters(),
        "n_batch": args.context.batch_size,
        "n_ubatch": args.context.step(ctx.device().id().kind),
        "n_threads": threads,
        "type_k": args.context.cache_types().0.name(),
        "type_v": args.context.cache_types().1.name(),
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
        "segments": ctx.registry().segments().0,
        "cold_ns": samples.cold_ns,
        "cold_ts": rate(samples.cold_ns),
        "warm_ts": avg_ts,
    })
}

/// The shortest time that a test can take, in seconds, and by which limit.
///
/// Generation reads every weight once for each token (an embedding table that is not also the
/// output only row by row, which counts as nothing) and every live key and value. A prompt reads
/// the weights once and multiplies each of them with every token; on a GPU its floor is the
/// measured time of the products of its layers alone.
fn floor(
    args: &BenchArgs,
    loaded: &Loaded,
    test: Test,
    limits: &DeviceLimits,
) -> Result<(f64, &'static str)> {
    if let (DeviceLimits::Cuda(gpu, _), 1..) = (limits, test.n_prompt) {
        let (step, mut seconds) = (args.context.step(gpu.id().kind), 0.0);
        for rows in [step, test.n_prompt % step] {
            let times = if rows == step { test.n_prompt / step } else { usize::from(rows > 0) };
            if times > 0 {
                seconds += times as f64 * gpu.seconds_of(&layer_products(loaded, rows))?;
            }
        }
        return Ok((seconds, "products"));
    }
    let tensors = loaded.files.tensors();
    let separate_output = tensors.find("output.weight").is_some();
    let used =
        tensors.iter().filter(|tensor| !(separate_output && tensor.name == "token_embd.weight"));
    let (mut weight_bytes, mut weights) = (0.0, 0.0);
    for tensor in used {
        weight_bytes += tensor.bytes.len() as f64;
        weights += tensor.elements() as f64;
    }
    let kv_bytes = |len: usize| {
        let cache = args.context.cache(len, len);
        cache.bytes(loaded.model.config(), len).unwrap_or_default() as f64
    };
    let tokens = test.tokens() as f64;
    let (flops, bytes) = if test.n_prompt > 0 {
        (2.0 * weights * tokens, weight_bytes)
    } else {
        let halfway = test.n_depth + test.n_gen / 2;
        (0.0, (weight_bytes + kv_bytes(halfway)) * tokens)
    };
    let rounded = !args.context.exact && loaded.files.quantization().starts_with('Q');
    Ok(match limits {
        DeviceLimits::Cpu(limits) if rounded && limits.int8_gops.is_some() => {
            let rate = limits.int8_gops.unwrap_or(limits.f32_gflops);
            let (arithmetic, memory) = (flops / rate / 1e9, bytes / limits.read_gbytes / 1e9);
            if arithmetic > memory { (arithmetic, "int8") } else { (memory, "memory") }
        }
        limits => limits.floor(flops, bytes),
    })
}

/// The products of one layer of a model, in the type that its activations are rounded to.
fn layer_products(loaded: &Loaded, rows: usize) -> LayerProducts {
    let config = loaded.model.config();
    let (hidden, ffn) = (config.hidden, config.ffn);
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let bias = config.qkv_bias;
    let weight = loaded.files.tensors().find("blk.0.ffn_gate.weight");
    let bf16 = weight.is_some_and(|weight| weight.dtype == DType::Bf16);
    LayerProducts {
        rows,
        weights: vec![
            (hidden, q, bias),
            (hidden, kv, bias),
            (hidden, kv, bias),
            (q, hidden, false),
            (hidden, ffn, false),
            (hidden, ffn, false),
            (ffn, hidden, false),
        ],
        dtype: if bf16 { DType::Bf16 } else { DType::F16 },
        layers: config.n_layers,
    }
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
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_and_deviation(&[4.0]), (4.0, 0.0));
    }
}
