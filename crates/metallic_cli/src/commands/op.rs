//! `metallic op`: one operation on tensors in files, for comparing with other frameworks.

mod input;

use std::io::Write;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use metallic::Context;
use metallic::op::{Band, Mask, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Record};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::args::OpSdpaArgs;
use crate::aside::Aside;
use crate::error::{Error, Result};
use crate::output::{note, print_json};
use crate::{device, inputs, summary};
use input::Inputs;

/// Runs attention on the tensors of a file.
///
/// # Errors
/// Flags that contradict each other, tensors that are missing or do not fit, an output that cannot
/// be written.
pub(super) fn sdpa(args: &OpSdpaArgs) -> Result<()> {
    let band = band(args)?;
    inputs::check_output("--output", &args.output, std::slice::from_ref(&args.inputs))?;
    let (exporter, events) = ChannelExporter::new();
    let ctx = device::open_with(&args.backend, vec![Box::new(exporter)])?;
    let tensors = Inputs::open(&ctx, &args.inputs)?;
    let (q, k, v) = (tensors.qkv("q")?, tensors.qkv("k")?, tensors.qkv("v")?);
    let kv_lens = tensors.kv_lens(q.shape()[0], k.shape()[2])?;
    let mask = Mask { band, tensor: tensors.mask()? };
    let file = Aside::new(&args.output)?;
    let (qs, vs) = (q.shape(), v.shape());
    let out = ctx.empty(q.dtype(), [qs[0], qs[1], qs[2], vs[3]])?;
    let (scale, softcap) = (args.scale, args.softcap);
    let call = SdpaArgs { q, k, v, mask, kv_lens, scale, softcap, out };
    let start = Instant::now();
    let selection = ctx.run::<Sdpa>(&call)?;
    ctx.device().synchronize()?;
    let total_us = start.elapsed().as_secs_f64() * 1e6;
    write(&ctx, &call.out, file)?;
    if args.json {
        let mut report = timings(&events, total_us);
        for (name, tensor) in input::named(&call) {
            report["tensors"][name] =
                json!({ "shape": tensor.shape().dims(), "dtype": tensor.dtype().name() });
        }
        report["backend"] = json!(selection.backend.name());
        report["variant"] = json!(selection.variant);
        report["reason"] = json!(&*selection.reason);
        report["device"] = json!(ctx.device().id().to_string());
        report["caches"] = json!(summary::caches(&ctx));
        print_json(&report)?;
    } else {
        let (shape, dtype) = (call.out.shape(), call.out.dtype());
        let (backend, variant, reason) = (selection.backend, selection.variant, &selection.reason);
        note!("out {dtype} {shape} by {backend} ({variant}: {reason}) in {total_us:.0} µs");
    }
    device::finish(&ctx)
}

/// The band of visible keys; causal and a window are both in force.
fn band(args: &OpSdpaArgs) -> Result<Band> {
    let right = match (args.causal, args.window_right) {
        (true, _) => Some(0),
        (false, right) => right,
    };
    let band = Band { left: args.window_left, right, offset: args.causal_offset };
    if band.is_open() && args.causal_offset.is_some() {
        let got = "given alone".to_owned();
        let expected = "together with --causal, --window-left or --window-right".to_owned();
        return Err(Error::BadFlag { flag: "--causal-offset", got, expected });
    }
    Ok(band)
}

fn write(ctx: &Context, out: &Tensor, file: Aside) -> Result<()> {
    let bytes = ctx.download(out)?;
    let dtype = match out.dtype() {
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    let failed = |error: safetensors::SafeTensorError| std::io::Error::other(error.to_string());
    file.finish(|to| {
        let view = TensorView::new(dtype, out.shape().to_vec(), &bytes).map_err(failed)?;
        to.write_all(&safetensors::serialize([("out", view)], None).map_err(failed)?)
    })
}

/// Times of the call's parts and what its caches did, from its events.
fn timings(events: &Receiver<Record>, total_us: f64) -> Value {
    let (mut compile_us, mut encode_us) = (0, None);
    let mut accesses = Vec::new();
    for record in events.try_iter() {
        match record.event {
            MetricEvent::InternalKernelCompleted { internal_kernel, duration_us, .. } => {
                match internal_kernel.as_str() {
                    "sdpa_compile" => compile_us += duration_us,
                    "sdpa_encode" => encode_us = Some(encode_us.unwrap_or(0) + duration_us),
                    _ => {}
                }
            }
            MetricEvent::ResourceCacheAccess { cache_key, hit, bytes } => {
                accesses.push(json!({ "cache_key": cache_key, "hit": hit, "bytes": bytes }));
            }
            _ => {}
        }
    }
    let execute_us = total_us - f64::from(u32::try_from(compile_us).unwrap_or(u32::MAX));
    json!({
        "op": "sdpa",
        "backend": null,
        "variant": null,
        "reason": null,
        "device": null,
        "tensors": {},
        "compile_us": compile_us,
        "encode_us": encode_us,
        "execute_us": execute_us.max(0.0),
        "total_us": total_us,
        "cache_events": accesses,
    })
}
