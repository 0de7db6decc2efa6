//! `.mpsgraphpackage`: a folder with a manifest and the program. A damaged one does not load.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::compile::Program;
use crate::control;

/// What the manifest says.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// The macOS that wrote it; an older one refuses it.
    os: (u16, u16),
    /// FNV-1a of the program file.
    digest: u64,
}

const FORMAT: u32 = 1;

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Writes a package; without success there is none.
pub(super) fn save(program: &Program, folder: &Path) {
    control().count("graph_saves", 1);
    let Ok(bytes) = serde_json::to_vec(program) else { return };
    let manifest = Manifest { format: FORMAT, os: control().os_version(), digest: digest(&bytes) };
    let Ok(text) = serde_json::to_vec(&manifest) else { return };
    let written = fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("program.json"), bytes))
        .and_then(|()| fs::write(folder.join("manifest.json"), text));
    if written.is_err() {
        // Half a package would be worse than none; what cannot be removed does not load either.
        let _ = fs::remove_dir_all(folder);
    }
}

/// The program of a package.
pub(super) fn load(folder: &Path) -> Option<Program> {
    control().count("graph_loads", 1);
    let manifest: Manifest =
        serde_json::from_slice(&fs::read(folder.join("manifest.json")).ok()?).ok()?;
    let bytes = fs::read(folder.join("program.json")).ok()?;
    let fits = manifest.format == FORMAT
        && manifest.digest == digest(&bytes)
        && manifest.os <= control().os_version();
    fits.then(|| serde_json::from_slice(&bytes).ok()).flatten()
}
