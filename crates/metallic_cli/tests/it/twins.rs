//! The environment twins of flags: whom an error blames, and what they mean in each command.

use crate::support::{folder, metallic_with, text};

#[test]
fn an_error_names_the_variable_it_comes_from() {
    let run = |args: &[&str], twin: (&str, &str)| {
        metallic_with(&[&["run", "-p", "a"], args].concat(), &[twin], "")
    };
    run(&[], ("METALLIC_ARG_TEMP", "abc")).fails(2, &["'abc'", "(from METALLIC_ARG_TEMP)"]);
    run(&[], ("METALLIC_ARG_TEMP", "")).fails(2, &["''", "(from METALLIC_ARG_TEMP)"]);
    run(&[], ("METALLIC_ARG_FILE", "b")).fails(2, &["--file", "(from METALLIC_ARG_FILE)"]);
    run(&[], ("METALLIC_ARG_WEIGHTS_SEED", "1")).fails(2, &["METALLIC_ARG_WEIGHTS_SEED"]);
    // The flag wins, and is blamed for itself.
    let typed = run(&["--temp", "x"], ("METALLIC_ARG_TEMP", "abc"));
    assert!(typed.stderr.contains("'x'") && !typed.stderr.contains("METALLIC"), "{}", typed.stderr);
}

#[test]
fn a_twin_means_the_same_wherever_it_is_read() {
    let dir = folder();
    let env = [("METALLIC_ARG_JSON", "1"), ("METALLIC_ARG_OUTPUT", "/nonexistent/x")];
    let shape = ["--q-len", "1", "--kv-len", "8", "-r", "1"];
    let bench = metallic_with(&[&["bench", "sdpa"], &shape[..]].concat(), &env, "").ok();
    assert!(bench.json().is_array());
    let path = dir.path().join("parity.json");
    let own = [("METALLIC_ARG_PARITY_JSON", text(&path)), ("METALLIC_ARG_OPS", "1")];
    metallic_with(&["parity", "--quick"], &own, "").fails(2, &["METALLIC_ARG_PARITY_JSON"]);
}

#[test]
fn variables_of_one_rank_must_agree() {
    let two = [("METALLIC_SDPA_ROLLOUT", "25"), ("METALLIC_ARG_SDPA_ROLLOUT", "75")];
    metallic_with(&["run", "-p", "a"], &two, "")
        .fails(2, &["METALLIC_ARG_SDPA_ROLLOUT=75 %", "METALLIC_SDPA_ROLLOUT=25 %"]);
}

#[test]
fn flags_that_change_nothing_are_refused_when_typed() {
    let typed = |args: &[&str]| metallic_with(args, &[], "");
    typed(&["bench", "sdpa", "--segments", "off"]).fails(2, &["--segments", "metallic bench sdpa"]);
    typed(&["parity", "--quick", "--sdpa-rollout", "5"]).fails(2, &["--sdpa-rollout"]);
    typed(&["tune", "-c", "64"]).fails(2, &["--ctx-size", "metallic tune"]);
    // A twin is set for all commands.
    let off = [("METALLIC_ARG_SEGMENTS", "off")];
    let shape = ["bench", "sdpa", "--q-len", "1", "--kv-len", "8", "-r", "1"];
    metallic_with(&shape, &off, "").ok();
    let graph =
        metallic_with(&[&shape[..], &["--require-backend", "graph"]].concat(), &[], "").ok();
    assert!(graph.stdout.contains("graph (") && !graph.stdout.contains("legacy ("));
}
