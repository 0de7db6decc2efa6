//! Command lines that a user of llama.cpp brings along.

use crate::support::metallic;

#[test]
fn flags_without_a_meaning_here_say_what_to_do() {
    let run = |args: &[&str]| metallic(&[&["run", "-p", "a"], args].concat());
    for (flag, words) in [
        ("-ngl", "--device"),
        ("--n-gpu-layers", "--device"),
        ("-fa", "--sdpa-backend"),
        ("--flash-attn", "--sdpa-backend"),
        ("--no-mmap", "mapped"),
        ("--mlock", "leave it out"),
        ("-no-cnv", "leave it out"),
        ("-cnv", "metallic chat"),
        ("--no-warmup", "leave it out"),
    ] {
        run(&[flag, "99"]).fails(2, &[flag, "has no meaning here", words]);
    }
    metallic(&["chat", "-cnv"]).fails(2, &["-cnv", "metallic chat"]);
    metallic(&["bench", "-ngl", "99"]).fails(2, &["-ngl"]);
    metallic(&["tokenize", "-p", "a", "-ub", "4"]).fails(2, &["metallic tokenize", "-ub"]);
}

#[test]
fn negative_numbers_reach_their_flag() {
    let run = |args: &[&str]| metallic(&[&["run", "-p", "a"], args].concat());
    run(&["-t", "-1"]).fails(2, &["-1", "--threads", "from 1 to 4096"]);
    run(&["-c", "-1"]).fails(2, &["-1", "--ctx-size", "from 0 to"]);
    run(&["-ub", "-1"]).fails(2, &["--ubatch-size", "from 1"]);
    run(&["-n", "1", "--top-k", "-1"]).ok();
}

#[test]
fn texts_may_look_like_flags() {
    let run = |args: &[&str]| metallic(&[&["run", "-n", "2", "--json"], args].concat()).ok().json();
    assert_eq!(run(&["-p", "-ngl"])["prompt_ids"], run(&["--prompt=-ngl"])["prompt_ids"]);
    run(&["-p", "a", "-r", "-ub"]);
    let ids = |flag: &str| run(&["-p", "a", flag, "-x"])["prompt_ids"].clone();
    assert_eq!(ids("-sys"), ids("--system"));
}

#[test]
fn bench_takes_lists_and_pairs_as_llama_bench_does() {
    let args = ["bench", "-p", "0", "-n", "0", "-pg", "4,2", "-r", "1"];
    let bench = |more: &[&str]| metallic(&[&args[..], more].concat()).ok();
    let rows = bench(&["-t", "1,2", "-ctk", "f16,q8_0", "-ub", "2,4", "-o", "json"]).json();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 8);
    for (key, values) in [
        ("n_threads", [1.into(), 2.into()]),
        ("type_k", ["f16".into(), "q8_0".into()]),
        ("n_ubatch", [2.into(), serde_json::Value::from(4)]),
    ] {
        for value in values {
            let with = rows.iter().filter(|row| row[key] == value).count();
            assert_eq!(with, 4, "{key} {value}");
        }
    }
    assert_eq!((&rows[0]["n_prompt"], &rows[0]["n_gen"]), (&4.into(), &2.into()));
    assert_eq!(rows[0]["test"], "pp4+tg2");
    let table = bench(&["-ctk", "f16,f32", "-ctv", "f32"]).stdout;
    assert!(table.contains("| threads | type_k | type_v | device |"), "{table}");
    assert!(table.contains("| f16 | f32 | cpu:0 |") && table.contains("pp4+tg2"), "{table}");
    let csv = bench(&["-t", "1,2", "-o", "csv"]).stdout;
    assert_eq!(csv.lines().count(), 3, "{csv}");
    // Outside bench these flags take one value.
    metallic(&["run", "-p", "a", "-t", "1,2"]).fails(2, &["1,2", "--threads"]);
}

#[test]
fn numbers_beyond_any_machine_are_refused() {
    let huge = "18446744073709551615";
    metallic(&["bench", "-n", huge, "-p", "0"]).fails(2, &[huge, "up to 1073741824"]);
    metallic(&["bench", "-d", huge, "-n", "2"]).fails(2, &[huge, "up to 1073741824"]);
    metallic(&["bench", "sdpa", "--q-len", "1", "--kv-len", "999999999", "--batch", "4096"])
        .fails(1, &["GB of memory"]);
    metallic(&["bench", "-p", "0", "-n", "0"]).fails(2, &["nothing to measure"]);
    metallic(&["bench", "sdpa", "--q-len", "0"]).fails(2, &["from 1"]);
    metallic(&["bench", "limits", "-t", "0"]).fails(2, &["--threads", "from 1"]);
}
