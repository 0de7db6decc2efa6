//! `metallic devices`: what can run here, and with which kernels.

use std::collections::BTreeMap;
use std::io::{self, Write};

use metallic::Context;
use metallic::dispatch::Policies;
use metallic_devices::KINDS;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cuda::{self, CudaDevice};
use metallic_instrumentation::Recorder;
use serde_json::json;

use crate::args::DevicesArgs;
use crate::device::{self, DeviceOptions};
use crate::error::Result;
use crate::output::print_json;

/// Lists the devices.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn run(args: &DevicesArgs) -> Result<()> {
    let options = DeviceOptions::from_env()?;
    let opened = KINDS.iter().flat_map(|&kind| {
        let count = if kind == "cuda" { CudaDevice::count() } else { 1 };
        (0..count).map(move |index| {
            let (policies, recorder) = (Policies::default(), Recorder::disabled());
            let name = format!("{kind}:{index}");
            (name, device::open_device(kind, index, options, policies, recorder))
        })
    });
    let with_cuda = KINDS.contains(&"cuda");
    if args.json {
        let devices: Vec<_> = opened
            .map(|(name, opened)| match opened {
                Ok(ctx) => json!({
                    "device": ctx.device().id().to_string(),
                    "description": ctx.device().description(),
                    "kernels": kernels(&ctx),
                }),
                Err(error) => json!({ "device": name, "error": error.to_string() }),
            })
            .collect();
        let mut all = json!({ "devices": devices });
        if with_cuda {
            all["cuda_libraries"] = cuda::libraries().iter().map(library).collect();
        }
        return print_json(&all);
    }
    let mut out = io::stdout().lock();
    for (name, opened) in opened {
        let ctx = match opened {
            Ok(ctx) => ctx,
            Err(error) => {
                writeln!(out, "{name}  cannot be opened: {error}")?;
                continue;
            }
        };
        writeln!(out, "{}  {}", ctx.device().id(), ctx.device().description())?;
        if ctx.device().id().kind == "cpu" {
            let levels: Vec<_> = Level::available().map(Level::name).collect();
            writeln!(out, "  levels for --cpu-level: {}", levels.join(", "))?;
        }
        for (op, backends) in kernels(&ctx) {
            let backends: Vec<String> = backends
                .iter()
                .map(|(backend, variants)| format!("{backend} ({})", variants.join(", ")))
                .collect();
            writeln!(out, "  {op:<15} {}", backends.join("; "))?;
        }
    }
    if with_cuda {
        writeln!(out, "libraries of NVIDIA's")?;
        for found in cuda::libraries() {
            writeln!(out, "  {found}")?;
        }
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
