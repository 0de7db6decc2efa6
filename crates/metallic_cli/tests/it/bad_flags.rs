//! Wrong command lines and wrong environment: exit code 2 and two lines at most.

use crate::support::{file, folder, metallic, metallic_with, text};

#[test]
fn flags_that_contradict_each_other() {
    metallic(&["run", "-p", "a", "-f", "b"]).fails(2, &["--prompt", "--file"]);
    metallic(&["run", "-p", "a", "--sdpa-backend", "legacy", "--require-backend", "graph"])
        .fails(2, &["--require-backend graph", "legacy", "--sdpa-backend"]);
    metallic(&["run", "-p", "a", "--backend", "graph", "--require-backend", "legacy"])
        .fails(2, &["--require-backend legacy", "--backend"]);
    metallic(&["tokenize", "-p", "a", "--ids", "--json"]).fails(2, &["--ids", "--json"]);
    metallic(&["inspect", "a", "-m", "b"]).fails(2, &["--model"]);
    let both = [("METALLIC_ARG_SDPA_BACKEND", "graph"), ("METALLIC_FORCE_SDPA_BACKEND", "legacy")];
    metallic_with(&["run", "-p", "a"], &both, "")
        .fails(2, &["METALLIC_ARG_SDPA_BACKEND=graph", "METALLIC_FORCE_SDPA_BACKEND=legacy"]);
    // A flag is above both.
    metallic_with(&["run", "-p", "a", "-n", "1", "--sdpa-backend", "legacy"], &both, "").ok();
}

#[test]
fn unknown_values_name_the_accepted_ones() {
    metallic(&["run", "-p", "a", "--sdpa-backend", "cudnn"])
        .fails(2, &["cudnn", "auto, legacy, graph"]);
    metallic(&["run", "-p", "a", "--graph-engine", "cudnn"])
        .fails(2, &["cudnn", "--graph-engine", "auto, fused"]);
    metallic(&["run", "-p", "a", "--graph-engine", "fused", "--sdpa-backend", "legacy"])
        .fails(2, &["engine fused", "legacy for attention"]);
    metallic(&["run", "-p", "a", "--device", "tpu"]).fails(2, &["tpu", "cpu"]);
    metallic(&["run", "-p", "a", "-ctk", "q4_0"]).fails(2, &["q4_0", "f16, bf16, f32, q8_0"]);
    for (name, value, words) in [
        ("METALLIC_FORCE_SDPA_BACKEND", "fast", "auto, legacy, graph"),
        ("METALLIC_ARG_SDPA_BACKEND", "fast", "auto, legacy, graph"),
        ("METALLIC_GRAPH_ENGINE", "nobody", "auto, fused"),
        ("METALLIC_ARG_GRAPH_ENGINE", "nobody", "auto, fused"),
        ("METALLIC_CPU_LEVEL", "sse9", "METALLIC_CPU_LEVEL"),
        ("METALLIC_ARG_CPU_LEVEL", "sse9", "auto, scalar, neon"),
        ("METALLIC_ARG_N_PREDICT", "many", "whole number"),
        ("METALLIC_ARG_ECHO", "perhaps", "perhaps"),
    ] {
        metallic_with(&["run", "-p", "a"], &[(name, value)], "").fails(2, &[value, words]);
    }
    let dir = folder();
    let config = file(&dir, "config.toml", "[backend]\nsdpa = \"fast\"\n");
    let named = [("METALLIC_CONFIG", text(&config))];
    metallic_with(&["run", "-p", "a"], &named, "").fails(2, &["fast", "backend.sdpa"]);
    let config = file(&dir, "level.toml", "[cpu]\nlevel = \"fast\"\n");
    let named = [("METALLIC_CONFIG", text(&config))];
    metallic_with(&["devices"], &named, "").fails(2, &["fast", "cpu.level"]);
    let absent = [("METALLIC_CONFIG", "/nonexistent/config.toml")];
    metallic_with(&["run", "-p", "a"], &absent, "").fails(2, &["/nonexistent/config.toml"]);
}

