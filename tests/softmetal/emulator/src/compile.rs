//! Calls of clang: preprocess, check the rules, compile.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crate::cache;
use crate::options::{CompileOptions, Sanitizer};
use crate::prepass::{Target, translate};

const CLANG: &str = "clang++-19";
/// Compilers that run at the same time, at most.
const PARALLEL: usize = 2;
/// The name Metal gives to source that comes as a string.
const SOURCE_NAME: &str = "program_source";

/// Checks MSL's rules of the language: address spaces, no double, no writes to constants.
///
/// # Errors
/// The compiler's messages, with lines of the source.
pub fn check_rules(source: &str, cache_dir: &Path) -> Result<(), String> {
    let work = Work::new(cache_dir)?;
    let preprocessed = work.preprocess(source)?;
    work.check(&preprocessed)
}

/// Compiles flattened MSL into a shared object in the cache, unless it is there.
pub(crate) fn library(
    source: &str,
    options: &CompileOptions,
    sanitizer: Option<Sanitizer>,
) -> Result<PathBuf, String> {
    let flags = flags(options.fast_math, sanitizer);
    let sources = cache::sources_hash();
    let checked = if options.check_rules { "checked" } else { "unchecked" };
    let parts = [source, clang_version()?, &sources, checked].into_iter();
    let key = cache::hash(parts.chain(flags.iter().copied()));
    cached(&options.cache_dir, &format!("{key}.so"), |work, object| {
        let preprocessed = work.preprocess(source)?;
        if options.check_rules {
            work.check(&preprocessed)?;
        }
        let file = work.write("kernels.cpp", &translate(&preprocessed, Target::Run)?)?;
        let mut command = work.clang();
        command.args(["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-g1", "-w"]);
        command.args(["-x", "c++", "-nostdinc", "-nostdinc++", "-fno-exceptions", "-fno-rtti"]);
        command.args(["-Xclang", "-ffloat16-excess-precision=none", "-fno-math-errno"]);
        command.args(["-rtlib=compiler-rt", "-Wl,-z,undefs"]).args(&flags);
        // Reports name the files alone.
        let map = format!("-ffile-prefix-map={}=shim", work.shim.display());
        command.arg("-fdebug-compilation-dir=.").arg(map);
        command.arg("-I").arg(&work.shim).arg("-o").arg(object).arg(file);
        run(command).map(drop)
    })
}

/// The fiber runtime as a shared object in the cache.
pub(crate) fn runtime(cache_dir: &Path) -> Result<PathBuf, String> {
    let key = cache::hash([clang_version()?, &cache::sources_hash()]);
    cached(cache_dir, &format!("runtime-{key}.so"), |work, object| {
        let mut command = work.clang();
        command.args(["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-O2", "-g1", "-w"]);
        command.args(["-pthread", "-o"]).arg(object).arg(work.shim.join(cache::RUNTIME.0));
        run(command).map(drop)
    })
}

/// The main program that runs a dispatch with a sanitizer, in the cache.
pub(crate) fn runner(cache_dir: &Path, sanitizer: Sanitizer) -> Result<PathBuf, String> {
    let key = cache::hash([clang_version()?, &cache::sources_hash()]);
    let name = format!("softmetal-run-{sanitizer:?}-{key}").to_lowercase();
    let (link, define) = match sanitizer {
        Sanitizer::Address => ("-fsanitize=address", "-DMSL_ASAN"),
        Sanitizer::Undefined => ("-fsanitize=undefined", "-DMSL_UBSAN"),
        Sanitizer::Thread => ("-fsanitize=thread", "-DMSL_TSAN"),
    };
    cached(cache_dir, &name, |work, program| {
        let object = work.dir.join("runner.o");
        let mut command = work.clang();
        // Without the sanitizer's instrumentation: fibers meet in this code in ways it must not see.
        command.args(["-std=c++17", "-c", "-O2", "-g1", "-w", "-pthread", define, "-o"]);
        command.arg(&object).arg(work.shim.join(cache::RUNNER.0));
        run(command)?;
        let mut command = work.clang();
        command.args([link, "-pthread", "-rdynamic", "-o"]).arg(program).arg(object).arg("-ldl");
        run(command).map(drop)
    })
}

