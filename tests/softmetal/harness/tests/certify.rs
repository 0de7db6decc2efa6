//! `metallic parity`: the table of both backends; the whole matrix as graphs, its certificate, and `auto`
//! that follows it. Takes minutes: the full lane runs it.

#[path = "cli/support.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use support::{answer, auto};

/// Looks at `folder` until `done`: a certificate that is there is whole.
fn watch(folder: &Path, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        for entry in folder.read_dir().into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let bytes = std::fs::read(&path).unwrap();
                serde_json::from_slice::<Value>(&bytes).expect("half a certificate");
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn auto_follows_the_certificate() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("certificates");
    assert_eq!(auto(cache.path()).0, "legacy");
    let call = ["parity", "--device", "metal", "--certify", "--sdpa-backend", "graph"];
    let done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| watch(&folder, &done));
        let answer = answer(cache.path(), &call);
        done.store(true, Ordering::Relaxed);
        answer
    });
    println!("{}", answer.out);
    let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert!(answer.err.contains(file.to_str().unwrap()), "{}", answer.err);
    let certificate: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let runs = certificate["runs"].as_array().unwrap();
    let targets: Vec<_> = runs.iter().map(|run| run["target"].as_str().unwrap()).collect();
    assert_eq!(targets, ["graph", "graph, hidden keys finite"]);
    for run in runs {
        assert!(run["cases"].as_u64().unwrap() > 100 && run["failed"] == 0, "{run}");
    }
    let (backend, reason) = auto(cache.path());
    assert_eq!(backend, "graph", "{reason}");
    assert!(reason.contains("is certified"), "{reason}");
    // Half a file, as a crash without the renaming would leave it, is none.
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, &text[..text.len() / 2]).unwrap();
    assert_eq!(auto(cache.path()).0, "legacy");
}

#[test]
fn parity_writes_its_report() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("report.json");
    let call = ["parity", "--device", "metal", "--quick", "--json", path.to_str().unwrap()];
    let table = answer(cache.path(), &call).out;
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let rows = report["rows"].as_array().unwrap();
    for backend in ["legacy", "graph"] {
        let ran = rows.iter().filter(|row| row["backend"] == backend).count();
        assert!(ran > 200, "{ran} cases on {backend}");
    }
    assert!(rows.iter().all(|row| row["failure"].is_null()));
    assert_eq!(report["failed"], 0);
    assert!(table.contains(&format!("{} ran, 0 failed", rows.len())), "{table}");
    println!("{table}");
}
