//! Compiles the kernels of the Metal device together with the program, if asked to:
//!
//!     METALLIC_METALLIB=1 cargo build --release
//!
//! It needs the Metal compiler of Apple's developer tools. Without the variable, kernels are compiled
//! by the system when they are first used, and this does nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

const ASKED: &str = "METALLIC_METALLIB";
/// As `metal/library.rs` compiles at run time: MSL 3.1, the first with `bfloat`, for macOS 14, the first
/// with that; and no fast math, which promises nothing for infinities and NaN.
const OPTIONS: [&str; 3] = ["-std=metal3.1", "-mmacosx-version-min=14.0", "-fno-fast-math"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={ASKED}");
    match asked().and_then(|asked| if asked { precompile() } else { Ok(()) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("cargo::error={ASKED}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn asked() -> Result<bool, String> {
    match env::var(ASKED).unwrap_or_default().as_str() {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        other => Err(format!("it is 0 or 1, not {other}")),
    }
}

/// A `.metallib` of each kernel file, and the table of them that `metal/precompiled.rs` includes.
fn precompile() -> Result<(), String> {
    let metal = variable("CARGO_CFG_TARGET_OS")? == "macos"
        || env::var_os("CARGO_CFG_OBJC_STANDIN").is_some();
    if !metal {
        println!("cargo::warning={ASKED} changes nothing: this target has no Metal device");
        return Ok(());
    }
    run(Command::new("xcrun").args(["-f", "metal"]))
        .map_err(|reason| format!("it needs Apple's developer tools: {reason}"))?;
    let kernels = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("src/metal/kernels");
    println!("cargo::rerun-if-changed={}", kernels.display());
    let out = PathBuf::from(variable("OUT_DIR")?);
    let mut table = String::from("const EMBEDDED: &[(&str, &[u8])] = &[\n");
    for source in sources(&kernels)? {
        let name = source.file_stem().and_then(|name| name.to_str()).ok_or("a name of no text")?;
        let library = out.join(name).with_extension("metallib");
        let mut compiler = Command::new("xcrun");
        compiler.args(["-sdk", "macosx", "metal"]).args(OPTIONS);
        run(compiler.arg("-I").arg(&kernels).arg("-o").arg(&library).arg(&source))?;
        table += &format!("    ({name:?}, include_bytes!({library:?})),\n");
    }
    table += "];\n";
    let file = out.join("metallibs.rs");
    fs::write(&file, table).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("cargo::rustc-cfg=metallic_metallib");
    Ok(())
}

/// The kernel files, in the order of their names.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "metal") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Runs a command to its end; what it said on the standard error is in the error, in one line.
fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{shown}: {}: {}", output.status, said.join(" | ")))
}
