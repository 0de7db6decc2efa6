//! The `metallic` command.
fn main() {}
