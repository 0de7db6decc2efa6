//! `metallic devices`: what can run here, and with which kernels.

use std::collections::BTreeMap;
use std::io::{self, Write};

use metallic::Context;
use metallic::dispatch::Policies;
use metallic_devices::cuda::{self, CudaDevice};
use metallic_instrumentation::Recorder;
use serde_json::json;

use crate::args::DevicesArgs;
use crate::device;
use crate::error::Result;
use crate::output::print_json;

/// Lists the devices.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let mut contexts = vec![device::open_cpu(None, Policies::default(), Recorder::disabled())];
    let mut unusable = Vec::new();
    for index in 0..CudaDevice::count() {
        match CudaDevice::context(index, Policies::default(), Recorder::disabled()) {
            Ok(ctx) => contexts.push(ctx),
            Err(error) => unusable.push(error.to_string()),
        }
    }
    if args.json {
        let devices: Vec<_> = contexts
            .iter()
            .map(|ctx| {
                json!({
                    "device": ctx.device().id().to_string(),
                    "description": ctx.device().description(),
                    "kernels": kernels(ctx),
                })
            })
            .collect();
        let libraries: Vec<_> = cuda::libraries().iter().map(library).collect();
        return print_json(&json!({
            "devices": devices,
            "unusable": unusable,
            "cuda_libraries": libraries,
        }));
    }
    let mut out = io::stdout().lock();
    for ctx in &contexts {
        writeln!(out, "{}  {}", ctx.device().id(), ctx.device().description())?;
        for (op, backends) in kernels(ctx) {
            let backends: Vec<String> = backends
                .iter()
                .map(|(backend, variants)| format!("{backend} ({})", variants.join(", ")))
                .collect();
            writeln!(out, "  {op:<12} {}", backends.join("; "))?;
        }
    }
    for error in unusable {
        writeln!(out, "{error}")?;
    }
    writeln!(out, "libraries of NVIDIA's")?;
    for found in cuda::libraries() {
        writeln!(out, "  {found}")?;
    }
    Ok(())
}

/// A library as JSON: version and place, or what is missing.
fn library(found: &cuda::Found) -> serde_json::Value {
    let name = found.component.name();
    match &found.state {
        Ok(presence) => {
            json!({ "name": name, "version": presence.version, "place": presence.place })
        }
        Err(reason) => json!({ "name": name, "missing": reason }),
    }
}

type Kernels = BTreeMap<&'static str, BTreeMap<&'static str, Vec<&'static str>>>;

/// Variants by op and backend.
fn kernels(ctx: &Context) -> Kernels {
    let mut kernels = Kernels::new();
    for &(op, backend, variant) in ctx.registry().listing() {
        kernels.entry(op).or_default().entry(backend.name()).or_default().push(variant);
    }
    kernels
}
