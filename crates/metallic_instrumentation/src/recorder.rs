//! Hands events to exporters. Cheap to clone; free when nobody listens.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::event::{MetricEvent, Record};
use crate::exporter::Exporter;

/// The one place events go through.
#[derive(Clone, Default)]
pub struct Recorder {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    start: Instant,
    exporters: Mutex<Vec<Box<dyn Exporter>>>,
}

impl Recorder {
    /// A recorder nobody listens to.
    pub fn disabled() -> Self {
        Self::default()
    }

    /// A recorder that hands every event to each exporter, in order.
    pub fn new(exporters: Vec<Box<dyn Exporter>>) -> Self {
        if exporters.is_empty() {
            return Self::disabled();
        }
        let exporters = Mutex::new(exporters);
        Self { inner: Some(Arc::new(Inner { start: Instant::now(), exporters })) }
    }

    /// Whether anybody listens.
    pub fn is_enabled(&self) -> bool {
        self.inner.is_some()
    }

    /// Records the event that `event` makes; `event` is not called when nobody listens.
    pub fn record(&self, event: impl FnOnce() -> MetricEvent) {
        let Some(inner) = &self.inner else { return };
        let record = Record { time_us: inner.start.elapsed().as_micros() as u64, event: event() };
        let mut exporters = inner.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        for exporter in exporters.iter_mut() {
            exporter.export(&record);
        }
    }

    /// Writes out what exporters hold.
    ///
    /// # Errors
    /// The first failure of any exporter since the last flush, as a full disk.
    pub fn flush(&self) -> io::Result<()> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let mut exporters = inner.exporters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = Ok(());
        for exporter in exporters.iter_mut() {
            first = first.and(exporter.flush());
        }
        first
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("enabled", &self.is_enabled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exporter::{ChannelExporter, JsonlExporter};

    fn access(hit: bool) -> MetricEvent {
        MetricEvent::ResourceCacheAccess { cache_key: "k".to_owned(), hit, bytes: 7 }
    }

    #[test]
    fn nobody_listening_means_no_event_is_made() {
        Recorder::disabled().record(|| unreachable!("no exporter"));
    }

    #[test]
    fn events_reach_every_exporter_in_order() {
        let (first, first_events) = ChannelExporter::new();
        let (second, second_events) = ChannelExporter::new();
        let recorder = Recorder::new(vec![Box::new(first), Box::new(second)]);
        recorder.record(|| access(false));
        recorder.record(|| access(true));
        for events in [first_events, second_events] {
            let hits: Vec<_> = events.try_iter().map(|record| record.event).collect();
            assert_eq!(hits, [access(false), access(true)]);
        }
    }

    #[test]
    fn a_jsonl_line_is_flat_and_a_failed_write_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let recorder = Recorder::new(vec![Box::new(JsonlExporter::create(&path).unwrap())]);
        recorder.record(|| access(true));
        recorder.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["event"], "ResourceCacheAccess");
        assert_eq!(line["bytes"], 7);
        assert!(line["time_us"].is_u64());

        struct Full;
        impl io::Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let recorder = Recorder::new(vec![Box::new(JsonlExporter::new(Full))]);
        recorder.record(|| access(true));
        assert_eq!(recorder.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
