//! One JSON object a line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Exporter;
use crate::event::Record;

/// Writes events as JSON lines.
#[derive(Debug)]
pub struct JsonlExporter<W: Write> {
    out: BufWriter<W>,
    failure: Option<io::Error>,
}

impl JsonlExporter<File> {
    /// Writes to a new file at `path`, replacing an old one.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::new(File::create(path)?))
    }
}

impl<W: Write> JsonlExporter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out: BufWriter::new(out), failure: None }
    }
}

impl<W: Write + Send> Exporter for JsonlExporter<W> {
    fn export(&mut self, record: &Record) {
        let written = serde_json::to_writer(&mut self.out, record)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        match self.failure.take() {
            Some(error) => Err(error),
            None => flushed,
        }
    }
}
