//! Opening the device a command runs on, with its policies and its notebook.

use std::io;
use std::path::Path;

use metallic::Context;
use metallic::config::process_env;
use metallic::dispatch::Policies;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::cuda::CudaDevice;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_devices::{KINDS, Profile};
use metallic_instrumentation::exporter::{ConsoleExporter, Exporter, JsonlExporter};
use metallic_instrumentation::{MetricEvent, Recorder};

use crate::args::BackendArgs;
use crate::error::{Error, Result};
use crate::output::note;
use crate::policy;

/// The context that `args` ask for.
///
/// # Errors
/// A contradiction among policies, an unknown device, a metrics file that cannot be made.
pub(crate) fn open(args: &BackendArgs) -> Result<Context> {
    open_with(args, Vec::new())
}

/// As [`open`], with listeners of the caller's own.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_with(args: &BackendArgs, listeners: Vec<Box<dyn Exporter>>) -> Result<Context> {
    let policies = policy::resolve(args, &process_env)?;
    let (kind, index) = parse(&args.device)?;
    if args.verbose {
        policy::describe(&policies);
    }
    let recorder = recorder(args.metrics.as_deref(), listeners)?;
    if kind != "cpu" && args.threads.is_some() {
        note!("--threads is for the cpu and changes nothing on {kind}");
    }
    let options = DeviceOptions { threads: args.threads, profile: args.profile };
    let context = open_device(kind, index, options, policies, recorder)?;
    if args.verbose {
        note!("device: {} ({})", context.device().id(), context.device().description());
    }
    Ok(context)
}

/// What a device can be told on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceOptions {
    threads: Option<usize>,
    profile: Option<Profile>,
}

/// Device number `index` of kind `kind`, one of [`KINDS`], with its kernels.
///
/// # Errors
/// When there is none, or an option means nothing to it.
pub(crate) fn open_device(
    kind: &str,
    index: u32,
    options: DeviceOptions,
    policies: Policies,
    recorder: Recorder,
) -> Result<Context> {
    match kind {
        "metal" => {
            let profile = options.profile.unwrap_or_default();
            let options = MetalOptions { profile, ..MetalOptions::default() };
            Ok(MetalDevice::context(options, policies, recorder)?)
        }
        _ if options.profile == Some(Profile::Latency) => {
            let expected = format!("throughput on {kind}, where latency has no meaning yet");
            Err(Error::BadFlag { flag: "--profile", got: "latency".into(), expected })
        }
        "cuda" => Ok(CudaDevice::context(index, policies, recorder)?),
        _ => {
            let defaults = CpuOptions::default();
            let threads = options.threads.unwrap_or(defaults.threads);
            Ok(CpuDevice::context(CpuOptions { threads, ..defaults }, policies, recorder))
        }
    }
}

/// Kind and number of a device's name: `cuda` and `cuda:0` are the same.
///
/// # Errors
/// [`Error::UnknownDevice`].
pub(crate) fn parse(name: &str) -> Result<(&'static str, u32)> {
    let unknown = || Error::UnknownDevice { name: name.to_owned(), known: KINDS.join(", ") };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let kind = KINDS.iter().copied().find(|known| *known == kind).ok_or_else(unknown)?;
    let index = index.parse().ok().filter(|index| kind == "cuda" || *index == 0);
    Ok((kind, index.ok_or_else(unknown)?))
}

fn recorder(metrics: Option<&Path>, mut exporters: Vec<Box<dyn Exporter>>) -> Result<Recorder> {
    match metrics {
        None => {}
        Some(path) if path == Path::new("-") => {
            exporters.push(Box::new(ConsoleExporter::new(io::stderr())));
        }
        Some(path) => {
            let exporter = JsonlExporter::create(path).map_err(Error::write(path))?;
            exporters.push(Box::new(exporter));
        }
    }
    Ok(Recorder::new(exporters))
}

/// Ends a context's notebook: the last counters of its caches and memory, then a flush.
///
/// # Errors
/// When an exporter could not write.
pub(crate) fn finish(context: &Context) -> Result<()> {
    let recorder = context.recorder();
    for stats in context.cache().stats() {
        recorder.record(|| stats.summary());
    }
    let memory = context.device().memory();
    recorder.record(|| MetricEvent::MemoryUsage {
        device: context.device().id().to_string(),
        in_use: memory.in_use as u64,
        peak: memory.peak as u64,
    });
    recorder.flush().map_err(|source| Error::Metrics { source })
}
