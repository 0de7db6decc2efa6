//! What libraries say through `tracing`: warnings on standard error, more as `RUST_LOG` asks, as
//! `RUST_LOG=debug` or `RUST_LOG=metallic_devices=trace,warn`.

use metallic::config::process_env;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Subscriber;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;

use crate::output::note;

/// Listens from now on.
pub(crate) fn install() {
    let asked = process_env("RUST_LOG");
    let subscriber = subscriber(filter(asked.as_deref()), std::io::stderr);
    // Another listener can only be a host program's own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Warnings and worse, or what `asked` says.
fn filter(asked: Option<&str>) -> Targets {
    let default = Targets::new().with_default(LevelFilter::WARN);
    match asked.map(str::parse) {
        None => default,
        Some(Ok(targets)) => targets,
        Some(Err(error)) => {
            note!("warning: RUST_LOG is not understood ({error}); warnings are shown");
            default
        }
    }
}

fn subscriber<W>(filter: Targets, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(false).without_time().with_target(false);
    tracing_subscriber::registry().with(lines).with(filter)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(asked: Option<&str>) -> String {
        let all = Shown::default();
        let writer = all.clone();
        let listener = subscriber(filter(asked), move || writer.clone());
        tracing::subscriber::with_default(listener, || {
            tracing::warn!(file = "x", "the kernel cache cannot be written");
            tracing::debug!("a detail");
        });
        let bytes = all.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn warnings_are_shown_and_more_on_demand() {
        assert_eq!(shown(None), " WARN the kernel cache cannot be written file=\"x\"\n");
        assert!(shown(Some("debug")).contains("DEBUG a detail"));
        assert_eq!(shown(Some("off")), "");
        assert_eq!(shown(Some("x=y=z")), shown(None));
    }
}
