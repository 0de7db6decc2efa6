//! One readable line an event.

use std::io::{self, Write};

use super::Exporter;
use crate::event::Record;

/// Writes `[ms] Event field=value …` lines.
#[derive(Debug)]
pub struct ConsoleExporter<W: Write> {
    out: W,
    failure: Option<io::Error>,
}

impl<W: Write> ConsoleExporter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, failure: None }
    }
}

impl<W: Write + Send> Exporter for ConsoleExporter<W> {
    fn export(&mut self, record: &Record) {
        let mut line = format!("[{:>10.3} ms]", record.time_us as f64 / 1e3);
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&record.event) {
            if let Some(name) = fields.get("event").and_then(|name| name.as_str()) {
                line.push_str(&format!(" {name}"));
            }
            for (key, value) in fields.iter().filter(|(key, _)| *key != "event") {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        line.push('\n');
        if let Err(error) = self.out.write_all(line.as_bytes()) {
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
