//! `metallic devices`: what can run here, and with which kernels.

use std::collections::BTreeMap;
use std::io::{self, Write};

use metallic::Context;
use metallic::dispatch::Policies;
use metallic_devices::KINDS;
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
    let opened = KINDS.iter().map(|&kind| {
        let options = DeviceOptions::default();
        (kind, device::open_device(kind, options, Policies::default(), Recorder::disabled()))
    });
    if args.json {
        let devices: Vec<_> = opened
            .map(|(kind, opened)| match opened {
                Ok(ctx) => json!({
                    "device": ctx.device().id().to_string(),
                    "description": ctx.device().description(),
                    "kernels": kernels(&ctx),
                }),
                Err(error) => json!({ "device": kind, "error": error.to_string() }),
            })
            .collect();
        return print_json(&json!({ "devices": devices }));
    }
    let mut out = io::stdout().lock();
    for (kind, opened) in opened {
        let ctx = match opened {
            Ok(ctx) => ctx,
            Err(error) => {
                writeln!(out, "{kind}  cannot be opened: {error}")?;
                continue;
            }
        };
        writeln!(out, "{}  {}", ctx.device().id(), ctx.device().description())?;
        for (op, backends) in kernels(&ctx) {
            let backends: Vec<String> = backends
                .iter()
                .map(|(backend, variants)| format!("{backend} ({})", variants.join(", ")))
                .collect();
            writeln!(out, "  {op:<12} {}", backends.join("; "))?;
        }
    }
    Ok(())
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
