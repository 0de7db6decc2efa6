//! The file of `--metrics`: what stood there stays until the first event is written, and a run without
//! events leaves no empty file behind. Events go straight to it, so that a run can be watched.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file that is emptied by the first write.
#[derive(Debug)]
pub(crate) struct MetricsFile {
    file: File,
    path: PathBuf,
    is_new: bool,
    is_written: bool,
}

impl MetricsFile {
    /// Opens `path`, so that a place that cannot be written is known before the work starts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, path: path.to_owned(), is_new, is_written: false })
    }
}

impl Write for MetricsFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_written {
            self.is_written = true;
            // A pipe or a terminal has no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for MetricsFile {
    fn drop(&mut self) {
        if self.is_new && !self.is_written {
            // What remains is an empty file, which is no failure of the run.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_changes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.jsonl");
        drop(MetricsFile::open(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "an older run").unwrap();
        drop(MetricsFile::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "an older run");
        let mut file = MetricsFile::open(&path).unwrap();
        file.write_all(b"a").unwrap();
        file.write_all(b"b").unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ab");
    }
}
