//! Runs the binary in clean surroundings, and makes model files to run it on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use metallic::tensor::HostBytes;
use metallic_models::gguf::{GgufFile, GgufWriter, TensorInfo, Value};
use metallic_models::tiny;
use tempfile::TempDir;

/// What a run left behind.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary with no setting of this machine's user.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metallic"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("METALLIC_") || text.starts_with("HF_") || text.starts_with("XDG_") {
            command.env_remove(&name);
        }
    }
    let nowhere = std::env::temp_dir().join("metallic-tests-have-no-home");
    command.env("HOME", nowhere).stdin(Stdio::null());
    command
}

/// Runs the binary with these arguments.
pub(crate) fn metallic(args: &[&str]) -> Outcome {
    metallic_with(args, &[], "")
}

/// Runs the binary with these arguments, environment variables and standard input.
pub(crate) fn metallic_with(args: &[&str], env: &[(&str, &str)], stdin: &str) -> Outcome {
    let mut command = binary();
    command.args(args).envs(env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A run that ends before it reads is no failure.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let outcome = Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!outcome.stderr.contains("panicked"), "{args:?}: {}", outcome.stderr);
    outcome
}

impl Outcome {
    /// The run must have gone well.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// The run must have failed with this code, nothing on standard output, and a message of one
    /// or two lines that holds all of `words`.
    pub(crate) fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "stderr: {}", self.stderr);
        assert_eq!(self.stdout, "", "stderr: {}", self.stderr);
        let at = self.stderr.find("error: ").unwrap_or_else(|| panic!("{}", self.stderr));
        let message = &self.stderr[at..];
        assert!((1..=2).contains(&message.trim_end().lines().count()), "{message}");
        for word in words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The line at the end of a run.
    pub(crate) fn summary(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// A folder for one test.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a file and gives its path.
pub(crate) fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The embedded model with metadata and tensors as `edit` leaves them (`None` drops one).
pub(crate) fn edited(
    metadata: impl Fn(&str, Value) -> Option<Value>,
    tensor: impl Fn(TensorInfo) -> Option<TensorInfo>,
) -> Vec<u8> {
    let file = GgufFile::parse(HostBytes::new(tiny::GGUF)).unwrap();
    let mut writer = GgufWriter::default();
    for (key, value) in file.metadata().iter() {
        if let Some(value) = metadata(key, value.clone()) {
            writer = writer.with(key, value);
        }
    }
    for info in file.tensors().iter().cloned() {
        if let Some(info) = tensor(info) {
            writer = writer.tensor(&info.name, info.dtype, &info.shape, info.bytes.to_vec());
        }
    }
    writer.finish()
}

/// The embedded model with other metadata.
pub(crate) fn with_metadata(metadata: impl Fn(&str, Value) -> Option<Value>) -> Vec<u8> {
    edited(metadata, Some)
}
