//! Opening the device a command runs on, with its policies and its notebook.

use std::io;
use std::path::Path;

use metallic::Context;
use metallic::config::process_env;
use metallic::dispatch::Policies;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::cuda::CudaDevice;
use metallic_instrumentation::exporter::{ConsoleExporter, Exporter, JsonlExporter};
use metallic_instrumentation::{MetricEvent, Recorder};

use crate::args::BackendArgs;
use crate::error::{Error, Result};
use crate::output::note;
use crate::policy;

/// The kinds of device of this build, as `--device` names them.
pub(crate) const KINDS: [&str; 2] = ["cpu", "cuda"];

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
    let context = match kind {
        "cuda" => CudaDevice::context(index, policies, recorder)?,
        _ => open_cpu(args.threads, policies, recorder),
    };
    if args.verbose {
        note!("device: {} ({})", context.device().id(), context.device().description());
    }
    Ok(context)
}

/// The CPU with its kernels.
pub(crate) fn open_cpu(threads: Option<usize>, policies: Policies, recorder: Recorder) -> Context {
    let defaults = CpuOptions::default();
    let options = CpuOptions { threads: threads.unwrap_or(defaults.threads), ..defaults };
    CpuDevice::context(options, policies, recorder)
}

/// Kind and number of a device's name: `cuda` and `cuda:0` are the same.
///
/// # Errors
/// [`Error::UnknownDevice`].
pub(crate) fn parse(name: &str) -> Result<(&'static str, u32)> {
    let unknown = || Error::UnknownDevice { name: name.to_owned(), known: KINDS.join(", ") };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    let kind = KINDS.into_iter().find(|known| *known == kind).ok_or_else(unknown)?;
    let index = index.parse().ok().filter(|index| kind != "cpu" || *index == 0);
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
