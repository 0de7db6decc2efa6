//! `metallic bench limits`: what the machine can do at most, for the share that others reach.

use std::io::{self, Write};

use metallic::device::Device;
use metallic_devices::cpu::limits::Limits;
use metallic_devices::cpu::pool::ThreadPool;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::cuda::{self, CudaDevice};
use serde_json::{Value, json};

use crate::args::{BackendArgs, BenchLimitsArgs};
use crate::device;
use crate::error::{Error, Result};
use crate::output::print_json;

/// The limits of one device.
pub(super) enum DeviceLimits {
    Cpu(Limits),
    Cuda(CudaDevice, cuda::limits::Limits),
}

/// Measures and prints the limits of the CPU, for each number of threads, or of a GPU.
///
/// # Errors
/// When standard output cannot be written, or there is no such device.
pub(super) fn run(args: &BenchLimitsArgs) -> Result<()> {
    let (kind, index) = device::parse(&args.device)?;
    let limits: Vec<DeviceLimits> = match kind {
        "cuda" => vec![cuda_limits(index)?],
        "cpu" => {
            let all = CpuOptions::default().threads;
            let mut threads: Vec<usize> =
                args.threads.as_ref().map_or_else(|| vec![1, all], |list| list.0.clone());
            threads.dedup();
            let level = level(None)?;
            threads.into_iter().map(|threads| DeviceLimits::Cpu(measure(threads, level))).collect()
        }
        _ => return Err(Error::NoLimits { device: args.device.clone() }),
    };
    if args.json {
        return print_json(&Value::Array(limits.iter().map(DeviceLimits::to_json).collect()));
    }
    let mut out = io::stdout().lock();
    for (index, limits) in limits.iter().enumerate() {
        match limits {
            DeviceLimits::Cpu(Limits { threads, f32_gflops, int8_gops, read_gbytes }) => {
                if index == 0 {
                    let options = CpuOptions { level: level(None)?, ..CpuOptions::default() };
                    let cpu = CpuDevice::new(options);
                    writeln!(out, "{}", cpu.description())?;
                    writeln!(out, "| threads | f32 GFLOP/s | int8 GOP/s | memory read GB/s |")?;
                    writeln!(out, "|---:|---:|---:|---:|")?;
                }
                let int8 = int8_gops.map_or_else(|| "-".to_owned(), |gops| format!("{gops:.0}"));
                writeln!(out, "| {threads} | {f32_gflops:.0} | {int8} | {read_gbytes:.1} |")?;
            }
            DeviceLimits::Cuda(gpu, cuda::limits::Limits { copy_gbytes, f16_gflops }) => {
                writeln!(out, "{}", gpu.description())?;
                writeln!(out, "| f16 products, GFLOP/s | copy, read and written, GB/s |")?;
                writeln!(out, "|---:|---:|")?;
                writeln!(out, "| {f16_gflops:.0} | {copy_gbytes:.0} |")?;
            }
        }
    }
    Ok(())
}

/// The limits of the device that `args` name.
///
/// # Errors
/// [`Error::NoLimits`] for another device than the CPU or a GPU of NVIDIA's.
pub(super) fn of(args: &BackendArgs) -> Result<DeviceLimits> {
    match device::parse(&args.device)? {
        ("cpu", _) => {
            let threads = args.threads.unwrap_or(CpuOptions::default().threads);
            Ok(DeviceLimits::Cpu(measure(threads, level(args.cpu_level.as_deref())?)))
        }
        ("cuda", index) => cuda_limits(index),
        _ => Err(Error::NoLimits { device: args.device.clone() }),
    }
}

impl DeviceLimits {
    /// The shortest time that `flops` operations over `bytes` of memory can take, in seconds, and
    /// which of the two it is bound by.
    pub(super) fn floor(&self, flops: f64, bytes: f64) -> (f64, &'static str) {
        match self {
            DeviceLimits::Cpu(limits) => limits.floor(flops, bytes),
            DeviceLimits::Cuda(_, limits) => limits.floor(flops, bytes),
        }
    }

    /// As JSON, to be kept beside results.
    pub(super) fn to_json(&self) -> Value {
        match self {
            DeviceLimits::Cpu(limits) => json!({
                "threads": limits.threads,
                "f32_gflops": limits.f32_gflops,
                "int8_gops": limits.int8_gops,
                "read_gbytes_per_second": limits.read_gbytes,
            }),
            DeviceLimits::Cuda(gpu, limits) => json!({
                "device": gpu.id().to_string(),
                "f16_gflops": limits.f16_gflops,
                "copy_gbytes_per_second": limits.copy_gbytes,
            }),
        }
    }
}

fn cuda_limits(index: u32) -> Result<DeviceLimits> {
    let gpu = CudaDevice::new(index)?;
    let limits = gpu.limits()?;
    Ok(DeviceLimits::Cuda(gpu, limits))
}

/// The level that was asked for, or the machine's.
fn level(flag: Option<&str>) -> Result<Level> {
    Ok(device::cpu_level(flag)?.unwrap_or_else(Level::detect))
}

fn measure(threads: usize, level: Level) -> Limits {
    Limits::measure(&ThreadPool::new(threads), level)
}
