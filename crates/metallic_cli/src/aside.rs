//! Files that are whole or not there: written beside their place, then renamed into it.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file on its way to `path`. Dropped unfinished, it leaves nothing behind.
pub(crate) struct Aside {
    file: NamedTempFile,
    path: PathBuf,
}

impl Aside {
    /// Makes the file, so that a place that cannot be written is known before the work starts.
    ///
    /// # Errors
    /// [`Error::Write`] with what is wrong with the place.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        // What a link points at is written, as if the file had been opened.
        let target = if path.is_symlink() { path.canonicalize().ok() } else { None };
        let path = target.as_deref().unwrap_or(path);
        let folder = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let refuse = |kind, words: &str| {
            Err(Error::Write { path: path.to_owned(), source: io::Error::new(kind, words) })
        };
        if !folder.is_dir() {
            let words = format!("the folder {} does not exist", folder.display());
            return refuse(io::ErrorKind::NotFound, &words);
        }
        if path.exists() && !path.is_file() {
            let words = "it is there and is no regular file";
            return refuse(io::ErrorKind::InvalidInput, words);
        }
        let permissions = std::fs::Permissions::from_mode(0o666);
        let file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder);
        Ok(Self { file: file.map_err(Error::write(path))?, path: path.to_owned() })
    }

    /// Writes the contents and puts the file into its place.
    ///
    /// # Errors
    /// [`Error::Write`]; what stood at the place before is still there then.
    pub(crate) fn finish(mut self, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        let file = self.file.as_file_mut();
        let written = write(file).and_then(|()| file.sync_all());
        written.map_err(Error::write(&self.path))?;
        self.file.persist(&self.path).map_err(|error| Error::write(&self.path)(error.error))?;
        Ok(())
    }
}
