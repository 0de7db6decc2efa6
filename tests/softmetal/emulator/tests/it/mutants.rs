//! Kernels with one change each, from `tests/softmetal/mutants/msl`: the lane that each names must catch it.
//! Unchanged, the same kernels pass every lane.
//!
//! A mutant's file: `kernel: FILE`, `lane: LANE`, `expect: TEXT OF THE REPORT`, then the text that is
//! replaced between the lines `replace:` and `by:`, and the text that takes its place.

use std::path::Path;
use std::{fs, thread};

use softmetal_emulator::{CompileOptions, Sanitizer};

use crate::cases::{Case, SMALL};
use crate::support::options;

struct Mutant {
    name: String,
    source: String,
    case: Case,
    tolerance: f64,
    lane: String,
    expect: String,
}

fn read(path: &Path) -> Mutant {
    let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let (head, change) =
        text.split_once("replace:\n").unwrap_or_else(|| panic!("{name}: replace:"));
    let (from, to) = change.split_once("by:\n").unwrap_or_else(|| panic!("{name}: by:"));
    // The line break before `by:` and the file's last belong to the format.
    let [from, to] = [from, to].map(|text| text.strip_suffix('\n').unwrap_or(text));
    let field = |key: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{name}: {key}")).trim().to_owned()
    };
    let kernel = field("kernel:");
    let known = SMALL.iter().find(|(file, ..)| *file == kernel);
    let (_, source, case, tolerance) =
        *known.unwrap_or_else(|| panic!("{name}: no case for {kernel}"));
    assert_eq!(source.matches(from).count(), 1, "{name}: the replaced text must occur once");
    let source = source.replacen(from, to, 1);
    let (lane, expect) = (field("lane:"), field("expect:"));
    Mutant { name, source, case, tolerance, lane, expect }
}

/// The options of a lane: `numbers` and `plain` run here, with guard pages and strict simdgroups.
fn lane(name: &str) -> CompileOptions {
    let sanitizer = match name {
        "numbers" | "plain" => None,
        "address" => Some(Sanitizer::Address),
        "undefined" => Some(Sanitizer::Undefined),
        "thread" => Some(Sanitizer::Thread),
        _ => panic!("no lane {name}"),
    };
    CompileOptions { sanitizer, ..options() }
}

/// Why the mutant was not caught as it must be; none where it was.
fn survived(mutant: &Mutant) -> Option<String> {
    let result = (mutant.case)(&mutant.source, &lane(&mutant.lane));
    let caught = match (&result, mutant.lane.as_str()) {
        // NaN is an error beyond any tolerance.
        (Ok(error), "numbers") => error.is_nan() || *error >= mutant.tolerance,
        (Err(report), lane) => lane != "numbers" && report.contains(&mutant.expect),
        (Ok(_), _) => false,
    };
    (!caught).then(|| format!("{} in lane {}: {result:?}", mutant.name, mutant.lane))
}

#[test]
fn every_mutant_is_caught_by_its_lane() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mutants/msl");
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "mutant"));
    paths.sort();
    assert!(paths.len() >= 12, "found {} mutants only", paths.len());
    let halves = paths.chunks(paths.len().div_ceil(2));
    let alive: Vec<String> = thread::scope(|scope| {
        let half = |paths: &'_ [std::path::PathBuf]| {
            paths.iter().filter_map(|path| survived(&read(path))).collect::<Vec<_>>()
        };
        let running: Vec<_> = halves.map(|paths| scope.spawn(move || half(paths))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(alive.is_empty(), "{}", alive.join("\n"));
}

#[test]
fn unchanged_kernels_pass_every_lane() {
    for (file, source, case, tolerance) in SMALL {
        for name in ["plain", "address", "undefined", "thread"] {
            let error = case(source, &lane(name))
                .unwrap_or_else(|error| panic!("{file} in {name}: {error}"));
            assert!(error < tolerance, "{file} in {name}: {error}");
        }
    }
}
