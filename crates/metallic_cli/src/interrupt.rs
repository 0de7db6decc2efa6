//! Ctrl-C: the first one asks the command to end cleanly, the second ends it at once.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicBool = AtomicBool::new(false);
static INSTALL: Once = Once::new();

/// What a shell expects of a program that SIGINT ended.
pub(crate) const SIGINT_EXIT_CODE: u8 = 130;

/// From now on the first Ctrl-C only sets a flag.
pub(crate) fn install() {
    INSTALL.call_once(|| {
        // Without a handler Ctrl-C still ends the program, only less politely.
        let _ = ctrlc::set_handler(|| {
            let again = INTERRUPTED.swap(true, Ordering::SeqCst);
            if again || WAITING.load(Ordering::SeqCst) {
                std::process::exit(SIGINT_EXIT_CODE.into());
            }
        });
    });
}

/// Says whether the program only waits for its user: then there is nothing to end cleanly.
pub(crate) fn set_waiting(waiting: bool) {
    WAITING.store(waiting, Ordering::SeqCst);
}

/// Whether Ctrl-C came since the last [`clear`].
pub(crate) fn is_set() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A measurement that was broken off has no result.
///
/// # Errors
/// [`Error::Interrupted`] once Ctrl-C came.
pub(crate) fn check() -> Result<()> {
    if is_set() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Forgets an earlier Ctrl-C.
pub(crate) fn clear() {
    INTERRUPTED.store(false, Ordering::SeqCst);
}
