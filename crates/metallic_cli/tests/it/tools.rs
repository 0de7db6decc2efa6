//! The commands around a run: inspect, tokenize, devices, completions, perplexity, bench, parity,
//! and models by hub name.

use metallic_models::tiny;

use crate::support::{file, folder, metallic, metallic_with, text};

#[test]
fn inspect_shows_header_tensors_and_memory() {
    let report = metallic(&["inspect", "--json", "-c", "256", "-ctk", "f32"]).ok().json();
    assert_eq!(report["architecture"], "qwen2");
    assert_eq!(report["tensors"].as_array().unwrap().len(), 74);
    assert_eq!(report["rms_eps"], 1e-6);
    assert_eq!(report["memory"]["context"], 256);
    // 6 layers of one head of 64: keys of 4 bytes, values of 2.
    assert_eq!(report["memory"]["kv_cache_bytes"], 6 * 64 * (4 + 2) * 256);
    let dir = folder();
    let path = file(&dir, "tiny.gguf", tiny::GGUF);
    let people = metallic(&["inspect", text(&path)]).ok().stdout;
    assert!(people.contains("blk.0.attn_q.weight") && people.contains("KV cache"), "{people}");
    let by_folder = metallic(&["inspect", text(dir.path())]).ok().stdout;
    assert_eq!(people, by_folder);
}

#[test]
fn tokenize_gives_ids() {
    let ids = metallic(&["tokenize", "-p", "Once upon a time", "--ids"]).ok().stdout;
    assert_eq!(ids, "[540,600,258,455]\n");
    let report = metallic_with(&["tokenize", "-p", "-", "--json"], &[], "<|im_end|>").ok().json();
    assert_eq!(report["ids"][0], 4095);
    let plain = metallic(&["tokenize", "-p", "<|im_end|>", "--no-parse-special", "--json"]).ok();
    assert!(plain.json()["count"].as_u64().unwrap() > 1);
    // To the last byte, other than a prompt.
    let count = |text: &str| {
        let report = metallic_with(&["tokenize", "-p", "-", "--json"], &[], text).ok().json();
        report["count"].as_u64().unwrap()
    };
    assert_eq!(count("a time\n"), count("a time") + 1);
    let people = metallic(&["tokenize", "-p", "a time"]).ok().stdout;
    assert!(people.contains("\" time\""), "{people}");
}

#[test]
fn devices_lists_kernels() {
    let report = metallic(&["devices", "--json"]).ok().json();
    let sdpa = &report["devices"][0]["kernels"]["sdpa"];
    assert!(sdpa["legacy"].is_array() && sdpa["graph"].is_array(), "{sdpa}");
    assert!(metallic(&["devices"]).ok().stdout.starts_with("cpu:0"));
}

#[test]
fn completions_are_for_the_known_shells() {
    assert!(metallic(&["completions", "bash"]).ok().stdout.contains("_metallic"));
    metallic(&["completions", "cmd.exe"]).fails(2, &["cmd.exe", "bash"]);
}

#[test]
fn perplexity_has_one_value_per_predicted_token() {
    let dir = folder();
    let story = "Once upon a time, there was a kind boy named Boris. He lived in a little hut.";
    let path = file(&dir, "story.txt", story);
    let args = ["perplexity", "-f", text(&path), "--exact", "--json"];
    let report = metallic(&args).ok().json();
    let nll = report["nll"].as_array().unwrap();
    assert_eq!(nll.len() as u64, report["tokens"].as_u64().unwrap() - 1);
    let mean = nll.iter().map(|value| value.as_f64().unwrap()).sum::<f64>() / nll.len() as f64;
    assert!((mean - report["mean_nll"].as_f64().unwrap()).abs() < 1e-9);
    assert!((mean.exp() - report["perplexity"].as_f64().unwrap()).abs() < 1e-6);
    assert!(mean > 0.0 && mean < 5.0, "{mean}");
    // Chunks do not change what is seen; windows do.
    let chunked = metallic(&[&args[..], &["-ub", "3"]].concat()).ok().json();
    assert!((mean - chunked["mean_nll"].as_f64().unwrap()).abs() < 1e-4);
    let windows = metallic(&[&args[..], &["-c", "10"]].concat()).ok().json();
    assert!(windows["nll"].as_array().unwrap().len() < nll.len());
    let compared = metallic(&[&args[..], &["--compare", "legacy,graph"]].concat()).ok().json();
    let legacy = compared["legacy"]["mean_nll"].as_f64().unwrap();
    let graph = compared["graph"]["mean_nll"].as_f64().unwrap();
    assert!((legacy - graph).abs() < 1e-3, "{legacy} {graph}");
    assert!(compared["mean_kl_divergence"].as_f64().unwrap() < 1e-4);
    assert!(compared["top1_agreement"].as_f64().unwrap() > 0.9);
    let short = file(&dir, "short.txt", "");
    metallic(&["perplexity", "-f", text(&short)]).fails(1, &["at least 2"]);
    metallic(&["perplexity", "-f", text(&path), "--compare", "graph,graph"])
        .fails(2, &["two different backends"]);
    let both = ["--compare", "legacy,graph", "--sdpa-backend", "legacy"];
    metallic(&[&["perplexity", "-f", text(&path)], &both[..]].concat())
        .fails(2, &["--compare legacy,graph", "--sdpa-backend legacy"]);
}

