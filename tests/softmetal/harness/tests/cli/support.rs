//! Calls of the `metallic` command, each a process with a cache folder that the test owns.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The command, with `cache` in place of the user's folder and no setting of the caller's.
pub(crate) fn metallic(cache: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metallic"));
    let foreign =
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"METALLIC_"));
    for (name, _) in foreign {
        command.env_remove(name);
    }
    command.env("METALLIC_CACHE_DIR", cache).current_dir(cache).args(args);
    command
}

/// What a call printed.
pub(crate) struct Answer {
    pub(crate) out: String,
    pub(crate) err: String,
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the command writes UTF-8")
}

/// Runs the command, which must succeed.
#[track_caller]
pub(crate) fn answer(cache: &Path, args: &[&str]) -> Answer {
    let Output { status, stdout, stderr } = metallic(cache, args).output().unwrap();
    let (out, err) = (text(stdout), text(stderr));
    assert!(status.success(), "{args:?}: {status}\n{out}\n{err}");
    Answer { out, err }
}

/// The events in a file of JSON lines.
pub(crate) fn events(path: &Path) -> Vec<Value> {
    let lines = std::fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// How attention was chosen to run: the backend, and why.
#[track_caller]
pub(crate) fn chosen(events: &[Value]) -> (String, String) {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let event = events
        .iter()
        .find(|event| event["event"] == "KernelBackendSelected" && event["op"] == "sdpa")
        .expect("attention ran");
    (text(event, "backend"), text(event, "reason"))
}

/// Eight greedy tokens on the Metal device with `--sdpa-backend auto`: how attention ran.
#[track_caller]
pub(crate) fn auto(cache: &Path) -> (String, String) {
    let file = cache.join("auto.jsonl");
    let call = ["run", "--device", "metal", "--sdpa-backend", "auto", "-p", "Once upon a time"];
    let rest = ["-n", "8", "--temp", "0", "--metrics", file.to_str().unwrap()];
    answer(cache, &[&call[..], &rest[..]].concat());
    chosen(&events(&file))
}
