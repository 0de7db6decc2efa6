//! The `metallic` command on the Metal device, as it is typed.

mod probe;
mod run;
mod support;
