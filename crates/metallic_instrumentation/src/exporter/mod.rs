//! Where events go: a file of JSON lines, a console, a table of times, a channel.

mod channel;
mod console;
mod jsonl;
mod times;

pub use channel::ChannelExporter;
pub use console::ConsoleExporter;
pub use jsonl::JsonlExporter;
pub use times::TimesExporter;

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
