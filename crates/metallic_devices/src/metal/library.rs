//! `.metal` files: embedded in the program, flattened, compiled by Metal at first use; or compiled with
//! the program, where it was built so (`precompiled`).
//!
//! Metal compiles a text without knowing any folder, so `#include "…"` of the shared headers is
//! resolved here. `#line` lines keep the compiler's messages pointing at the files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metallic::{Error, Result};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::{available, sel};
use objc2_foundation::NSString;
use objc2_metal::{
    MTLCompileOptions, MTLDevice, MTLLanguageVersion, MTLLibrary, MTLMathFloatingPointFunctions,
    MTLMathMode,
};

use super::command_buffer::error_text;
use super::precompiled::{self, Precompiled};

/// A `.metal` file of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The file's name without `.metal`; unique.
    pub(crate) name: &'static str,
    /// Its text.
    pub(crate) text: &'static str,
}

/// The embedded file `kernels/$name.metal` as a [`Source`].
macro_rules! kernel_source {
    ($name:literal) => {
        $crate::metal::library::Source {
            name: $name,
            text: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/metal/kernels/",
                $name,
                ".metal"
            )),
        }
    };
}
pub(crate) use kernel_source;

/// What `.metal` files may include.
const HEADERS: [(&str, &str); 5] = [
    ("common.h", include_str!("kernels/common.h")),
    ("dequantize.h", include_str!("kernels/dequantize.h")),
    ("gemm.h", include_str!("kernels/gemm.h")),
    ("linear.h", include_str!("kernels/linear.h")),
    ("sdpa.h", include_str!("kernels/sdpa.h")),
];

/// The text of `source` with each header in place of its first `#include "…"`.
///
/// # Errors
/// [`Error::Compile`] for a header that is not embedded.
pub(crate) fn flatten(source: &Source) -> Result<String> {
    let mut flat = String::new();
    append(&mut flat, &mut Vec::new(), &format!("{}.metal", source.name), source.text)?;
    Ok(flat)
}

fn append(flat: &mut String, seen: &mut Vec<String>, file: &str, text: &str) -> Result<()> {
    let enter = |flat: &mut String, line: usize| {
        flat.push_str(&format!("#line {line} \"{file}\"\n"));
    };
    enter(flat, 1);
    for (number, line) in text.lines().enumerate() {
        let included = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        let Some(header) = included else {
            // Headers come once; Metal's compiler warns of the pragma in a text of its own.
            flat.push_str(if line == "#pragma once" { "" } else { line });
            flat.push('\n');
            continue;
        };
        let known = HEADERS.iter().find(|(name, _)| *name == header);
        let unknown = || {
            let reason = format!("it includes {header}, which is not embedded");
            Error::Compile { key: file.to_owned(), reason }
        };
        let (_, text) = known.ok_or_else(unknown)?;
        if !seen.iter().any(|name| name == header) {
            seen.push(header.to_owned());
            append(flat, seen, header, text)?;
        }
        enter(flat, number + 2);
    }
    Ok(())
}

/// An `MTLLibrary`, which Metal lets any thread use.
pub(crate) type Library = Retained<ProtocolObject<dyn MTLLibrary>>;

/// The compiled files of one device, each compiled once.
pub(crate) struct Libraries {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    precompiled: Precompiled,
    /// Whether nothing is taken from there: none is embedded, or one could not be loaded.
    from_source: AtomicBool,
    compiled: Mutex<HashMap<&'static str, Arc<OnceLock<Result<Library>>>>>,
}

impl Libraries {
    pub(crate) fn new(device: Retained<ProtocolObject<dyn MTLDevice>>) -> Self {
        Self::with(device, Precompiled::EMBEDDED)
    }

    fn with(device: Retained<ProtocolObject<dyn MTLDevice>>, precompiled: Precompiled) -> Self {
        let from_source = AtomicBool::new(precompiled.first().is_none());
        let libraries = Self { device, precompiled, from_source, compiled: Mutex::default() };
        // One is loaded at once: what is said of kernels is then true before the first of them runs.
        if let Some(bytes) = precompiled.first() {
            libraries.load("the first", bytes);
        }
        libraries
    }

