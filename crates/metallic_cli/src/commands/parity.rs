//! `metallic parity`: every backend against the f64 oracle, summed up per element types; every case
//! with `-v` and in the JSON.

use std::io::{self, Write};
use std::path::Path;

use metallic::Context;
use metallic::dispatch::{Backend, Policy, PolicyChoice, PolicySource};
use metallic::op::{Op, Sdpa};
use metallic::segment::{AttentionBlock, MlpBlock};
use metallic_testkit::cases::block::blocks;
use metallic_testkit::cases::sdpa::{SdpaTypes, minimum, quick, seed};
use metallic_testkit::parity::{self, Progress, Report, Row, Target};

use super::certify;
use super::parity_ops;
use crate::args::ParityArgs;
use crate::aside::Aside;
use crate::device;
use crate::error::{Error, Result};
use crate::output::note;

/// Runs the matrix and prints it as a table.
///
/// # Errors
/// [`Error::Parity`] when any case failed or none ran; a report that cannot be written.
pub(super) fn run(args: &ParityArgs) -> Result<()> {
    if args.ops {
        return parity_ops::run(args);
    }
    if args.certify {
        certify::check_device(&args.backend.device)?;
    }
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let report_file = args.json.as_deref().filter(|_| !to_stdout);
    // A report that cannot be written should not cost minutes first.
    let file = report_file.map(Aside::new).transpose()?;
    let contexts = contexts(args)?;
    let targets: Vec<Target<'_>> = contexts
        .iter()
        .map(|(backend, ctx)| Target { label: backend.name(), ctx, backend: Some(*backend) })
        .collect();
    let cases = if args.quick { quick() } else { [seed(), minimum()].concat() };
    let mut out = io::stdout().lock();
    let mut failure = None;
    if args.backend.verbose && !to_stdout {
        header(&mut out)?;
    }
    let mut show = |progress: Progress<'_>| {
        // Thousands of rows hide the one that matters: only failures, unless asked for.
        if let (Progress::Ran(row), false) = (progress, to_stdout)
            && (args.backend.verbose || row.failure.is_some())
            && failure.is_none()
        {
            failure = print_row(&mut out, row).err();
        }
    };
    let mut report = parity::run(&targets, &cases, &SdpaTypes::ALL, &mut show);
    report.extend(parity::run_blocks(&targets, &blocks(), &mut show));
    if let Some(failure) = failure {
        return Err(Error::Output(failure));
    }
    if to_stdout {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        summary(&mut out, &report)?;
    }
    if let Some(file) = file {
        file.finish(|to| {
            let mut to = io::BufWriter::new(to);
            serde_json::to_writer_pretty(&mut to, &report)?;
            writeln!(to)?;
            to.flush()
        })?;
    }
    for (_, ctx) in &contexts {
        device::finish(ctx)?;
    }
    if report.passed() {
        return if args.certify { certify::run(args, &report) } else { Ok(()) };
    }
    Err(Error::Parity { failed: report.failed, cases: report.rows.len() })
}

/// One context per backend to try, with that backend forced.
fn contexts(args: &ParityArgs) -> Result<Vec<(Backend, Context)>> {
    let mut contexts = Vec::new();
    for backend in Backend::ALL {
        let ctx = device::open(&args.backend)?;
        let asked = ctx.registry().policies().choice(Sdpa::ID).0.policy;
        if asked != Policy::Auto && asked != Policy::Force(backend) {
            note!("{backend} is not run: only {asked} was asked for");
            continue;
        }
        if ctx.registry().policies().required(Sdpa::ID).is_some_and(|required| required != backend)
        {
            note!("{backend} is not run: --require-backend asks for the other");
            continue;
        }
        contexts.push((backend, forced(ctx, backend)));
    }
    Ok(contexts)
}

/// `ctx` with `backend` demanded.
pub(super) fn forced(mut ctx: Context, backend: Backend) -> Context {
    let mut policies = ctx.registry().policies().clone();
    let source = PolicySource::Flag("metallic parity");
    let choice = PolicyChoice { policy: Policy::Force(backend), source };
    for op in [Sdpa::ID, AttentionBlock::ID, MlpBlock::ID] {
        policies.ops.insert(op, choice.clone());
    }
    policies.required.remove(Sdpa::ID);
    ctx.registry_mut().set_policies(policies);
    ctx
}

fn header(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<6} {:<15} {:<7} {:<9} {:>10} {:>9} {:>10}  case",
        "result", "op", "backend", "types", "max error", "/ allowed", "µs"
    )
}

fn print_row(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let result = if row.failure.is_none() { "ok" } else { "FAILED" };
    writeln!(
        out,
        "{result:<6} {:<15} {:<7} {:<9} {:>10.2e} {:>9.3} {:>10.0}  {}",
        row.op, row.backend, row.types, row.max_abs, row.worst_ratio, row.us, row.case
    )?;
    match &row.failure {
        Some(failure) => writeln!(out, "       {failure}"),
        None => Ok(()),
    }
}

/// One line per op, backend and types: how many cases, and the one nearest to its bound.
fn table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "{:<15} {:<7} {:<9} {:>6} {:>7} {:>10} {:>9}  nearest to its bound",
        "op", "backend", "types", "cases", "failed", "max error", "/ allowed"
    )?;
    let group = |row: &Row| (row.op, row.backend.clone(), row.types.clone());
    let mut groups = Vec::new();
    for row in &report.rows {
        if !groups.contains(&group(row)) {
            groups.push(group(row));
        }
    }
    // Blocks after attention, as they ran; the order of types is that of the list.
    groups.sort_by_key(|(op, backend, _)| (*op != Sdpa::ID, *op, backend.clone()));
    for of_group in groups {
        let rows = || report.rows.iter().filter(|row| group(row) == of_group);
        let failed = rows().filter(|row| row.failure.is_some()).count();
        let max_abs = rows().fold(0.0, |most: f64, row| most.max(row.max_abs));
        let Some(worst) = rows().max_by(|a, b| a.worst_ratio.total_cmp(&b.worst_ratio)) else {
            continue;
        };
        let (cases, ratio, case) = (rows().count(), worst.worst_ratio, &worst.case);
        let (op, backend, types) = &of_group;
        writeln!(
            out,
            "{op:<15} {backend:<7} {types:<9} {cases:>6} {failed:>7} {max_abs:>10.2e} \
             {ratio:>9.3}  {case}"
        )?;
    }
    Ok(())
}

fn summary(out: &mut impl Write, report: &Report) -> io::Result<()> {
    table(out, report)?;
    if !report.not_run.is_empty() {
        writeln!(out, "\nnot run")?;
        for case in &report.not_run {
            let (op, types, target) = (case.op, &case.types, &case.target);
            writeln!(out, "  {op} {target} {types} {}: {}", case.case, case.reason)?;
        }
    }
    let worst = report.rows.iter().fold(0.0, |worst: f64, row| worst.max(row.worst_ratio));
    writeln!(
        out,
        "\n{} ran, {} failed, {} not run; the largest error is {worst:.3} of the allowed one",
        report.rows.len(),
        report.failed,
        report.not_run.len()
    )
}
