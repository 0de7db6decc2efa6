//! Devices by name, what NVIDIA's libraries are, kernels ahead of time, and models of random weights.

use crate::support::{file, folder, metallic, text};

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
    metallic(&["run", "-p", "a", "--device", "foo"])
        .fails(2, &["foo", "this build knows cpu, cuda"]);
    metallic(&["run", "-p", "a", "--device", "metal"])
        .fails(2, &["metal", "not in this build", "macOS"]);
    metallic(&["probe"]).fails(2, &["metal", "not in this build", "macOS"]);
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
    metallic(&["tune", "--q-heads", "3", "--kv-heads", "2"]).fails(2, &["--q-heads"]);
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
