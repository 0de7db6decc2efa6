//! Where events go: a file of JSON lines, a console, a channel.

mod channel;
mod console;
mod jsonl;

pub use channel::ChannelExporter;
pub use console::ConsoleExporter;
pub use jsonl::JsonlExporter;

use std::io;

use crate::event::Record;

/// Takes events. An exporter keeps its first failure for [`Exporter::flush`] and never stops the
/// program.
pub trait Exporter: Send {
    /// Takes one event.
    fn export(&mut self, record: &Record);

    /// Writes out what is held.
    ///
    /// # Errors
    /// The first failure since the last flush.
    fn flush(&mut self) -> io::Result<()>;
}
