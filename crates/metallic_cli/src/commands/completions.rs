//! `metallic completions`: a completion script for a shell.

use std::io::{self, Write};

use crate::args::{self, CompletionsArgs};
use crate::error::Result;

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn run(args: &CompletionsArgs) -> Result<()> {
    // The generator panics when it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "metallic", &mut script);
    Ok(io::stdout().write_all(&script)?)
}
