//! What is written where: no input is overwritten, no half result is left behind.

use metallic_models::tiny;

use crate::support::{binary, file, folder, metallic, metallic_with, text};

#[test]
fn metrics_are_never_written_over_an_input() {
    let dir = folder();
    let model = file(&dir, "m.gguf", tiny::GGUF);
    let prompt = file(&dir, "prompt.txt", "Once");
    let config = file(&dir, "config.toml", "");
    let run = ["run", "-m", text(&model), "-f", text(&prompt), "-n", "1", "--metrics"];
    for input in [&model, &prompt, &config] {
        let before = std::fs::read(input).unwrap();
        let named = [("METALLIC_CONFIG", text(&config))];
        metallic_with(&[&run[..], &[text(input)]].concat(), &named, "")
            .fails(2, &["--metrics would overwrite", text(input)]);
        assert_eq!(std::fs::read(input).unwrap(), before);
    }
    // A folder's model too; another file of the folder is replaced.
    let by_folder = ["run", "-m", text(dir.path()), "-p", "a", "-n", "1", "--metrics"];
    metallic(&[&by_folder[..], &[text(&model)]].concat()).fails(2, &["would overwrite"]);
    let old = file(&dir, "old.jsonl", "old");
    metallic(&[&by_folder[..], &[text(&old)]].concat()).ok();
    assert!(std::fs::read_to_string(&old).unwrap().starts_with('{'));
}

#[test]
fn a_run_that_fails_leaves_no_metrics() {
    let dir = folder();
    let path = dir.path().join("new.jsonl");
    metallic(&["run", "-m", "/nonexistent.gguf", "-p", "a", "--metrics", text(&path)])
        .fails(1, &["/nonexistent.gguf"]);
    assert!(!path.exists());
}

#[test]
fn an_op_does_not_replace_its_inputs() {
    let dir = folder();
    let path = file(&dir, "in.safetensors", "x");
    let sdpa = |flags: &[&str]| {
        let files = ["op", "sdpa", "--inputs", text(&path), "--output"];
        metallic(&[&files[..], flags].concat())
    };
    sdpa(&[text(&path)]).fails(2, &["--output would overwrite"]);
    sdpa(&["out", "--scale", "nan"]).fails(2, &["--scale", "finite"]);
    sdpa(&["out", "--softcap", "-1"]).fails(2, &["--softcap", "above 0"]);
}

#[test]
fn an_error_is_one_line_whatever_it_quotes() {
    let dir = folder();
    let config = file(&dir, "c.toml", "\n[backend]\nfoo = 1\n");
    let named = [("METALLIC_CONFIG", text(&config))];
    let run = metallic_with(&["run", "-p", "a"], &named, "");
    assert!(!run.stderr.contains("\\n"), "{}", run.stderr);
    run.fails(2, &["c.toml: line 3: unknown field `foo`"]);
    let engine = file(&dir, "e.toml", "[backend]\ngraph_engine = \"zzz\"\n");
    let named = [("METALLIC_CONFIG", text(&engine))];
    metallic_with(&["run", "-p", "a"], &named, "").fails(2, &["zzz", "backend.graph_engine in"]);
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    // Not every system has such a device.
    let Ok(full) = full else { return };
    let status = binary().arg("--help").stdout(full).stderr(std::process::Stdio::null()).status();
    assert_eq!(status.unwrap().code(), Some(1));
    assert!(metallic(&["help", "run"]).ok().stdout.contains("--sdpa-backend"));
}

#[test]
fn random_weights_that_fit_no_memory_are_refused_and_inspected_all_the_same() {
    let dir = folder();
    let config = r#"{"model_type": "llama", "hidden_size": 4194304, "num_attention_heads": 4096,
        "intermediate_size": 4194304, "num_hidden_layers": 4096, "vocab_size": 4096,
        "max_position_embeddings": 256, "tie_word_embeddings": true}"#;
    let config = file(&dir, "huge.json", config);
    let random = ["--random-weights", text(&config)];
    metallic(&[&["run", "-p", "a"], &random[..]].concat()).fails(1, &["random weights", "GB"]);
    let report = metallic(&[&["inspect", "--json"], &random[..]].concat()).ok().json();
    assert!(report["memory"]["weights_bytes"].as_u64().unwrap() > 1 << 50);
}
