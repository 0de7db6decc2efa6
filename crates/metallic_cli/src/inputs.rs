//! What a command reads: never without an end, and no output of it is written over one.

use std::fs::File;
use std::io::{BufRead, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use metallic::config::{CONFIG_FILE, process_env};

use crate::error::{Error, Result};

/// Ends of names of a model's files within its folder.
const MODEL_FILES: [&str; 4] = ["gguf", "safetensors", "json", "jinja"];

/// Most bytes of a text that a command reads. Tokens take about a hundred times as much memory.
const MAX_BYTES: u64 = 64 << 20;

/// The bytes of a text in a file, or in standard input for `-`.
///
/// # Errors
/// [`Error::Read`], also for a text that is too long or has no end, as `/dev/zero`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        return read_from(std::io::stdin(), Path::new("standard input"));
    }
    read_from(File::open(path).map_err(Error::read(path))?, path)
}

fn read_from(from: impl Read, name: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::read(name))?;
    check_length(bytes.len(), name)?;
    Ok(bytes)
}

/// A line of standard input with what ends it; empty at the end.
///
/// # Errors
/// As [`read`]; what is no UTF-8.
pub(crate) fn read_line() -> Result<String> {
    let (mut line, name) = (String::new(), Path::new("standard input"));
    let mut from = std::io::stdin().lock().take(MAX_BYTES + 1);
    from.read_line(&mut line).map_err(Error::read(name))?;
    check_length(line.len(), name)?;
    Ok(line)
}

fn check_length(bytes: usize, name: &Path) -> Result<()> {
    if bytes as u64 <= MAX_BYTES {
        return Ok(());
    }
    let reason = format!("it has more than {} MiB", MAX_BYTES >> 20);
    Err(Error::read(name)(std::io::Error::other(reason)))
}

/// Refuses an output of the flag `flag` that is one of `inputs`, the configuration file, or a model's
/// file in a folder among them.
///
/// # Errors
/// [`Error::Overwrites`].
pub(crate) fn check_output(flag: &'static str, output: &Path, inputs: &[PathBuf]) -> Result<()> {
    let config = process_env(CONFIG_FILE).map(PathBuf::from);
    for input in inputs.iter().chain(&config) {
        let part =
            output.extension().is_some_and(|end| MODEL_FILES.iter().any(|file| end == *file));
        let folder = match output.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if is_same(output, input) || (part && output.exists() && is_same(folder, input)) {
            let (path, input) = (output.to_owned(), input.clone());
            return Err(Error::Overwrites { flag, path, input });
        }
    }
    Ok(())
}

/// Whether two paths lead to one file, through links too.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    place(one).is_some_and(|one| place(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_an_end_is_refused() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "cannot read /dev/zero: it has more than 64 MiB");
    }

    #[test]
    fn an_output_is_no_input_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for name in ["a.gguf", "old.jsonl"] {
            std::fs::write(file(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(file("a.gguf"), file("link")).unwrap();
        let check =
            |output: &str, input: PathBuf| check_output("--metrics", &file(output), &[input]);
        assert!(check("a.gguf", file("a.gguf")).unwrap_err().is_usage());
        assert!(check("link", file("a.gguf")).is_err());
        assert!(check("a.gguf", dir.path().to_owned()).is_err());
        assert!(check("old.jsonl", dir.path().to_owned()).is_ok());
        assert!(check("new.json", dir.path().to_owned()).is_ok());
        assert!(check("old.jsonl", file("a.gguf")).is_ok());
    }
}
