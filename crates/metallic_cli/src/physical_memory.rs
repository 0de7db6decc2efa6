//! Whether numbers fit the memory, asked before they are made: an allocation that fails ends the
//! process.

use metallic_devices::process::physical_memory_bytes;

use crate::error::{Error, Result};

/// Refuses `bytes` for `what` where the machine has less.
///
/// # Errors
/// [`Error::TooLarge`].
pub(crate) fn check(what: &'static str, bytes: f64) -> Result<()> {
    let memory = physical_memory_bytes().map_or(f64::INFINITY, |memory| memory as f64);
    if bytes <= memory {
        return Ok(());
    }
    let gigabytes = |bytes: f64| format!("{:.1} GB", bytes / 1e9);
    Err(Error::TooLarge { what, needed: gigabytes(bytes), memory: gigabytes(memory) })
}