    /// Where kernels come from.
    pub(crate) fn origin(&self) -> &'static str {
        if self.from_source.load(Ordering::Relaxed) {
            "kernels: compiled at run time"
        } else {
            "kernels: precompiled"
        }
    }

    /// The device that runs them.
    pub(crate) fn device(&self) -> &ProtocolObject<dyn MTLDevice> {
        &self.device
    }

    /// The library of `source`. Threads that ask for one at the same time compile it once.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log, at every call.
    pub(crate) fn get(&self, source: &Source) -> Result<Library> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(compiled.entry(source.name).or_default());
        drop(compiled);
        cell.get_or_init(|| self.compile(source)).clone()
    }

    /// A precompiled library. One that cannot be loaded ends the use of all.
    fn load(&self, name: &str, bytes: &[u8]) -> Option<Library> {
        let loaded = precompiled::load(&self.device, bytes);
        if let Err(reason) = &loaded {
            self.from_source.store(true, Ordering::Relaxed);
            tracing::warn!(
                name,
                reason,
                "a precompiled kernel file cannot be loaded: kernels are compiled at run time"
            );
        }
        loaded.ok()
    }

    fn compile(&self, source: &Source) -> Result<Library> {
        let embedded = self.precompiled.bytes(source.name);
        let embedded = embedded.filter(|_| !self.from_source.load(Ordering::Relaxed));
        if let Some(library) = embedded.and_then(|bytes| self.load(source.name, bytes)) {
            return Ok(library);
        }
        let _span = tracing::debug_span!("metal_compile", file = source.name).entered();
        let text = flatten(source)?;
        autoreleasepool(|_| {
            let (text, options) = (NSString::from_str(&text), options());
            self.device.newLibraryWithSource_options_error(&text, Some(&options)).map_err(|error| {
                let key = format!("{}.metal", source.name);
                Error::Compile { key, reason: error_text(&error) }
            })
        })
    }
}

/// Fast math is Metal's default and promises nothing for infinities and NaN, which masks are
/// made of. MSL 3.1 (macOS 14) is the first with `bfloat`.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_1);
    if available!(macos = 15.0, ..) && options.respondsToSelector(sel!(setMathMode:)) {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    } else {
        #[expect(deprecated, reason = "the only way before macOS 15")]
        options.setFastMathEnabled(false);
    }
    options
}

#[cfg(test)]
mod tests {
    use objc2_metal::MTLCreateSystemDefaultDevice;

    use super::*;

    const ADD: Source = Source { name: "add", text: "kernel void from_source() {}" };

    /// Libraries with `table` embedded, where they come from, and the functions of `add`.
    fn functions(table: &'static [(&'static str, &'static [u8])]) -> (&'static str, Vec<String>) {
        let device = MTLCreateSystemDefaultDevice().unwrap();
        let libraries = Libraries::with(device, Precompiled::of(table));
        let library = libraries.get(&ADD).unwrap();
        let names = library.functionNames().iter().map(|name| name.to_string()).collect();
        (libraries.origin(), names)
    }

    #[test]
    #[cfg(objc_standin)] // Apple's libraries hold no source.
    fn what_is_precompiled_is_taken_from_there() {
        let found = functions(&[("add", b"MTLB\nkernel void precompiled() {}")]);
        assert_eq!(found, ("kernels: precompiled", vec!["precompiled".to_owned()]));
    }

    #[test]
    fn a_library_that_cannot_be_loaded_is_compiled_from_source() {
        let from_source = ("kernels: compiled at run time", vec!["from_source".to_owned()]);
        assert_eq!(functions(&[]), from_source);
        assert_eq!(functions(&[("add", b"nothing of Metal's")]), from_source);
        assert_eq!(functions(&[("add", b"")]), from_source);
    }

    #[test]
    #[cfg(objc_standin)] // Apple's libraries hold no source.
    fn the_first_one_that_cannot_be_loaded_ends_the_use_of_all() {
        let device = MTLCreateSystemDefaultDevice().unwrap();
        const TABLE: &[(&str, &[u8])] =
            &[("other", b"MTLB\nkernel void other() {}"), ("add", b"nothing of Metal's")];
        let libraries = Libraries::with(device, Precompiled::of(TABLE));
        assert_eq!(libraries.origin(), "kernels: precompiled");
        libraries.get(&ADD).unwrap();
        assert_eq!(libraries.origin(), "kernels: compiled at run time");
    }

    #[test]
    fn headers_come_once_and_lines_keep_their_numbers() {
        let text = "#include \"common.h\"\nkernel void f() {}\n#include \"common.h\"\n// end\n";
        let flat = flatten(&Source { name: "sample", text }).unwrap();
        assert_eq!(flat.matches("#line 1 \"common.h\"").count(), 1);
        assert!(flat.contains("#line 2 \"sample.metal\"\nkernel void f() {}\n"));
        assert!(flat.ends_with("#line 4 \"sample.metal\"\n// end\n"));
        let error = flatten(&Source { name: "sample", text: "#include \"none.h\"" }).unwrap_err();
        assert!(error.to_string().contains("none.h"), "{error}");
    }
}