#[test]
fn settings_outside_their_range() {
    let run = |args: &[&str]| metallic(&[&["run", "-p", "a"], args].concat());
    run(&["--top-p", "1.5"]).fails(2, &["top-p", "1.5"]);
    run(&["--min-p", "-1"]).fails(2, &["min-p", "-1"]);
    run(&["--temp", "nan"]).fails(2, &["--temp"]);
    run(&["--temp", "-1"]).fails(2, &["--temp", "from 0"]);
    run(&["--typical", "0"]).fails(2, &["--typical", "above 0"]);
    run(&["--top-k", "-5"]).fails(2, &["--top-k", "-1"]);
    run(&["-r", ""]).fails(2, &["--reverse-prompt", "expected a text"]);
    run(&["--repeat-penalty", "0"]).fails(2, &["repeat penalty"]);
    run(&["--logit-bias", "x"]).fails(2, &["--logit-bias", "ID+BIAS"]);
    run(&["--logit-bias", "99999+1"]).fails(2, &["99999", "4096"]);
    run(&["-n", "-2"]).fails(2, &["--n-predict", "-1"]);
    run(&["-t", "0"]).fails(2, &["--threads"]);
    run(&["-t", "100000"]).fails(2, &["--threads", "from 1 to 4096"]);
    run(&["-c", "9999999999"]).fails(2, &["--ctx-size", "from 0 to 1073741824"]);
    for steps in ["0", "17"] {
        run(&["--steps-at-once", steps]).fails(2, &["--steps-at-once", "from 1 to 16"]);
        metallic(&["bench", "--steps-at-once", steps]).fails(2, &["from 1 to 16"]);
    }
    run(&["-ub", "0"]).fails(2, &["--ubatch-size"]);
    run(&["-c", "-1"]).fails(2, &["-1"]);
    run(&["--nonsense"]).fails(2, &["--nonsense", "metallic run --help"]);
}

#[test]
fn a_prompt_must_be_there_and_fit() {
    metallic(&["run"]).fails(2, &["-p", "-f"]);
    // The embedded model names a token to begin with.
    metallic(&["run", "-p", "", "-n", "1"]).ok();
    metallic(&["run", "-f", "/nonexistent/prompt"]).fails(1, &["/nonexistent/prompt"]);
    let dir = folder();
    let binary = file(&dir, "prompt", [b'a', 0xff]);
    metallic(&["run", "-f", text(&binary)]).fails(1, &["UTF-8", "byte 1"]);
    let long = "a story ".repeat(400);
    for n in ["0", "5", "-1"] {
        metallic(&["run", "-p", &long, "-n", n]).fails(1, &["the context holds 512", "-c"]);
    }
    metallic(&["run", "-p", "Once upon a time", "-n", "60", "-c", "32"])
        .fails(1, &["4 tokens", "60 more", "holds 32"]);
    metallic(&["run", "-p", "Once upon a time", "-c", "3"]).fails(1, &["holds 3"]);
}

#[test]
fn several_steps_at_once_that_nothing_makes_are_told() {
    let flags = ["--temp", "0", "-n", "4", "--steps-at-once"];
    let run = |steps: &str| metallic(&[&["run", "-p", "a"], &flags[..], &[steps]].concat()).ok();
    let told = run("4").stderr;
    assert!(told.contains("--steps-at-once 4 changed nothing: cpu:0 ran no step as one"), "{told}");
    assert!(!run("1").stderr.contains("--steps-at-once"));
    let bench = ["bench", "-p", "0", "-n", "4", "-r", "1", "--steps-at-once", "2"];
    assert!(metallic(&bench).ok().stderr.contains("--steps-at-once 2 changed nothing"));
}

#[test]
fn a_required_backend_that_does_not_run_is_an_error() {
    let runs =
        |backend: &str| metallic(&["run", "-p", "a", "-n", "2", "--require-backend", backend]);
    let codes = ["legacy", "graph"].map(|backend| runs(backend).code);
    // `auto` takes one of them, whichever it is.
    assert!(codes == [0, 1] || codes == [1, 0], "{codes:?}");
}

#[test]
fn metrics_that_cannot_be_written_are_reported_before_work() {
    metallic(&["run", "-p", "a", "--metrics", "/nonexistent/x.jsonl"])
        .fails(1, &["/nonexistent/x.jsonl"]);
}

#[test]
fn help_is_no_error_and_no_command_is() {
    let help = metallic(&["--help"]).ok();
    assert!(help.stdout.contains("perplexity") && help.stderr.is_empty());
    assert!(metallic(&["run", "--help"]).ok().stdout.contains("METALLIC_ARG_SDPA_BACKEND"));
    assert!(metallic(&["--version"]).ok().stdout.starts_with("metallic "));
    assert_eq!(metallic(&[]).code, 2);
    metallic(&["frobnicate"]).fails(2, &["frobnicate"]);
}

#[test]
fn a_setting_that_is_no_text_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut command = crate::support::binary();
    command.args(["run", "-p", "x", "-n", "1"]);
    command.env("METALLIC_FORCE_SDPA_BACKEND", OsStr::from_bytes(b"legacy\xff"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("METALLIC_FORCE_SDPA_BACKEND"), "{stderr}");
}
