//! The kernel emulator, as this crate uses it.

use std::sync::Arc;

pub(crate) use softmetal_emulator::{Constant, ConstantValue, Function, Grid, Library};

use crate::control;

/// Compiles flattened MSL source with the options of the switchboard.
pub(crate) fn compile(source: &str, fast_math: bool) -> Result<Arc<Library>, String> {
    let options = softmetal_emulator::CompileOptions { fast_math, ..control().kernel_options() };
    Library::compile(source, &options)
}
