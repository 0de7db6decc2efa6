//! JSON files that are whole or not there.

use std::path::Path;
use std::{fs, io};

use serde::Serialize;

/// Writes `value` beside `path`, then moves it into place; makes the folder.
///
/// # Errors
/// The system's.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let making = path.with_extension(format!("making-{}", std::process::id()));
    fs::write(&making, serde_json::to_string_pretty(value)? + "\n")?;
    fs::rename(&making, path)
}
