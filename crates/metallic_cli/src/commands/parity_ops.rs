//! `metallic parity --ops`: every op but attention on a device, against the CPU's plain loops.

use std::collections::BTreeMap;
use std::io::{self, Write};

use metallic::dispatch::Policies;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::ops::{self, OpRow};

use crate::args::ParityArgs;
use crate::device;
use crate::error::{Error, Result};

/// Runs every case and prints the failures, with `-v` all, then a line per kernel.
///
/// # Errors
/// [`Error::Parity`] when any case failed.
pub(super) fn run(args: &ParityArgs) -> Result<()> {
    let level = Level::available().into_iter().next().unwrap_or_else(Level::detect);
    let options = CpuOptions { level, ..CpuOptions::default() };
    let reference = CpuDevice::context(options, Policies::default(), Recorder::disabled());
    let target = device::open(&args.backend)?;
    let mut out = io::stdout().lock();
    let mut broken = None;
    let rows = ops::run(&reference, &target, args.quick, &mut |row| {
        if (args.backend.verbose || row.failure.is_some()) && broken.is_none() {
            broken = print_row(&mut out, row).err();
        }
    });
    if let Some(error) = broken {
        return Err(Error::Output(error));
    }
    let failed = rows.iter().filter(|row| row.failure.is_some()).count();
    summary(&mut out, &rows)?;
    writeln!(out, "\n{} ran, {failed} failed", rows.len())?;
    device::finish(&target)?;
    match failed {
        0 => Ok(()),
        failed => Err(Error::Parity { failed, cases: rows.len() }),
    }
}

fn print_row(out: &mut impl Write, row: &OpRow) -> io::Result<()> {
    let result = if row.failure.is_none() { "ok" } else { "FAILED" };
    writeln!(out, "{result:<6} {:>9.3}  {:<18} {}", row.worst_ratio, row.kernel, row.case)?;
    match &row.failure {
        Some(failure) => writeln!(out, "       {failure}"),
        None => Ok(()),
    }
}

/// One line per op and kernel: how many cases, and the one nearest to its bound.
fn summary(out: &mut impl Write, rows: &[OpRow]) -> io::Result<()> {
    let mut groups: BTreeMap<(&str, &str), Vec<&OpRow>> = BTreeMap::new();
    for row in rows {
        let op = row.case.split(' ').next().unwrap_or_default();
        groups.entry((op, &row.kernel)).or_default().push(row);
    }
    writeln!(
        out,
        "{:<10} {:<18} {:>6} {:>9}  nearest to its bound",
        "op", "kernel", "cases", "/ allowed"
    )?;
    for ((op, kernel), rows) in groups {
        let Some(worst) = rows.iter().max_by(|a, b| a.worst_ratio.total_cmp(&b.worst_ratio)) else {
            continue;
        };
        let (cases, ratio, case) = (rows.len(), worst.worst_ratio, &worst.case);
        writeln!(out, "{op:<10} {kernel:<18} {cases:>6} {ratio:>9.3}  {case}")?;
    }
    Ok(())
}
