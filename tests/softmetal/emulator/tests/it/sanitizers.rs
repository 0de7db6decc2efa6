//! Each sanitizer finds what it is for, names the line, and says nothing about right kernels.

use softmetal_emulator::{CompileOptions, Grid, Sanitizer};

use crate::support::{Bytes, dispatch, function, options};

const SOURCE: &str = include_str!("../kernels/wrong.metal");

fn run(kernel: &str, sanitizer: Sanitizer, threads: u32) -> Result<Vec<u32>, String> {
    let options = CompileOptions { sanitizer: Some(sanitizer), ..options() };
    let kernel = function(SOURCE, kernel, &[], &options);
    let mut buffers = [Bytes::zeros(64 * 4), Bytes::u32(&(0..64).collect::<Vec<u32>>())];
    dispatch(&kernel, &mut buffers, &[], Grid::Threadgroups([2, 1, 1]), [threads, 1, 1])?;
    Ok(buffers[0].to_u32())
}

/// The line of the source that holds `mark`.
fn line(mark: &str) -> String {
    let at =
        SOURCE.lines().position(|line| line.contains(mark)).expect("the mark is in the source");
    format!("program_source:{}", at + 1)
}

#[test]
fn right_kernels_pass_every_sanitizer() {
    for sanitizer in [Sanitizer::Address, Sanitizer::Undefined, Sanitizer::Thread] {
        let expected: Vec<u32> = (0..64).map(|i| i / 32 * 32 + 31 - i % 32).collect();
        assert_eq!(run("reverse_groups", sanitizer, 32).unwrap(), expected, "{sanitizer:?}");
    }
}

#[test]
fn the_thread_sanitizer_finds_races() {
    for (kernel, mark) in [
        ("no_barrier", "RACE 1"),
        ("barrier_without_fence", "RACE 2"),
        ("groups_collide", "RACE 3"),
    ] {
        let report = run(kernel, Sanitizer::Thread, 32).unwrap_err();
        assert!(report.contains("data race") && report.contains(&line(mark)), "{kernel}: {report}");
    }
}

#[test]
fn the_address_sanitizer_finds_accesses_out_of_bounds() {
    for (kernel, mark) in [("past_the_buffer", "BOUNDS 1"), ("past_the_variable", "BOUNDS 2")] {
        let report = run(kernel, Sanitizer::Address, 32).unwrap_err();
        assert!(
            report.contains("AddressSanitizer") && report.contains(&line(mark)),
            "{kernel}: {report}"
        );
    }
}

#[test]
fn the_undefined_sanitizer_finds_misaligned_accesses() {
    let report = run("misaligned", Sanitizer::Undefined, 32).unwrap_err();
    assert!(
        report.contains("misaligned address") && report.contains(&line("ALIGNMENT")),
        "{report}"
    );
}