#[test]
fn bench_speaks_llama_bench() {
    let args = ["bench", "-p", "8,4", "-n", "2", "-d", "0,4", "-r", "2"];
    let rows = metallic(&[&args[..], &["-o", "json"]].concat()).ok().json();
    let rows = rows.as_array().unwrap();
    let tests: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["pp8", "pp4", "tg2", "pp8 @ d4", "pp4 @ d4", "tg2 @ d4"]);
    for key in ["avg_ns", "stddev_ns", "avg_ts", "cold_ts", "warm_ts"] {
        assert!(rows.iter().all(|row| row[key].as_f64().is_some()), "{key}");
    }
    assert!(rows.iter().all(|row| row["samples_ns"].as_array().unwrap().len() == 2));
    assert!(rows.iter().all(|row| row["sdpa_backend"] != ""));
    // What ran, not what was asked for.
    assert!(rows.iter().all(|row| row["segments"] == true));
    let off =
        metallic(&["bench", "-p", "4", "-n", "0", "-r", "1", "--segments", "off", "-o", "jsonl"]);
    assert_eq!(off.ok().json()["segments"], false);
    let both = metallic(&["bench", "-p", "4", "-n", "0", "-r", "1", "-oe", "jsonl"]).ok();
    assert!(both.stdout.starts_with("| model | size | params | backend |"), "{}", both.stdout);
    assert!(both.stderr.starts_with('{'), "{}", both.stderr);
    let csv = metallic(&["bench", "-p", "4", "-n", "0", "-r", "1", "-o", "csv"]).ok().stdout;
    let commas = |line: &str| line.matches("\",\"").count();
    assert_eq!(
        csv.lines().next().unwrap().matches(',').count(),
        commas(csv.lines().nth(1).unwrap())
    );
    metallic(&["bench", "-p", "64", "-c", "32"]).fails(1, &["context of 32"]);
}

#[test]
fn bench_sdpa_shows_both_backends_side_by_side() {
    let args = ["bench", "sdpa", "--q-len", "1,8", "--kv-len", "16", "--head-dim", "32"];
    let args = [&args[..], &["--dtype", "f32", "-r", "1", "--causal", "--json"]].concat();
    let rows = metallic(&args).ok().json();
    let backends: Vec<_> = rows.as_array().unwrap().iter().map(|row| &row["backend"]).collect();
    assert_eq!(backends, ["legacy", "graph", "legacy", "graph"]);
    metallic(&["bench", "sdpa", "--q-heads", "3", "--kv-heads", "2"])
        .fails(2, &["--q-heads", "--kv-heads"]);
}

#[test]
fn parity_passes_and_is_written_as_json() {
    let dir = folder();
    let path = dir.path().join("parity.json");
    let table = metallic(&["parity", "--quick", "--json", text(&path)]).ok().stdout;
    assert!(table.contains(" 0 failed"), "{table}");
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(report["failed"], 0);
    assert!(report["rows"].as_array().unwrap().iter().any(|row| row["backend"] == "graph"));
    // Said at once, not after the matrix.
    metallic(&["parity", "--certify", "--device", "cpu"]).fails(2, &["metal alone", "cpu"]);
    metallic(&["parity", "--certify", "--ops"]).fails(2, &["--certify", "--ops"]);
}

