//! `metallic inspect`: a model's header, its tensors, and the memory it will need.

use std::io::{self, Write};

use metallic::device::Device;
use metallic_devices::cuda::CudaDevice;
use metallic_models::gguf::Value;
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::source::ModelFiles;
use metallic_models::transformer::config::ModelConfig;
use metallic_models::transformer::rope::RopeScaling;
use serde_json::json;

use crate::args::{InspectArgs, ModelArgs};
use crate::error::Result;
use crate::memory::MemoryPlan;
use crate::output::print_json;
use crate::{device, model};

/// Metadata values are shown up to this many characters.
const VALUE_CHARS: usize = 60;

/// Prints what is known of a model without running it.
///
/// # Errors
/// No model, or whatever is wrong with its files.
pub(super) fn run(args: InspectArgs) -> Result<()> {
    let model = ModelArgs { model: args.path.or(args.model.model.clone()), ..args.model };
    let files = model::open(&model)?;
    let config = files.config();
    let context = match args.context.ctx_size {
        None | Some(0) => config.context_length,
        Some(context) => context,
    };
    let cache = args.context.cache(context, 0);
    let (kind, index) = device::parse(&args.device)?;
    let step = args.context.step(kind);
    let memory = MemoryPlan::new(&files, &cache, context, step)?;
    let plan = Plan { context, cache, memory, step, free: free(kind, index) };
    if args.json { print_json(&to_json(&files, &plan)) } else { print(&files, &plan) }
}

/// Memory for a context.
struct Plan {
    context: usize,
    cache: KvCacheOptions,
    memory: MemoryPlan,
    /// Tokens of a prompt in one step.
    step: usize,
    /// What a device has left, or why that is not known; `None` for one that shares memory with
    /// everything else.
    free: Option<Result<u64, String>>,
}

/// Free bytes of a GPU of its own memory.
fn free(kind: &str, index: u32) -> Option<Result<u64, String>> {
    (kind == "cuda").then(|| {
        let gpu = CudaDevice::new(index).map_err(|error| error.to_string())?;
        gpu.free_bytes().ok_or_else(|| "the driver does not say".to_owned())
    })
}

fn to_json(files: &ModelFiles, plan: &Plan) -> serde_json::Value {
    let config = files.config();
    let tensors: Vec<_> = files
        .tensors()
        .iter()
        .map(|tensor| {
            json!({
                "name": tensor.name,
                "dtype": tensor.dtype.name(),
                "shape": tensor.shape,
                "bytes": tensor.byte_len(),
            })
        })
        .collect();
    let metadata: serde_json::Map<String, serde_json::Value> = files
        .gguf_metadata()
        .into_iter()
        .flat_map(|metadata| metadata.iter())
        .map(|(key, value)| (key.to_owned(), json_value(value)))
        .collect();
    json!({
        "name": files.name(),
        "format": files.format(),
        "file_bytes": files.file_bytes(),
        "parameters": files.parameters(),
        "quantization": files.quantization(),
        "architecture": config.architecture.name(),
        "layers": config.n_layers,
        "hidden": config.hidden,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "ffn": config.ffn,
        "vocab": config.vocab,
        "context_length": config.context_length,
        "rms_eps": json_f32(config.rms_eps),
        "rope": rope(config),
        "tied_output": config.tied_output,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "sliding_window": config.sliding_window,
        "memory": {
            "context": plan.context,
            "weights_bytes": plan.memory.weights,
            "kv_cache_bytes": plan.memory.kv_cache,
            "work_bytes": plan.memory.work,
            "step": plan.step,
            "cache_type_k": plan.cache.k_dtype.name(),
            "cache_type_v": plan.cache.v_dtype.name(),
            "total_bytes": plan.memory.total(),
            "free_bytes": plan.free.as_ref().and_then(|free| free.as_ref().ok()),
            "free_unknown": plan.free.as_ref().and_then(|free| free.as_ref().err()),
        },
        "metadata": metadata,
        "tensors": tensors,
    })
}

