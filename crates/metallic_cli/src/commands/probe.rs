//! `metallic probe`: asks a device what no document says, each question in a process of its own,
//! and writes the answers to a file named after the GPU and the system's build.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use metallic_devices::certificate::Machine;
use metallic_devices::metal;
use metallic_devices::probe::{Finding, Probe, Verdict};
use serde_json::{Value, json};

use crate::args::ProbeArgs;
use crate::aside::Aside;
use crate::device;
use crate::error::{Error, Result};
use crate::output::{note, print_json};

/// Version of the report's layout.
const SCHEMA: u32 = 1;
/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Asks everything, or one thing in this very process.
///
/// # Errors
/// No such device or probe; a report that cannot be written.
pub(super) fn run(args: &ProbeArgs) -> Result<()> {
    if args.device != "metal" && args.device != "metal:0" {
        let (got, expected) = (args.device.clone(), "metal, the one that is asked".to_owned());
        return Err(Error::BadFlag { flag: "--device", got, expected });
    }
    device::parse(&args.device)?;
    if let Some(name) = &args.only {
        let finding = metal::probe::run(name)?;
        return print_json(&serde_json::to_value(&finding)?);
    }
    let machine = metal::machine()?;
    let path = match &args.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("metallic-probe-{}.json", machine.file_stem())),
    };
    let file = Aside::new(&path)?;
    let mut findings = Vec::new();
    for probe in metal::probe::PROBES {
        let finding = ask(probe, Duration::from_secs(args.timeout))?;
        note!("{:<10} {:<15} {}", finding.verdict.to_string(), probe.name, finding.seen);
        findings.push((probe, finding));
    }
    let report = report(&machine, &findings);
    file.finish(|to| {
        let mut to = io::BufWriter::new(to);
        serde_json::to_writer_pretty(&mut to, &report)?;
        writeln!(to)?;
        to.flush()
    })?;
    note!("report: {}", path.display());
    if args.json { print_json(&report) } else { Ok(()) }
}

fn report(machine: &Machine, findings: &[(&Probe, Finding)]) -> Value {
    let findings: Vec<Value> = findings
        .iter()
        .map(|(probe, finding)| {
            json!({
                "probe": probe.name,
                "question": probe.question,
                "verdict": finding.verdict,
                "seen": finding.seen,
            })
        })
        .collect();
    json!({
        "schema": SCHEMA,
        "program": env!("CARGO_PKG_VERSION"),
        "os": machine.os,
        "build": machine.build,
        "chip": machine.chip,
        "findings": findings,
    })
}

/// One question, in a child that may end as it likes.
fn ask(probe: &Probe, limit: Duration) -> Result<Finding> {
    let program = std::env::current_exe().map_err(|source| Error::Child { source })?;
    let mut child = Command::new(program)
        .args(["probe", "--only", probe.name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Child { source })?;
    // Pipes are emptied meanwhile, or a talkative child would wait for us forever.
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let answer = thread::spawn(move || text(stdout));
    let complaint = thread::spawn(move || last_line(stderr));
    let status = wait(&mut child, limit).map_err(|source| Error::Child { source })?;
    let (answer, complaint) =
        (answer.join().unwrap_or_default(), complaint.join().unwrap_or_default());
    let Some(status) = status else {
        let seen = format!("no answer within {} s", limit.as_secs());
        return Ok(Finding::new(Verdict::Aborted, seen));
    };
    match serde_json::from_str::<Finding>(&answer) {
        Ok(finding) if status.success() => Ok(finding),
        _ => Ok(Finding::new(Verdict::Aborted, format!("{}: {complaint}", ending(status)))),
    }
}

/// Waits for the child, and ends it after `limit`: `None` then.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

fn ending(status: ExitStatus) -> String {
    // It names the signal where there is one.
    format!("the process ended with {status}")
}

fn text(from: Option<impl Read>) -> String {
    let mut text = String::new();
    // What cannot be read is no answer.
    let _ = from.map(|mut from| from.read_to_string(&mut text));
    text
}

/// The last line with something in it, with one before: what a crash says of itself.
fn last_line(from: Option<impl Read>) -> String {
    let Some(from) = from else { return String::new() };
    let lines = BufReader::new(from).lines().map_while(io::Result::ok);
    let mut kept: Vec<String> = lines.filter(|line| !line.trim().is_empty()).collect();
    let first = kept.len().saturating_sub(2);
    kept.drain(..first);
    kept.join(" / ")
}
