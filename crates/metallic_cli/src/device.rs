//! Opening the device a command runs on, with its policies and its notebook.

use std::io;
use std::path::{Path, PathBuf};

use metallic::Context;
use metallic::config::{self, process_env};
use metallic::dispatch::Policies;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::cuda::CudaDevice;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_devices::{GraphOptions, KINDS, KINDS_ELSEWHERE, Profile, Terms};
use metallic_instrumentation::exporter::{ConsoleExporter, Exporter, JsonlExporter, TimesExporter};
use metallic_instrumentation::{MetricEvent, Recorder};

use crate::args::BackendArgs;
use crate::error::{Error, Result};
use crate::metrics_file::MetricsFile;
use crate::output::note;
use crate::{inputs, policy};

/// The context that `args` ask for.
///
/// # Errors
/// A contradiction among policies, an unknown device, a metrics file that cannot be made.
pub(crate) fn open(args: &BackendArgs) -> Result<Context> {
    open_with(args, Vec::new())
}

/// As [`open`], for models: their own caches hold nothing but finite numbers, and their queries
/// may be rounded to the type of the keys unless `exact`.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_for_model(args: &BackendArgs, exact: bool) -> Result<Context> {
    open_on_terms(args, Terms::of_models(exact), Vec::new())
}

/// As [`open`], with listeners of the caller's own.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_with(args: &BackendArgs, listeners: Vec<Box<dyn Exporter>>) -> Result<Context> {
    open_on_terms(args, Terms::default(), listeners)
}

/// As [`open_with`], with what is promised of the data.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_on_terms(
    args: &BackendArgs,
    terms: Terms,
    listeners: Vec<Box<dyn Exporter>>,
) -> Result<Context> {
    if let Some(metrics) = &args.metrics {
        inputs::check_output("--metrics", metrics, &args.inputs)?;
    }
    let policies = policy::resolve(args, &process_env)?;
    let (kind, index) = parse(&args.device)?;
    if args.verbose {
        policy::describe(&policies).iter().for_each(|line| note!("{line}"));
    }
    let mut listeners = listeners;
    if args.profile == Some(Profile::Latency) {
        listeners.push(Box::new(TimesExporter::new(io::stderr())));
    }
    let recorder = recorder(args.metrics.as_deref(), listeners)?;
    if kind != "cpu" && args.threads.is_some() {
        note!("--threads is for the cpu and changes nothing on {kind}");
    }
    if kind != "cpu" && args.cpu_level.is_some() {
        note!("--cpu-level is for the cpu and changes nothing on {kind}");
    }
    let level = cpu_level(args.cpu_level.as_deref())?;
    let (threads, profile) = (args.threads, args.profile);
    let options = DeviceOptions { threads, level, profile, terms };
    let mut context = open_device(kind, index, options, policies, recorder)?;
    context.begin_request(&args.rollout_key.clone().unwrap_or_else(new_request));
    if args.verbose {
        note!("device: {} ({})", context.device().id(), context.device().description());
    }
    Ok(context)
}

/// A key that no other run has.
fn new_request() -> String {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{} {}", std::process::id(), since.as_nanos())
}

/// What a device can be told on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceOptions {
    threads: Option<usize>,
    level: Option<Level>,
    profile: Option<Profile>,
    terms: Terms,
}

impl DeviceOptions {
    /// What environment and file say where no flag does.
    ///
    /// # Errors
    /// As [`cpu_level`].
    pub(crate) fn from_env() -> Result<Self> {
        Ok(Self { level: cpu_level(None)?, ..Self::default() })
    }
}

/// The level of vector instructions that somebody asked for: `--cpu-level`, environment, file.
///
/// # Errors
/// A name that no level has; a level that this machine lacks.
pub(crate) fn cpu_level(flag: Option<&str>) -> Result<Option<Level>> {
    let Some((level, setting)) = config::cpu_level::<Level>(flag, &process_env)? else {
        return Ok(None);
    };
    if Level::available().any(|here| here == level) {
        return Ok(Some(level));
    }
    let has = Level::available().map(Level::name).collect::<Vec<_>>().join(", ");
    Err(Error::NoCpuLevel { setting, level: level.name(), has })
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
    let profile = options.profile.unwrap_or_default();
    let context = match kind {
        "metal" => {
            let graph = graph_options(options.terms)?;
            let options = MetalOptions { profile, graph, ..MetalOptions::default() };
            MetalDevice::context(options, policies, recorder)?
        }
        "cuda" => CudaDevice::context(index, profile, policies, recorder)?,
        _ => {
            let defaults = CpuOptions::default();
            let threads = options.threads.unwrap_or(defaults.threads);
            let level = options.level.unwrap_or(defaults.level);
            let context = CpuDevice::context(CpuOptions { threads, level }, policies, recorder);
            if profile == Profile::Latency { context.timing_ops() } else { context }
        }
    };
    context.registry().check_engine().map_err(|error| policy::of_key(error, &context))?;
    Ok(context)
}

/// Kind and number of a device's name: `cuda` and `cuda:0` are the same.
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::DeviceElsewhere`].
pub(crate) fn parse(name: &str) -> Result<(&'static str, u32)> {
    let unknown = || Error::UnknownDevice { name: name.to_owned(), known: KINDS.join(", ") };
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    if let Some((_, system)) = KINDS_ELSEWHERE.iter().find(|(other, _)| *other == kind) {
        return Err(Error::DeviceElsewhere { name: name.to_owned(), system });
    }
    let kind = KINDS.iter().copied().find(|known| *known == kind).ok_or_else(unknown)?;
    let index = index.parse().ok().filter(|index| kind == "cuda" || *index == 0);
    Ok((kind, index.ok_or_else(unknown)?))
}

/// How graphs are compiled here, by the environment.
fn graph_options(terms: Terms) -> Result<GraphOptions> {
    let dir = config::cache_dir(&process_env);
    let within = |name: &str| dir.as_ref().map(|dir| dir.join(name));
    let defaults = GraphOptions::default();
    let lengths = config::graph_lengths(&process_env)?.unwrap_or(defaults.lengths);
    let (packages, certificates) = (within("mpsgraph"), within(CERTIFICATES));
    Ok(GraphOptions { terms, lengths, packages, certificates, ..defaults })
}

/// Where certificates lie.
///
/// # Errors
/// [`Error::NoCacheDir`] without a home.
pub(crate) fn certificates() -> Result<PathBuf> {
    let dir = config::cache_dir(&process_env).ok_or(Error::NoCacheDir)?;
    Ok(dir.join(CERTIFICATES))
}

/// The folder of certificates in the cache.
const CERTIFICATES: &str = "certificates";

fn recorder(metrics: Option<&Path>, mut exporters: Vec<Box<dyn Exporter>>) -> Result<Recorder> {
    match metrics {
        None => {}
        Some(path) if path == Path::new("-") => {
            exporters.push(Box::new(ConsoleExporter::new(io::stderr())));
        }
        Some(path) => {
            let file = MetricsFile::open(path).map_err(Error::write(path))?;
            exporters.push(Box::new(JsonlExporter::new(file)));
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
