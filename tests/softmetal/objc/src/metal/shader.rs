//! The kernel emulator, as this crate uses it.

use std::sync::Arc;

pub(crate) use softmetal_emulator::{Constant, ConstantValue, Function, Grid, Library};

use crate::control;

/// Compiles flattened MSL source with the options of the switchboard, which may demand fast math.
pub(crate) fn compile(source: &str, fast_math: bool) -> Result<Arc<Library>, String> {
    let mut options = control().kernel_options();
    options.fast_math |= fast_math;
    control().count("fast_math_compiles", u64::from(options.fast_math));
    Library::compile(source, &options)
}
