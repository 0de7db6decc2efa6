//! The `metallic` command, with a Metal device made of stand-ins. For tests: slow, and its speed says
//! nothing.

use std::process::ExitCode;

// Linked in place of Apple's frameworks.
use softmetal_objc as _;

fn main() -> ExitCode {
    metallic_cli::main()
}
