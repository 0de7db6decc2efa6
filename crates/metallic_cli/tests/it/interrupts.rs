//! Ctrl-C: what is there is printed, and a shell learns that it is not everything.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::support::{Outcome, binary};

/// Runs the binary and sends SIGINT once `is_begun` is true of what it printed so far.
fn interrupted(args: &[&str], stdin: &str, is_begun: fn(&str) -> bool) -> Outcome {
    let mut command = binary();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.as_bytes()).unwrap();
    let (mut stdout, mut text) = (child.stdout.take().unwrap(), Vec::new());
    while !is_begun(&String::from_utf8_lossy(&text)) {
        let mut byte = [0];
        stdout.read_exact(&mut byte).unwrap();
        text.extend(byte);
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let rest = std::thread::spawn(move || {
        stdout.read_to_end(&mut text).unwrap();
        text
    });
    drop(input);
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(rest.join().unwrap()).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

const ENDLESS: [&str; 5] = ["-n", "-1", "--ignore-eos", "-c", "60000"];

#[test]
fn a_run_ends_with_its_summary_and_130() {
    let args = [&["run", "-p", "Once upon a time"], &ENDLESS[..]].concat();
    let run = interrupted(&args, "", |text| !text.is_empty());
    assert_eq!(run.code, 130, "{}", run.stderr);
    assert!(run.summary().starts_with("prompt 4 tokens"), "{}", run.stderr);
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
}

#[test]
fn a_bench_prints_no_row_that_was_not_measured() {
    // The header and a first row come at once; the second test is far too long to wait for.
    let args = ["bench", "-p", "4,100000", "-n", "0", "-r", "1"];
    let bench = interrupted(&args, "", |text| text.contains("pp4 |"));
    assert_eq!(bench.code, 130, "{}", bench.stderr);
    assert!(!bench.stdout.contains("pp100000"), "{}", bench.stdout);
    assert!(bench.stderr.contains("interrupted"), "{}", bench.stderr);
    // A list of rows stays whole JSON.
    let args = [&args[..], &["-o", "json"]].concat();
    let bench = interrupted(&args, "", |text| text.contains('}'));
    assert_eq!(bench.json().as_array().unwrap().len(), 1);
}

#[test]
fn a_conversation_goes_on_after_a_broken_answer() {
    let input = "Tell me a story about a dog named Rex.\n/help\n";
    let args = [&["chat"], &ENDLESS[..]].concat();
    let chat = interrupted(&args, input, |text| !text.is_empty());
    assert_eq!(chat.code, 0, "{}", chat.stderr);
    assert!(chat.stderr.contains("/exit ends"), "{}", chat.stderr);
}
