//! The `metallic` command: arguments in, exit code out. A library, so that the program can also be linked
//! with stand-ins for Apple's frameworks (`tests/softmetal`).
//!
//! What was typed is in `args`, what it means in `policy`, `model` and `session`, one command a
//! file in `commands`. Only this crate prints; it holds no unsafe code and no arithmetic of models.
#![forbid(unsafe_code)]

mod args;
mod argv;
mod aside;
mod error;

mod device;
mod hub;
mod inputs;
mod memory;
mod metrics_file;
mod model;
mod physical_memory;
mod policy;
mod progress;
mod session;

mod interrupt;
mod log;
mod output;
mod summary;

mod commands;

use std::process::ExitCode;

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    log::install();
    let arguments = match argv::rewrite(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return output::failure(&error),
    };
    let cli = match args::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return output::clap_error(&error, &arguments),
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failure(&error),
    }
}
