//! The folder of compiled files. A file is named by a hash of all that went into it, and appears there
//! complete: it is written beside and renamed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// The parts of the shim and the runtime, by file name.
pub(crate) const SOURCES: [(&str, &str); 13] = [
    ("abi.h", include_str!("../runtime/abi.h")),
    ("launch.h", include_str!("../runtime/launch.h")),
    ("fiber.h", include_str!("../runtime/fiber.h")),
    ("fault.h", include_str!("../runtime/fault.h")),
    ("worker.h", include_str!("../runtime/worker.h")),
    ("base.h", include_str!("../shim/base.h")),
    ("bfloat.h", include_str!("../shim/bfloat.h")),
    ("vec.h", include_str!("../shim/vec.h")),
    ("math.h", include_str!("../shim/math.h")),
    ("simd.h", include_str!("../shim/simd.h")),
    ("matrix.h", include_str!("../shim/matrix.h")),
    ("atomic.h", include_str!("../shim/atomic.h")),
    ("entry.h", include_str!("../shim/entry.h")),
];
/// The shim's main header.
pub(crate) const MAIN_HEADER: (&str, &str) = ("msl.h", include_str!("../shim/msl.h"));
/// The runtime's translation unit.
pub(crate) const RUNTIME: (&str, &str) = ("runtime.cpp", include_str!("../runtime/runtime.cpp"));
/// The main program of sanitizer runs; it includes the runtime.
pub(crate) const RUNNER: (&str, &str) = ("runner.cpp", include_str!("../runtime/runner.cpp"));

/// Names of Metal's headers; the preprocessor finds them empty.
const STUBS: [&str; 16] = [
    "metal_stdlib",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_atomic",
    "metal_math",
    "metal_compute",
    "metal_integer",
    "metal_common",
    "metal_geometric",
    "metal_relational",
    "metal_types",
    "metal_limits",
    "metal_array",
    "metal_numeric",
    "metal_quadgroup",
    "metal_pack",
];

/// A hash of texts, as hexadecimal digits.
pub(crate) fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of the shim and the runtime.
pub(crate) fn sources_hash() -> String {
    let all = SOURCES.iter().chain([&MAIN_HEADER, &RUNTIME, &RUNNER]);
    hash(all.flat_map(|(name, text)| [*name, *text]))
}

/// A folder with the shim, the runtime and empty Metal headers.
pub(crate) fn shim_dir(cache: &Path) -> Result<PathBuf, String> {
    let dir = cache.join(format!("shim-{}", sources_hash()));
    if dir.is_dir() {
        return Ok(dir);
    }
    let staging = staging_dir(cache)?;
    let stubs = staging.join("stubs");
    let written = || -> std::io::Result<()> {
        fs::create_dir_all(&stubs)?;
        for (name, text) in SOURCES.iter().chain([&MAIN_HEADER, &RUNTIME, &RUNNER]) {
            fs::write(staging.join(name), text)?;
        }
        for stub in STUBS {
            fs::write(stubs.join(stub), "")?;
        }
        // Another process may have been faster; its folder is the same.
        if fs::rename(&staging, &dir).is_err() {
            fs::remove_dir_all(&staging)?;
        }
        Ok(())
    };
    written().map_err(|error| format!("writing the shim into {}: {error}", dir.display()))?;
    Ok(dir)
}

/// A path that no other thread or process uses.
pub(crate) fn unique(cache: &Path, stem: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    cache.join(format!("{stem}-{}-{count}", process::id()))
}

/// A new, empty folder for one compilation.
pub(crate) fn staging_dir(cache: &Path) -> Result<PathBuf, String> {
    let dir = unique(cache, "staging");
    fs::create_dir_all(&dir).map_err(|error| format!("creating {}: {error}", dir.display()))?;
    Ok(dir)
}
