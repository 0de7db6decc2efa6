//! A dispatch in a process of its own, whose main program is linked with a sanitizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache;
use crate::function::Shape;
use crate::options::{CompileOptions, Sanitizer};
use crate::regions::regions;

/// How much of a report is passed on, in bytes.
const REPORT_BYTES: usize = 8000;
/// The sanitizers' exit status after a finding.
const FOUND: &str = "66";

/// What the process runs, beside the dispatch itself.
pub(crate) struct Program<'a> {
    pub(crate) sanitizer: Sanitizer,
    pub(crate) runner: &'a Path,
    pub(crate) library: &'a Path,
    pub(crate) kernel: &'a str,
    pub(crate) constants: &'a [(u32, [u8; 8])],
}

/// Runs the dispatch on copies of the buffers, and copies them back.
///
/// # Errors
/// The sanitizer's report, its summary first; what the runtime finds; a process that fails.
///
/// # Safety
/// Each buffer (index, start, length) is valid for reads and writes, and nobody else uses it meanwhile.
pub(crate) unsafe fn run(
    program: &Program<'_>,
    options: &CompileOptions,
    shape: &Shape,
    buffers: &[(u32, *mut u8, usize)],
) -> Result<(), String> {
    let (regions, places) = regions(buffers);
    let mut input = Input::default();
    input.text("softmetal dispatch 1");
    input.text(&program.library.to_string_lossy());
    input.text(program.kernel);
    input.number(program.constants.len() as u64);
    for (index, value) in program.constants {
        input.number(u64::from(*index));
        input.0.extend(value);
    }
    let (order, seed) = options.order.numbers();
    input.numbers([u64::from(order), seed, u64::from(options.strict), u64::from(options.poison)]);
    for triple in [shape.groups, shape.threads_per_threadgroup, shape.threads] {
        input.numbers([triple.x, triple.y, triple.z].map(u64::from));
    }
    input.numbers(shape.threadgroup_lengths.map(u64::from));
    input.number(regions.len() as u64);
    for region in &regions {
        input.number((region.start.addr() % 64) as u64);
        input.number(region.length as u64);
        // SAFETY: the buffers are valid for reads, and a region is made of buffers only.
        input.0.extend(unsafe { std::slice::from_raw_parts(region.start, region.length) });
    }
    input.number(places.len() as u64);
    for place in &places {
        input.numbers([u64::from(place.index), place.region as u64, place.offset as u64]);
    }

    let work = cache::staging_dir(&options.cache_dir)?;
    let result = call(program, &work, &input.0);
    // What stays behind is only room on the disk.
    _ = fs::remove_dir_all(&work);
    let output = result?;
    let mut rest = message(&output)?;
    for region in &regions {
        let (bytes, after) =
            rest.split_at_checked(region.length).ok_or("softmetal-run: a short answer")?;
        // SAFETY: the buffers are valid for writes; a buffer that the kernel cannot write to is written with
        // the bytes that it has.
        unsafe { region.start.copy_from_nonoverlapping(bytes.as_ptr(), region.length) };
        rest = after;
    }
    Ok(())
}

/// The dispatch as bytes.
#[derive(Default)]
struct Input(Vec<u8>);

impl Input {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }
}

/// Runs the process in the folder `work` and gives what it wrote.
fn call(program: &Program<'_>, work: &Path, input: &[u8]) -> Result<Vec<u8>, String> {
    let paths: [PathBuf; 2] = ["in", "out"].map(|name| work.join(name));
    fs::write(&paths[0], input).map_err(|error| format!("{}: {error}", paths[0].display()))?;
    let common = format!(
        "exitcode={FOUND}:symbolize=1:external_symbolizer_path=/usr/bin/llvm-symbolizer-19"
    );
    let (variable, specific) = match program.sanitizer {
        Sanitizer::Address => ("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0"),
        Sanitizer::Undefined => ("UBSAN_OPTIONS", "print_stacktrace=0:halt_on_error=1"),
        Sanitizer::Thread => ("TSAN_OPTIONS", "halt_on_error=0:history_size=4"),
    };
    let output = Command::new(program.runner)
        .args(&paths)
        .env(variable, format!("{common}:{specific}"))
        .output();
    let output = output.map_err(|error| format!("{}: {error}", program.runner.display()))?;
    if !output.status.success() {
        return Err(report(program.sanitizer, &String::from_utf8_lossy(&output.stderr)));
    }
    fs::read(&paths[1]).map_err(|error| format!("{}: {error}", paths[1].display()))
}

/// The sanitizer's summary, then its report as far as it fits.
fn report(sanitizer: Sanitizer, stderr: &str) -> String {
    let summary = stderr.lines().find_map(|line| line.strip_prefix("SUMMARY: "));
    let end = (0..=stderr.len().min(REPORT_BYTES))
        .rev()
        .find(|at| stderr.is_char_boundary(*at))
        .unwrap_or(0);
    format!(
        "{sanitizer:?} sanitizer: {}\n{}",
        summary.unwrap_or("the process failed"),
        &stderr[..end]
    )
}

/// Splits the runtime's message off the answer: an error where there is one.
fn message(output: &[u8]) -> Result<&[u8], String> {
    let (length, rest) = output.split_first_chunk::<8>().ok_or("softmetal-run: an empty answer")?;
    let length = u64::from_le_bytes(*length) as usize;
    let (message, rest) = rest.split_at_checked(length).ok_or("softmetal-run: a short answer")?;
    if message.is_empty() { Ok(rest) } else { Err(String::from_utf8_lossy(message).into_owned()) }
}
