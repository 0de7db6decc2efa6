//! `metallic probe`: every question in a process of its own, and a report.

use std::process::Command;

use serde_json::Value;

use crate::support::metallic;

/// What the stand-ins answer: strict where nothing is promised, and they end the process where Apple's
/// frameworks do.
const ANSWERS: [(&str, &str); 14] = [
    ("masked-rows", "as_assumed"),
    ("gqa-broadcast", "better"),
    ("mask-type", "aborted"),
    ("value-width", "aborted"),
    ("any-length", "measured"),
    ("offsets", "as_assumed"),
    ("small-buffers", "aborted"),
    ("placed-results", "as_assumed"),
    ("continuation", "measured"),
    ("f32-leak", "as_assumed"),
    ("levels", "measured"),
    ("score-count", "aborted"),
    ("packages", "as_assumed"),
    ("threads", "better"),
];

/// A limit on memory keeps `score-count`, which asks for gigabytes, from getting them.
#[test]
fn every_question_is_answered_and_the_report_written() {
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("report.json");
    let call = ["probe", "--device", "metal", "--json", "-o", path.to_str().unwrap()];
    let inner = metallic(cache.path(), &call);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(cache.path());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(report, serde_json::from_slice::<Value>(&output.stdout).unwrap());
    assert_eq!(report["chip"], "Apple M2 (softmetal)");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), ANSWERS.len(), "{said}");
    for (name, verdict) in ANSWERS {
        let finding = findings.iter().find(|finding| finding["probe"] == name).expect(name);
        assert_eq!(finding["verdict"], verdict, "{name}: {finding}");
        assert!(!finding["seen"].as_str().unwrap().is_empty(), "{name}");
        assert!(said.contains(name), "{said}");
    }
}
