//! Standard output and standard error: who may write what, and how failures are shown.
//!
//! Standard output carries results alone. A reader that goes away (`| head`) ends the program
//! without a word.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::args;
use crate::error::Error;

/// Exit code of a wrong command line.
const USAGE: u8 = 2;

/// Writes a line to standard error; that nobody reads it is no failure.
macro_rules! note {
    ($($arg:tt)*) => {
        $crate::output::write_note(format_args!($($arg)*))
    };
}
pub(crate) use note;

pub(crate) fn write_note(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints `value` as pretty JSON on standard output.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Shows a failure and says which exit code it is.
pub(crate) fn failure(error: &Error) -> ExitCode {
    if let Error::Output(source) = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    // Everything was said when a text was broken off.
    if !matches!(error, Error::BrokenOff) {
        note!("error: {}", shortened(&printable(&chain(error))));
    }
    ExitCode::from(error.exit_code())
}

/// The error with those of its causes that it does not already quote.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Characters of a message at its beginning and at its end that are shown.
const SHOWN: (usize, usize) = (1000, 500);

/// A message without its middle where that is long: a damaged file may name a key of megabytes.
fn shortened(text: &str) -> Cow<'_, str> {
    let after = text.char_indices().map(|(at, _)| at).nth(SHOWN.0);
    let from = text.char_indices().rev().map(|(at, _)| at).nth(SHOWN.1 - 1);
    match (after, from) {
        (Some(after), Some(from)) if after < from => {
            Cow::Owned(format!("{} … {}", &text[..after], &text[from..]))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Names and texts from damaged files, so that they stay on their line and cannot steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            out.extend(char.escape_default());
        } else {
            out.push(char);
        }
    }
    out
}

/// Shows what the flag parser says: help as it is, errors in two lines.
pub(crate) fn clap_error(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        let mut out = io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        return written.map_or_else(|source| failure(&source.into()), |()| ExitCode::SUCCESS);
    }
    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help {
        let _ = io::stderr().write_all(text.as_bytes());
        return ExitCode::from(USAGE);
    }
    let problem: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .collect();
    let blamed = args::blamed_twins(error, arguments);
    let from =
        if blamed.is_empty() { String::new() } else { format!(" (from {})", blamed.join(", ")) };
    note!("{}{from}", printable(&problem.join(" ")));
    note!("see `{} --help`", args::command_path(arguments));
    ExitCode::from(USAGE)
}

#[cfg(test)]
mod tests {
    use super::{printable, shortened};

    #[test]
    fn an_error_stays_on_its_line() {
        assert_eq!(printable("key `a\nb\u{1b}[31m\0é`"), "key `a\\nb\\u{1b}[31m\\u{0}é`");
    }

    #[test]
    fn a_long_message_loses_its_middle() {
        let text =
            |middle: usize| format!("key {}{} is damaged", "é".repeat(1000), "x".repeat(middle));
        let long = shortened(&text(100_000)).into_owned();
        assert!(long.starts_with("key é") && long.ends_with("x is damaged") && long.len() < 4000);
        assert_eq!(long.chars().count(), 1000 + 3 + 500);
        assert_eq!(shortened(&text(400)), text(400));
    }
}