/// The file `name` of the cache, built where it is absent: by one thread of this process at a time, and
/// put into place in one step.
fn cached(
    cache_dir: &Path,
    name: &str,
    build: impl FnOnce(&Work, &Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    type Locks = Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>;
    static LOCKS: OnceLock<Locks> = OnceLock::new();
    let finished = cache_dir.join(name);
    let mut locks = LOCKS.get_or_init(Mutex::default).lock().map_err(|error| error.to_string())?;
    let lock = locks.entry(finished.clone()).or_default().clone();
    drop(locks);
    let _held = lock.lock().map_err(|error| error.to_string())?;
    if finished.is_file() {
        return Ok(finished);
    }
    let work = Work::new(cache_dir)?;
    let built = work.dir.join("built");
    build(&work, &built)?;
    fs::rename(&built, &finished)
        .map_err(|error| format!("{} -> {}: {error}", built.display(), finished.display()))?;
    Ok(finished)
}

fn flags(fast_math: bool, sanitizer: Option<Sanitizer>) -> Vec<&'static str> {
    let mut flags = Vec::new();
    flags.push(if sanitizer.is_some() { "-O1" } else { "-O2" });
    // Halves are converted in hardware, and products are fused as on the GPU.
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
    {
        flags.push("-march=x86-64-v3");
    }
    flags.push("-ffp-contract=fast");
    if fast_math {
        flags.push("-ffast-math");
    }
    match sanitizer {
        // Private variables that nobody wrote hold NaNs.
        None => flags.push("-ftrivial-auto-var-init=pattern"),
        Some(Sanitizer::Address) => flags.extend([
            "-fsanitize=address",
            "-fsanitize-address-use-after-return=never",
            "-fno-omit-frame-pointer",
        ]),
        Some(Sanitizer::Undefined) => flags.extend([
            "-fsanitize=undefined",
            "-fno-sanitize=vptr,function",
            "-fno-sanitize-recover=all",
        ]),
        Some(Sanitizer::Thread) => flags.extend(["-fsanitize=thread", "-fno-omit-frame-pointer"]),
    }
    flags
}

fn clang_version() -> Result<&'static str, String> {
    static VERSION: OnceLock<Result<String, String>> = OnceLock::new();
    VERSION
        .get_or_init(|| {
            let output = Command::new(CLANG).arg("--version").output();
            let output = output.map_err(|error| {
                format!("{CLANG}: {error}; install clang-19 and libclang-rt-19-dev")
            })?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .as_deref()
        .map_err(Clone::clone)
}

/// One compilation: its folder, which goes when it ends.
struct Work {
    dir: PathBuf,
    shim: PathBuf,
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays behind is only room on the disk.
        _ = fs::remove_dir_all(&self.dir);
    }
}

impl Work {
    fn new(cache_dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(cache_dir)
            .map_err(|error| format!("creating {}: {error}", cache_dir.display()))?;
        // The compiler runs in another folder.
        let cache_dir = fs::canonicalize(cache_dir)
            .map_err(|error| format!("{}: {error}", cache_dir.display()))?;
        Ok(Self { shim: cache::shim_dir(&cache_dir)?, dir: cache::staging_dir(&cache_dir)? })
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(|error| format!("writing {}: {error}", path.display()))?;
        Ok(path)
    }

    fn clang(&self) -> Command {
        let mut command = Command::new(CLANG);
        command.current_dir(&self.dir).arg("-fno-color-diagnostics").arg("-fno-caret-diagnostics");
        command
    }

    fn preprocess(&self, source: &str) -> Result<String, String> {
        self.write(SOURCE_NAME, source)?;
        let mut command = self.clang();
        command.args(["-E", "-x", "c++", "-std=c++17", "-nostdinc", "-nostdinc++", "-undef"]);
        command.args([
            "-D__METAL__",
            "-D__METAL_VERSION__=310",
            "-D__METAL_MACOS__=1",
            "-D__HAVE_BFLOAT__=1",
        ]);
        command.arg("-I").arg(self.shim.join("stubs")).arg(SOURCE_NAME);
        run(command)
    }

    fn check(&self, preprocessed: &str) -> Result<(), String> {
        let file = self.write("check.clcpp", &translate(preprocessed, Target::Check)?)?;
        let mut command = self.clang();
        command.args([
            "-x",
            "clcpp",
            "-cl-std=clc++2021",
            "-cl-no-stdinc",
            "-target",
            "spir64",
            "-fsyntax-only",
            "-w",
        ]);
        command.args(["-Xclang", "-cl-ext=+cl_khr_fp16,-cl_khr_fp64,-__opencl_c_fp64", "-I"]);
        command.arg(&self.shim).arg(file);
        run(command).map(drop)
    }
}

/// Runs a compiler and gives its standard output.
fn run(mut command: Command) -> Result<String, String> {
    static RUNNING: Mutex<usize> = Mutex::new(0);
    static ENDED: Condvar = Condvar::new();
    let mut running = RUNNING.lock().map_err(|error| error.to_string())?;
    while *running >= PARALLEL {
        running = ENDED.wait(running).map_err(|error| error.to_string())?;
    }
    *running += 1;
    drop(running);
    let output = command.output();
    *RUNNING.lock().map_err(|error| error.to_string())? -= 1;
    ENDED.notify_one();
    let output = output
        .map_err(|error| format!("{CLANG}: {error}; install clang-19 and libclang-rt-19-dev"))?;
    if output.status.success() {
        return String::from_utf8(output.stdout).map_err(|error| error.to_string());
    }
    Err(messages(&String::from_utf8_lossy(&output.stderr)))
}

/// The compiler's messages about the source itself; all of them where there are none.
fn messages(stderr: &str) -> String {
    let about_source = |line: &&str| line.starts_with(SOURCE_NAME) || line.contains("error:");
    let kept: Vec<&str> = stderr.lines().filter(about_source).collect();
    if kept.is_empty() { stderr.to_owned() } else { kept.join("\n") }
}
