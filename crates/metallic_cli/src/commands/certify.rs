//! The end of `metallic parity --certify`: graphs on the terms of models too, then the file that
//! `auto` looks for.

use std::time::{SystemTime, UNIX_EPOCH};

use metallic::dispatch::Backend;
use metallic_devices::certificate::{Certificate, CertifiedRun};
use metallic_devices::{HiddenKeys, Operands, Terms, metal};
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, Special, minimum, seed};
use metallic_testkit::parity::{self, Report, Target};

use super::parity::forced;
use crate::args::ParityArgs;
use crate::device;
use crate::error::{Error, Result};
use crate::output::note;

/// Refuses a device that needs no certificate, before minutes are spent.
///
/// # Errors
/// [`Error::NoCertificate`], an unknown device.
pub(super) fn check_device(name: &str) -> Result<()> {
    match device::parse(name)? {
        ("metal", _) => Ok(()),
        _ => Err(Error::NoCertificate { device: name.to_owned() }),
    }
}

/// Writes the certificate after `report`, which passed.
///
/// # Errors
/// [`Error::NoCertificate`] for another device or without a graph that ran; [`Error::Parity`]
/// when a case fails on the terms of models; a file that cannot be written.
pub(super) fn run(args: &ParityArgs, report: &Report) -> Result<()> {
    let graph = Backend::Graph.name();
    let ran_on = |row: &parity::Row| row.device.starts_with("metal") && row.backend == graph;
    if !report.rows.iter().any(ran_on) {
        let device = report.rows.first().map_or_else(String::new, |row| row.device.clone());
        return Err(Error::NoCertificate { device });
    }
    // Queries stay in their type: the oracle's tolerance is that of their type.
    let terms = Terms { hidden_keys: HiddenKeys::Finite, operands: Operands::Exact };
    let ctx = forced(device::open_on_terms(&args.backend, terms, Vec::new())?, Backend::Graph);
    let target =
        Target { label: "graph, hidden keys finite", ctx: &ctx, backend: Some(Backend::Graph) };
    let cases: Vec<SdpaCase> =
        [seed(), minimum()].concat().into_iter().filter(keeps_terms).collect();
    let on_terms = parity::run(&[target], &cases, &SdpaTypes::ALL, &mut |_| {});
    if !on_terms.passed() {
        return Err(Error::Parity { failed: on_terms.failed, cases: on_terms.rows.len() });
    }
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let runs = vec![certified("graph", report), certified(target.label, &on_terms)];
    let (machine, dir) = (metal::machine()?, device::certificates()?);
    let path = Certificate::path(&dir, &machine);
    let written = Certificate::new(&machine, time, runs).write(&dir, &machine);
    written.map_err(Error::write(&path))?;
    note!("certificate: {}", path.display());
    Ok(())
}

/// Whether a case keeps what models promise: nothing but finite numbers behind a mask.
fn keeps_terms(case: &SdpaCase) -> bool {
    !matches!(
        case.special,
        Special::PoisonBehindMask | Special::NanInKey | Special::NanInValue | Special::InfInValue
    )
}

/// What of `report` ran as a graph.
fn certified(target: &str, report: &Report) -> CertifiedRun {
    let rows = || report.rows.iter().filter(|row| row.backend == Backend::Graph.name());
    CertifiedRun {
        target: target.to_owned(),
        cases: rows().count(),
        failed: rows().filter(|row| row.failure.is_some()).count(),
        not_run: report.not_run.len(),
        worst_ratio: rows().fold(0.0, |worst: f64, row| worst.max(row.worst_ratio)),
    }
}
