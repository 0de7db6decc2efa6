//! Ends the process with a message, as an assertion or an uncaught exception on macOS does.

/// Prints `softmetal: <message>` and aborts. Not a panic: what ends a process on macOS must not be
/// something that a `catch_unwind` in the program survives.
#[allow(clippy::print_stderr)]
pub(crate) fn fatal(message: &str) -> ! {
    eprintln!("softmetal: {message}");
    if crate::control().backtrace_on_abort() {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
    std::process::abort()
}

/// [`fatal`] with a format string.
macro_rules! abort {
    ($($part:tt)*) => { $crate::runtime::fatal(&format!($($part)*)) };
}
pub(crate) use abort;