#[test]
fn hub_names_are_looked_up_in_the_cache() {
    let dir = folder();
    let hub = [("HF_HUB_CACHE", text(dir.path()))];
    let run = |args: &[&str]| metallic_with(args, &hub, "");
    let at_hub = "models--org--repo-GGUF";
    run(&["inspect", "org/repo-GGUF:q8_0"]).fails(1, &["metallic pull", at_hub]);
    let snapshot = dir.path().join(at_hub).join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(dir.path().join(at_hub).join("refs")).unwrap();
    std::fs::write(dir.path().join(at_hub).join("refs/main"), "abc").unwrap();
    std::fs::write(snapshot.join("repo-q8_0.gguf"), tiny::GGUF).unwrap();
    for name in ["org/repo-GGUF", "org/repo-GGUF:Q8_0", "org/repo-GGUF:repo-q8_0.gguf"] {
        assert!(run(&["inspect", name]).ok().stdout.contains("Metallic Tiny"), "{name}");
    }
    run(&["inspect", "org/repo-GGUF:f16"]).fails(1, &["metallic pull org/repo-GGUF:f16"]);
}

#[test]
fn without_a_network_pull_says_where_the_file_belongs() {
    let dir = folder();
    // Nothing listens on the discard port.
    let hub = [("HF_HUB_CACHE", text(dir.path())), ("HF_ENDPOINT", "http://127.0.0.1:9")];
    let run = metallic_with(&["pull", "org/repo:repo-q8_0.gguf"], &hub, "");
    run.fails(1, &["org/repo", "snapshots/main/repo-q8_0.gguf"]);
    metallic(&["pull", "no-hub-name"]).fails(2, &["org/repo"]);
}

/// (op, backend, variant) of a choice or an event; nothing for what is not there.
fn chosen(choice: &serde_json::Value) -> [String; 3] {
    ["op", "backend", "variant"].map(|key| choice[key].as_str().unwrap_or_default().to_owned())
}

#[test]
fn explain_names_what_run_then_chooses() {
    for (backend, halves) in [
        (&["--sdpa-backend", "legacy"][..], &["attention_block"][..]),
        (&["--segments", "off"], &[]),
        (&[], &[]),
    ] {
        let report = metallic(&[&["explain", "-p", "20", "--json"], backend].concat()).ok().json();
        let parts = report["parts"].as_array().unwrap();
        assert_eq!(parts.len(), 2, "{report}");
        let explained: Vec<_> =
            parts[0]["choices"].as_array().unwrap().iter().map(chosen).collect();
        let dir = folder();
        let events = dir.path().join("events.jsonl");
        let run = ["run", "-p", "Once upon a time", "-n", "1", "--metrics", text(&events)];
        metallic(&[&run, backend].concat()).ok();
        let mut declined = Vec::new();
        for line in std::fs::read_to_string(events).unwrap().lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let ran = chosen(&event);
            match event["event"].as_str() {
                Some("KernelBackendSelected") => {}
                Some("SegmentDeclined") => declined.push(ran[0].clone()),
                _ => continue,
            }
            // The sampler's choice among logits is no part of the model.
            assert!(ran[0] == "top_k" || explained.contains(&ran), "{ran:?} of {explained:?}");
        }
        declined.dedup();
        assert_eq!(declined, halves, "{backend:?}");
    }
    let people = metallic(&["explain", "-p", "20", "--sdpa-backend", "legacy"]).ok().stdout;
    assert!(people.contains("attention_block op by op"), "{people}");
    let people = metallic(&["explain", "-p", "20", "-d", "100"]).ok().stdout;
    for part in ["blocks: ", "prompt of 20 after 100", "one token after 120", "else legacy"] {
        assert!(people.contains(part), "{part} in {people}");
    }
    // As many tokens as the embedded model's context holds before one more.
    let people = metallic(&["explain"]).ok().stdout;
    assert!(people.contains("prompt of 511 after 0"), "{people}");
    metallic(&["explain", "-p", "4000", "-c", "512"]).fails(1, &["512", "-c"]);
    metallic(&["explain", "--sdpa-backend", "fast"]).fails(2, &["legacy", "graph"]);
}
