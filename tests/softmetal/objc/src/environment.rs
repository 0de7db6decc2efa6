//! The environment variables of the stand-ins, read once, when the switchboard is made. What is not set
//! keeps its default, the strictest.
//!
//! - `SOFTMETAL_CACHE`: folder of compiled kernels
//! - `SOFTMETAL_ORDER`: `forward`, `reverse`, or a number that shuffles the threads of a threadgroup
//! - `SOFTMETAL_STRICT`, `SOFTMETAL_POISON`: `0` or `1`
//! - `SOFTMETAL_FAST_MATH`: `1` compiles kernels with fast math, whatever the program asks for
//! - `SOFTMETAL_GUARD`: `0` turns off guard pages, which copy every buffer for each dispatch: for models of
//!   real size
//! - `SOFTMETAL_SANITIZER`: `address`, `undefined` or `thread`; each dispatch is then a process of its own
//! - `SOFTMETAL_OS`: the macOS that is played, as `14.0`, `15.0` or `26.0`
//! - `SOFTMETAL_BACKTRACE`: `1` prints a backtrace when the process is ended

use softmetal_emulator::{CompileOptions, FiberOrder, Sanitizer};

use crate::gates::Version;

/// What the variables say.
pub(crate) struct Environment {
    pub(crate) kernels: CompileOptions,
    pub(crate) os: Version,
    pub(crate) backtrace: bool,
}

/// Reads the variables. A value that means nothing ends the process, as a silent default would test
/// something else than what was asked for.
pub(crate) fn read() -> Environment {
    let folder = std::env::var_os("SOFTMETAL_CACHE")
        .map_or_else(|| std::env::temp_dir().join("softmetal-kernels"), Into::into);
    let mut kernels = CompileOptions::new(folder);
    if let Some(order) = variable("SOFTMETAL_ORDER") {
        kernels.order = match order.as_str() {
            "forward" => FiberOrder::Forward,
            "reverse" => FiberOrder::Reverse,
            seed => {
                FiberOrder::Random(seed.parse().unwrap_or_else(|_| wrong("SOFTMETAL_ORDER", seed)))
            }
        };
    }
    kernels.sanitizer = variable("SOFTMETAL_SANITIZER").map(|name| match name.as_str() {
        "address" => Sanitizer::Address,
        "undefined" => Sanitizer::Undefined,
        "thread" => Sanitizer::Thread,
        other => wrong("SOFTMETAL_SANITIZER", other),
    });
    kernels.strict = switch("SOFTMETAL_STRICT", kernels.strict);
    kernels.guard = switch("SOFTMETAL_GUARD", kernels.guard);
    kernels.poison = switch("SOFTMETAL_POISON", kernels.poison);
    kernels.fast_math = switch("SOFTMETAL_FAST_MATH", kernels.fast_math);
    let os = variable("SOFTMETAL_OS").map_or((15, 0), |text| {
        let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
        let part = |part: &str| part.parse().unwrap_or_else(|_| wrong("SOFTMETAL_OS", &text));
        (part(major), part(minor))
    });
    Environment { kernels, os, backtrace: switch("SOFTMETAL_BACKTRACE", false) }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn switch(name: &str, default: bool) -> bool {
    match variable(name).as_deref() {
        None => default,
        Some("0") => false,
        Some("1") => true,
        Some(other) => wrong(name, other),
    }
}

#[allow(clippy::print_stderr)]
fn wrong(name: &str, value: &str) -> ! {
    // The switchboard is being made, so this cannot ask it whether to print a backtrace.
    eprintln!("softmetal: {name}={value} means nothing");
    std::process::abort()
}
