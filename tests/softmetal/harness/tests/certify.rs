//! `metallic parity --certify`: the whole matrix as graphs, the certificate, and `auto` that follows it. It
//! takes a quarter of an hour, and has a lane of its own.

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
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sets a flag when dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what the lane shows")]
fn auto_follows_the_certificate() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("certificates");
    assert_eq!(auto(cache.path()).0, "legacy");
    let call = ["parity", "--device", "metal", "--certify", "--sdpa-backend", "graph"];
    let done = AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| watch(&folder, &done));
        // Ends the watch also where the command fails.
        let _ended = Ended(&done);
        answer(cache.path(), &call)
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