fn print(files: &ModelFiles, plan: &Plan) -> Result<()> {
    let config = files.config();
    let mut out = io::stdout().lock();
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    writeln!(out, "{} ({})", files.name(), files.format())?;
    writeln!(out, "  architecture    {}", config.architecture)?;
    writeln!(out, "  quantisation    {}", files.quantization())?;
    writeln!(out, "  parameters      {:.2} M", files.parameters() as f64 / 1e6)?;
    writeln!(out, "  file            {}", mb(files.file_bytes()))?;
    writeln!(out, "  layers          {}", config.n_layers)?;
    writeln!(out, "  hidden, ffn     {}, {}", config.hidden, config.ffn)?;
    writeln!(
        out,
        "  heads           {} (keys and values {}), {} wide",
        config.n_heads, config.n_kv_heads, config.head_dim
    )?;
    writeln!(out, "  vocabulary      {}", config.vocab)?;
    writeln!(out, "  context         {}", config.context_length)?;
    writeln!(out, "  rope            {}", rope(config))?;
    if let Some(window) = config.sliding_window {
        writeln!(out, "  sliding window  {window}")?;
    }
    writeln!(
        out,
        "  output          {}",
        if config.tied_output { "tied to the embedding" } else { "its own tensor" }
    )?;
    writeln!(out, "\nmemory for a context of {} tokens", plan.context)?;
    let mapped = if plan.free.is_none() { " (mapped)" } else { "" };
    writeln!(out, "  weights         {}{mapped}", mb(plan.memory.weights))?;
    writeln!(
        out,
        "  KV cache        {} (keys {}, values {})",
        mb(plan.memory.kv_cache),
        plan.cache.k_dtype,
        plan.cache.v_dtype
    )?;
    let (work, step) = (mb(plan.memory.work), plan.step);
    writeln!(out, "  work            {work} (at most, steps of {step} tokens)")?;
    writeln!(out, "  together        {}", mb(plan.memory.total()))?;
    match &plan.free {
        Some(Ok(free)) => {
            let fits = if plan.memory.total() <= *free { "fits" } else { "does not fit" };
            writeln!(out, "  free            {} on the device: {fits}", mb(*free))?;
        }
        Some(Err(reason)) => writeln!(out, "  free            not known: {reason}")?,
        None => {}
    }
    if let Some(metadata) = files.gguf_metadata() {
        writeln!(out, "\nmetadata")?;
        for (key, value) in metadata.iter() {
            writeln!(out, "  {key} = {}", short(value))?;
        }
    }
    writeln!(out, "\ntensors")?;
    for tensor in files.tensors().iter() {
        let (name, dtype, bytes) = (&tensor.name, tensor.dtype, tensor.byte_len());
        writeln!(out, "  {name:<28} {dtype:<7} {:<16} {bytes:>12}", format!("{:?}", tensor.shape))?;
    }
    Ok(())
}

fn rope(config: &ModelConfig) -> String {
    let rope = &config.rope;
    let scaling = match &rope.scaling {
        RopeScaling::None => "no scaling".to_owned(),
        scaling => format!("scaling {scaling:?}"),
    };
    format!("theta {}, {} dims, {scaling}", rope.theta, rope.dims)
}

/// The shortest number that is this f32, not the f64 beside it: 1e-6, not 9.999999974752427e-7.
fn json_f32(value: f32) -> serde_json::Value {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)))
}

/// A value in a line: arrays by length, texts cut.
fn short(value: &Value) -> String {
    let text = match (value, json_value(value)) {
        (Value::Array(_), serde_json::Value::String(kind)) => kind,
        (_, serde_json::Value::String(text)) => format!("{text:?}"),
        (_, other) => other.to_string(),
    };
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A value as JSON; arrays as their type and length, for vocabularies are long.
fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json_f32(*v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(v) => json!(format!("{} [{}]", v.type_name(), v.len())),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
    }
}
