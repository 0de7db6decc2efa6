//! `metallic bench limits`: what the machine can do at most, for the share that others reach.

use std::io::{self, Write};

use metallic_devices::cpu::limits::Limits;
use metallic_devices::cpu::pool::ThreadPool;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use serde_json::{Value, json};

use crate::args::{BackendArgs, BenchLimitsArgs};
use crate::device;
use crate::error::{Error, Result};
use crate::output::print_json;

/// Measures and prints the limits of the CPU, for each number of threads.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn run(args: &BenchLimitsArgs) -> Result<()> {
    let all = CpuOptions::default().threads;
    let mut threads: Vec<usize> = match &args.threads {
        Some(list) => list.0.clone(),
        None => vec![1, all],
    };
    threads.dedup();
    let options = CpuOptions { level: level(None)?, ..CpuOptions::default() };
    let limits: Vec<Limits> =
        threads.into_iter().map(|threads| measure(threads, options.level)).collect();
    if args.json {
        return print_json(&Value::Array(limits.iter().map(to_json).collect()));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", metallic::device::Device::description(&CpuDevice::new(options)))?;
    writeln!(out, "| threads | f32 GFLOP/s | int8 GOP/s | memory read GB/s |")?;
    writeln!(out, "|---:|---:|---:|---:|")?;
    for limits in &limits {
        let int8 = limits.int8_gops.map_or_else(|| "-".to_owned(), |gops| format!("{gops:.0}"));
        let Limits { threads, f32_gflops, read_gbytes, .. } = limits;
        writeln!(out, "| {threads} | {f32_gflops:.0} | {int8} | {read_gbytes:.1} |")?;
    }
    Ok(())
}

/// The limits of the device that `args` name.
///
/// # Errors
/// [`Error::NoLimits`] for another device than the CPU.
pub(super) fn of(args: &BackendArgs) -> Result<Limits> {
    if args.device != "cpu" && args.device != "cpu:0" {
        return Err(Error::NoLimits { device: args.device.clone() });
    }
    let threads = args.threads.unwrap_or(CpuOptions::default().threads);
    Ok(measure(threads, level(args.cpu_level.as_deref())?))
}

/// As JSON, to be kept beside results.
pub(super) fn to_json(limits: &Limits) -> Value {
    json!({
        "threads": limits.threads,
        "f32_gflops": limits.f32_gflops,
        "int8_gops": limits.int8_gops,
        "read_gbytes_per_second": limits.read_gbytes,
    })
}

/// The level that was asked for, or the machine's.
fn level(flag: Option<&str>) -> Result<Level> {
    Ok(device::cpu_level(flag)?.unwrap_or_else(Level::detect))
}

fn measure(threads: usize, level: Level) -> Limits {
    Limits::measure(&ThreadPool::new(threads), level)
}
