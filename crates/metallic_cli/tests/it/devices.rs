//! Devices by name, what NVIDIA's libraries are, kernels ahead of time, and models of random weights.

use metallic_devices::cpu::simd::Level;

use crate::support::{file, folder, metallic, metallic_with, text};

#[test]
fn every_library_is_there_or_missing_with_advice() {
    let report = metallic(&["devices", "--json"]).ok().json();
    let libraries = report["cuda_libraries"].as_array().unwrap();
    assert_eq!(libraries.len(), 4);
    for library in libraries {
        let missing = library["missing"].as_str().is_some_and(|reason| reason.contains(".so"));
        assert_ne!(missing, library["version"].is_string(), "{library}");
    }
    assert!(metallic(&["devices"]).ok().stdout.contains("NVRTC"));
}

#[test]
fn devices_that_are_not_here_are_refused() {
    metallic(&["run", "-p", "a", "--device", "cuda:999"]).fails(1, &["cuda:999"]);
    metallic(&["prewarm", "--device", "cuda:999"]).fails(1, &["cuda:999"]);
    for name in ["cpu:1", "cuda:", "cuda:-1", "cuda:one"] {
        metallic(&["run", "-p", "a", "--device", name]).fails(2, &[name, "cpu, cuda"]);
    }
    assert!(metallic(&["prewarm", "--device", "cpu"]).ok().stderr.contains("part of this program"));
}

#[test]
fn an_engine_can_be_demanded_and_one_alone_leaves_nothing_to_tune() {
    let run =
        metallic(&["run", "-p", "a", "-n", "2", "--graph-engine", "fused", "--segments", "off"]);
    let run = run.ok();
    assert!(run.summary().contains("forced by --graph-engine (fused)"), "{}", run.summary());
    let tuned = metallic(&["tune", "--device", "cpu", "--json"]).ok();
    assert_eq!(tuned.json()["engines"], "fused");
    assert!(tuned.stderr.contains("nothing to choose"), "{}", tuned.stderr);
    metallic(&["tune", "--q-heads", "3", "--kv-heads", "2"]).fails(1, &["q_heads"]);
}

#[test]
fn each_level_of_the_cpu_can_be_forced_and_says_the_same() {
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    metallic(&["run", "-p", "a", "--cpu-level", foreign]).fails(1, &["--cpu-level", foreign]);
    metallic_with(&["devices"], &[("METALLIC_CPU_LEVEL", foreign)], "")
        .fails(1, &["METALLIC_CPU_LEVEL", foreign, "scalar"]);
    let mut texts = Vec::new();
    for level in Level::available() {
        let named = [("METALLIC_CPU_LEVEL", level.name())];
        let devices = metallic_with(&["devices"], &named, "").ok().stdout;
        let line = devices.lines().find(|line| line.starts_with("cpu:0")).unwrap();
        assert!(line.contains(level.name()), "{line}");
        assert_eq!(level != Level::detect(), line.contains("the machine has"), "{line}");
        // A prompt of more rows than one, and a text behind it.
        let run = ["run", "-p", "The quick brown fox jumps over", "-n", "24", "--temp", "0"];
        let run = [&run[..], &["--ignore-eos", "-v", "--cpu-level", level.name()]].concat();
        let run = metallic(&run).ok();
        assert!(run.stderr.contains(level.name()), "{}", run.stderr);
        texts.push(run.stdout);
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "{texts:?}");
}

const CONFIG: &str = r#"{"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 4096,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": true}"#;

#[test]
fn a_seed_is_a_model() {
    let dir = folder();
    let config = file(&dir, "config.json", CONFIG);
    let random = ["--random-weights", text(&config), "--weights-seed"];
    let run = ["run", "-p", "a", "-n", "8", "--temp", "0", "--ignore-eos", "--json"];
    let ids = |seed| metallic(&[&run[..], &random, &[seed]].concat()).ok().json()["ids"].clone();
    assert_eq!(ids("3"), ids("3"));
    assert_ne!(ids("3"), ids("4"));
    let inspect = ["inspect", "--json", "--weights-type", "q8_0"];
    let report = metallic(&[&inspect[..], &random, &["0"]].concat()).ok().json();
    assert_eq!(report["tensors"][0]["dtype"], "q8_0", "{report}");
    let both = [&run[..], &random, &["0", "-m", "model.gguf"]].concat();
    metallic(&both).fails(2, &["--random-weights"]);
    metallic(&["run", "-p", "a", "--weights-seed", "1"]).fails(2, &["--random-weights"]);
    let damaged = file(&dir, "damaged.json", "{\"model_type\": \"qwen2\"}");
    metallic(&["run", "-p", "a", "--random-weights", text(&damaged)]).fails(1, &["hidden_size"]);
}
