//! `metallic run`: the text on every backend, the events of a decode, and what `auto` needs.

use std::path::Path;

use serde_json::Value;

use crate::support::{answer, auto, chosen, events, metallic};

const PROMPT: &str = "Once upon a time there was a little dog";

/// Greedy text of 24 tokens with `more` arguments, and what stands on standard error.
fn text(cache: &Path, more: &[&str]) -> (String, String) {
    let call = ["run", "-p", PROMPT, "-n", "24", "--ignore-eos", "--temp", "0"];
    let answer = answer(cache, &[&call, more].concat());
    (answer.out, answer.err)
}

/// The text on the Metal device by `backend`, which must have run as `ran` for each new token.
fn on_metal(cache: &Path, backend: &str, more: &[&str], ran: &str) -> String {
    let options = ["--device", "metal", "--sdpa-backend", backend, "--require-backend", backend];
    let (text, summary) = text(cache, &[&options, more].concat());
    let ran = format!("({ran}: forced by --sdpa-backend)");
    assert!(summary.contains(&format!("sdpa {backend}")) && summary.contains(&ran), "{summary}");
    assert!(summary.contains("device metal:0"), "{summary}");
    text
}

#[test]
fn the_text_is_the_same_on_every_backend() {
    let cache = tempfile::tempdir().unwrap();
    let (want, _) = text(cache.path(), &["--device", "cpu", "--exact"]);
    assert!(want.trim().len() > 20, "{want:?}");
    let exact = ["--exact"];
    assert_eq!(on_metal(cache.path(), "legacy", &exact, "flash_decode"), want);
    assert_eq!(on_metal(cache.path(), "graph", &exact, "SdpaMpsGraphOp-decomposed"), want);
    // With a cache in f16, and MPSGraph's own attention.
    let (want, _) = text(cache.path(), &["--device", "cpu", "--sdpa-backend", "legacy"]);
    assert_eq!(on_metal(cache.path(), "legacy", &[], "flash_decode"), want);
    assert_eq!(on_metal(cache.path(), "graph", &[], "SdpaMpsGraphOp"), want);
    // Packages of graphs lie in the cache folder now, and a second run takes them.
    assert!(cache.path().join("mpsgraph").read_dir().unwrap().count() == 4);
    let file = cache.path().join("again.jsonl");
    let metrics = ["--metrics", file.to_str().unwrap()];
    let options = ["--device", "metal", "--sdpa-backend", "graph"];
    assert_eq!(text(cache.path(), &[&options[..], &metrics[..]].concat()).0, want);
    let packages: Vec<bool> = accesses(&events(&file), "mpsgraph_package").collect();
    assert_eq!(packages, [true, true], "one for the prompt, one for the tokens after it");
}

#[test]
fn halves_of_blocks_as_graphs_give_the_text_too() {
    let cache = tempfile::tempdir().unwrap();
    let (want, _) = text(cache.path(), &["--device", "cpu", "--exact"]);
    let options = ["--device", "metal", "--exact", "--backend", "graph", "--segments", "on"];
    let (got, _) = text(cache.path(), &options);
    assert_eq!(got, want);
}

#[test]
fn a_cache_of_q8_0_is_refused_by_graphs_with_what_to_do_instead() {
    let cache = tempfile::tempdir().unwrap();
    let options = ["--device", "metal", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0"];
    let call = ["run", "-p", PROMPT, "-n", "2", "--sdpa-backend", "graph"];
    let output = metallic(cache.path(), &[&call[..], &options].concat()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{error}");
    for part in ["q8_0", "f32, f16 and bf16", "--cache-type-k", "--sdpa-backend legacy"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    on_metal(cache.path(), "legacy", &options[2..], "flash_decode");
}

/// Whether each look-up in a cache was a hit.
fn accesses<'a>(events: &'a [Value], cache: &'a str) -> impl Iterator<Item = bool> + 'a {
    let of_cache = move |event: &&Value| {
        event["event"] == "ResourceCacheAccess"
            && event["cache_key"].as_str().is_some_and(|key| key.starts_with(cache))
    };
    events.iter().filter(of_cache).map(|event| event["hit"].as_bool().unwrap())
}

#[test]
fn a_decode_hits_the_cache_after_its_first_step() {
    let cache = tempfile::tempdir().unwrap();
    let file = cache.path().join("events.jsonl");
    let metrics = ["--metrics", file.to_str().unwrap()];
    let options = ["--device", "metal", "--sdpa-backend", "graph", "--json"];
    let (out, _) = text(cache.path(), &[&options[..], &metrics[..]].concat());
    let events = events(&file);
    assert!(events.iter().all(|event| event["time_us"].is_u64() && event["event"].is_string()));
    let (backend, reason) = chosen(&events);
    assert_eq!((backend.as_str(), reason.as_str()), ("graph", "forced by --sdpa-backend"));
    let hits: Vec<bool> = accesses(&events, "graph_executables").collect();
    assert_eq!(hits.iter().filter(|hit| !**hit).count(), 2, "a class for each phase: {hits:?}");
    // The first token comes of the prompt; whatever is compiled for decoding is compiled for the second.
    let tokens = events.iter().enumerate().filter(|(_, event)| event["event"] == "TokenGenerated");
    let places: Vec<usize> = tokens.map(|(place, _)| place).collect();
    assert_eq!(places.len(), 24);
    let decode = &events[places[1]..];
    assert!(accesses(decode, "graph_executables").count() >= 22 * 3);
    assert!(accesses(decode, "graph_executables").all(|hit| hit));
    // The object on standard output says the same.
    let object: Value = serde_json::from_str(&out).unwrap();
    let executables = &object["caches"][0];
    assert_eq!(executables["cache"], "graph_executables");
    assert_eq!(
        (executables["hits"].as_u64(), executables["misses"].as_u64()),
        (Some(hits.len() as u64 - 2), Some(2))
    );
    assert_eq!(object["ids"].as_array().unwrap().len(), 24);
    assert_eq!(object["sdpa"][0]["backend"], "graph");
}

#[test]
fn without_a_certificate_auto_stays_with_legacy_and_says_why() {
    let cache = tempfile::tempdir().unwrap();
    let (backend, reason) = auto(cache.path());
    assert_eq!(backend, "legacy");
    assert!(
        reason.contains("no certificate") && reason.contains("parity --device metal --certify"),
        "{reason}"
    );
    // A file that is no certificate is none.
    let folder = cache.path().join("certificates");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("24A100-apple-m2-softmetal.json"), "{}").unwrap();
    assert_eq!(auto(cache.path()).0, "legacy");
}

#[test]
fn a_part_of_the_matrix_certifies_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let call = ["parity", "--device", "metal", "--quick", "--certify"];
    let output = metallic(cache.path(), &call).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--quick"), "{error}");
    assert!(!cache.path().join("certificates").exists());
}
