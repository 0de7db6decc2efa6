//! The program: [`metallic_cli::main`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    metallic_cli::main()
}
